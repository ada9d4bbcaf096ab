"""EagerAdamW is torch's AdamW without the import of the compiler."""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from torch import Tensor, nn

from esper.kasmina.adamw import EagerAdamW

STEPS = """
import json, sys
import torch
from esper.kasmina.adamw import EagerAdamW
weight = torch.nn.Parameter(torch.ones(3))
optimizer = EagerAdamW([weight], lr=0.1)
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    weight.square().sum().backward()
    optimizer.step()
print(json.dumps(["torch._dynamo" in sys.modules, weight.tolist()]))
"""


def trained(optimizer: type[torch.optim.AdamW]) -> list[Tensor]:
    """A small network after 20 steps of it, and all its optimizer state."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    inputs, own = torch.randn(20, 11, 5), optimizer(net.parameters(), lr=3e-2, weight_decay=1e-2)
    for number, batch in enumerate(inputs):
        own.param_groups[0]["lr"] = 3e-2 / (1 + number)
        own.zero_grad(set_to_none=True)
        net(batch).square().mean().backward()
        own.step()
    return [
        *net.state_dict().values(),
        *(value for state in own.state.values() for value in state.values()),
    ]


def test_it_gives_the_bits_of_torchs_own() -> None:
    """Parameters, moments and counts are equal after 20 steps with a changing rate."""
    ours, theirs = trained(EagerAdamW), trained(torch.optim.AdamW)
    assert len(ours) == 4 + 4 * 3
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_closure_is_called_and_its_loss_given_back() -> None:
    """As with torch's own, where a gradient is taken inside the closure."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = EagerAdamW([weight], lr=0.5)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert float(weight.detach()) < 2.0


def test_a_process_that_steps_has_not_imported_the_compiler() -> None:
    """After two steps torch._dynamo is not there: it costs a third of a start."""
    out = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, timeout=600
    ).stdout
    imported, weight = json.loads(out)
    assert not imported
    assert weight[0] < 1.0
