"""Kernels of one layer on side streams of a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import GrowingModel, KernelTraining, Numerics, germinate
from esper.kasmina.seeded import layers as seeded
from esper.kasmina.seeded.side_streams import side_by_side
from tests.unit.kasmina.cases import graft


def test_on_a_cpu_calls_run_one_after_the_other() -> None:
    """There is nothing to join on a CPU: results come in the order of the calls."""
    made: list[int] = []

    def call(number: int) -> Tensor:
        made.append(number)
        return torch.tensor(number)

    results = side_by_side(
        [lambda number=number: call(number) for number in range(3)],  # type: ignore[misc]
        [torch.zeros(1)],
    )
    assert made == [0, 1, 2]
    assert [int(result) for result in results] == [0, 1, 2]


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="Side streams need a CUDA device, and torch finds none here.",
)
def test_gradients_on_side_streams_are_those_of_serial_execution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over 20 steps, kernels on side streams give the outputs and gradients that serial execution
    gives, bit for bit.
    """
    found = []
    for parallel in (True, False):
        if not parallel:
            monkeypatch.setattr(seeded, "side_by_side", lambda calls, _: [call() for call in calls])
        torch.manual_seed(0)
        numerics = Numerics(device=torch.device("cuda", torch.cuda.current_device()))
        module = germinate(
            numerics.place(
                nn.Sequential(
                    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)
                )
            ),
            seeds=8,
        )
        growing = GrowingModel(module, training=KernelTraining(), numerics=numerics)
        for name in growing.layers:
            for index in range(8):
                graft(growing, (name, index), alpha=0.5)
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        for step in range(20):
            torch.manual_seed(step)
            optimizer.zero_grad()
            growing(torch.randn(16, 3, 32, 32, device="cuda")).square().mean().backward()
            optimizer.step()
        found.append([parameter.detach().clone() for parameter in module.parameters()])
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after)
