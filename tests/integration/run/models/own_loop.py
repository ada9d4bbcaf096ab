"""A script with a training loop of its own: `python own_loop.py RUN [--resume]`, or
`esper run own_loop.py`.

It draws random numbers everywhere: in the data set, in its workers, in the model. KILL_AT is the
step at which it kills itself, by the signal ASKED if there is one; MODEL_SEED makes another
model, which a resumed run must not notice; with ALONE it does not grow. Prints a digest of all that
it moved.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

import esper
from esper.tolaria.recipes.digits import data, model
from tests.early import early

EPOCHS = 7
SETTINGS: dict[str, Any] = {
    "decisions": "lockstep",
    "checkpoints": {"every_steps": 7},
    **early(20, families=["conv2d", "mlp"]),
}


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Images with noise of their own in each epoch."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.images, self.labels = pair

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return image + random.random() * 0.02 * torch.randn_like(image), self.labels[index]  # noqa: S311  # noise


def main(run_id: str, *, resume: bool) -> None:
    """Train, and print what came of it."""
    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ.get("MODEL_SEED", "2")))
    splits = data()
    net = esper.germinate(nn.Sequential(model(), nn.Dropout(0.1)), seeds=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    average = esper.AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    loader = DataLoader(Noisy(splits.train), batch_size=50, shuffle=True, num_workers=1)
    last, kill = 0, int(os.environ.get("KILL_AT", "-1"))
    # without growth, for those who ask what it was worth
    settings = SETTINGS | ({"tamiyo": {"enabled": False}} if "ALONE" in os.environ else {})
    with esper.grow(
        net,
        optimizer,
        held_out=splits.validation,
        steps=EPOCHS * len(loader),
        run_id=run_id,
        resume=resume,
        **settings,
    ) as growth:
        # made here: its constructor sets the rate, also that of a run that goes on
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
        )
        growth.register(scheduler=scheduler, average=average)
        for images, labels in growth.batches(loader, epochs=EPOCHS, after_epoch=scheduler.step):
            optimizer.zero_grad()
            growth.loss(images, labels).backward()
            growth.step()
            optimizer.step()
            average.update_parameters(net)
            last += 1
            if growth.steps == kill:
                os.kill(os.getpid(), signal.Signals[os.environ.get("ASKED", "SIGKILL")])
    digest = hashlib.sha256()
    for moved in (net, average):
        for name, value in sorted(moved.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
    print(digest.hexdigest(), optimizer.param_groups[0]["lr"], growth.report())  # noqa: T201  # its answer


if __name__ == "__main__":
    # by `esper run` it is told nothing of its run
    main(sys.argv[1] if sys.argv[1:] else "", resume="--resume" in sys.argv)
