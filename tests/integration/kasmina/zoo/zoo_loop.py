"""A member of the zoo in a loop of its owner: `python zoo_loop.py MEMBER RUN [--resume]`.

After step KILL_AT it kills itself. Prints the stages that its seeds have at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from typing import Any

import torch

import esper
from tests.early import early
from tests.integration.kasmina.zoo.models import CLASSES, ZOO

EPOCHS, BATCHES, BATCH = 4, 5, 4
SETTINGS: dict[str, Any] = {
    "decisions": "lockstep",
    "checkpoints": {"every_steps": 3},
    **early(4, longest=40),
    "kernels": {"blend_steps": 4, "warmup_steps": 2},
}


def main(name: str, run_id: str, *, resume: bool) -> None:
    """Train."""
    warnings.simplefilter("ignore")  # what libraries warn of is theirs
    torch.set_num_threads(1)
    member, generator = ZOO[name], torch.Generator().manual_seed(5)
    samples = BATCHES * BATCH
    x, held_out = (member.inputs(generator, size) for size in (samples, 60))
    y, labels = (torch.randint(0, CLASSES, (size,), generator=generator) for size in (samples, 60))
    hosts = [row.name for row in esper.inventory(esper.germinate(member.model())) if row.seeds]
    # three layers: for each shape of a layer the foundry compiles a dozen kernels
    net = esper.germinate(member.model(), seeds=2, include=[*hosts[:2], hosts[-1]])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    kill = int(os.environ.get("KILL_AT", "-1"))
    with esper.grow(
        net,
        optimizer,
        held_out=(held_out, labels),
        steps=EPOCHS * BATCHES,
        run_id=run_id,
        resume=resume,
        **SETTINGS,
    ) as growth:
        for inputs, targets in growth.batches((x, y), batch_size=BATCH, epochs=EPOCHS):
            optimizer.zero_grad()
            growth.backward(growth.loss(inputs, targets))
            growth.step()
            optimizer.step()
            if growth.steps == kill:
                os.kill(os.getpid(), signal.SIGKILL)
    stages = [*growth.stages.values()]
    print(json.dumps({stage: stages.count(stage) for stage in sorted(set(stages))}))  # noqa: T201  # its answer


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], resume="--resume" in sys.argv)
