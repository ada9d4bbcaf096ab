"""Statistics of convolutions and sequences: positions are samples, and cost is bounded."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.seeded.statistics import CORRELATED, DEAD_VARIANCE, LayerStatistics, samples
from tests.unit.kasmina.cases import CASES


@pytest.mark.parametrize("name", ["sequence", "strided", "signal"])
def test_positions_count_as_samples(name: str) -> None:
    """Variance, dead ratio and correlation are those of a layer's channels over batch and
    positions, computed plainly.
    """
    case = CASES[name]
    growing = GrowingModel(
        germinate(nn.Sequential(case.host()[0]), seeds=3),  # type: ignore[index]
        training=KernelTraining(),
    )
    layer, seeds = growing.layers["0"], growing.layers["0"].seeds
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[0] = 0
    growing.switches.sampling = True
    output = growing.module(case.inputs(4)).detach()
    growing.switches.sampling = False
    rows = output.movedim(seeds.dim, -1).flatten(0, -2)
    figures = growing.read_statistics()
    first = 0
    for index, width in enumerate(seeds.chunks):
        part = rows[:, first : first + width]
        found = figures[("0", index)]
        assert found.activation_variance == pytest.approx(
            part.var(0, unbiased=False).mean().item(), rel=1e-4
        )
        assert found.dead_ratio == pytest.approx(1 / width if index == 0 else 0.0)
        if index:
            correlation = torch.corrcoef(part.T).abs()
            assert found.correlation == pytest.approx(
                ((correlation.sum() - width) / (width * (width - 1))).item(), rel=1e-3
            )
        first += width


@pytest.mark.parametrize("shape", [(64, 32, 16, 16), (8, 512, 28, 28), (3, 5, 700), (2000, 64)])
def test_many_samples_are_thinned_evenly(shape: tuple[int, ...]) -> None:
    """Of many samples a bounded selection is taken, the same each time, with every residue of
    positions, and its figures are near those of all.
    """
    torch.manual_seed(0)
    dim = {2: -1, 3: -2, 4: -3}[len(shape)]
    output = torch.randn(shape) + torch.linspace(-1, 1, shape[dim]).reshape(-1, *(1,) * (-dim - 1))
    taken = samples(output, dim)
    everything = output.movedim(dim, -1).flatten(0, -2)
    assert 64 <= len(taken) <= 1024
    assert torch.equal(taken, samples(output, dim))
    assert torch.allclose(taken.mean(0), everything.mean(0), atol=0.5)
    assert taken.var(0).mean().item() == pytest.approx(everything.var(0).mean().item(), rel=0.1)
    positions = math.prod(shape[dim + 1 :]) if dim != -1 else 1
    marks = (
        torch.arange(positions, dtype=torch.float32)
        .expand(shape[0], shape[dim], positions)
        .reshape(shape)
    )
    assert len(samples(marks, dim)[:, 0].unique()) >= min(positions, len(taken)) * 0.9


@pytest.mark.parametrize("chunks", [(4, 4, 4), (5, 4, 4, 5), (70, 70), (1, 2), (130,)])
def test_seeds_measured_together_have_the_figures_of_each(chunks: tuple[int, ...]) -> None:
    """Whatever the widths: variance, dead ratio and correlation of a chunk, and the norm of its
    gradient, are those of the chunk alone.
    """
    torch.manual_seed(0)
    output, gradient = (
        torch.randn(100, sum(chunks)) * torch.linspace(0.5, 2, sum(chunks)),
        torch.randn(sum(chunks), 7),
    )
    output[:, 0] = 1.0
    rows = torch.zeros(len(chunks), 4)
    layer = LayerStatistics(rows, chunks)
    layer.observe(output)
    layer.observe_gradient(gradient)
    for found, part, norm in zip(
        rows.tolist(), output.split(chunks, 1), gradient.split(chunks), strict=True
    ):
        width = part.shape[1]
        some = part[:, :: -(-width // CORRELATED)]
        unit = (some - some.mean(0)) / (some.std(0, unbiased=False) + DEAD_VARIANCE)
        pairs = (unit.T @ unit / len(unit)).abs()
        between = (pairs.sum() - pairs.trace()) / max(pairs.numel() - len(pairs), 1)
        assert found[0] == pytest.approx(part.var(0, unbiased=False).mean().item(), rel=1e-5)
        assert found[1] == pytest.approx(
            (part.var(0, unbiased=False) < DEAD_VARIANCE).float().mean().item()
        )
        assert found[2] == pytest.approx(between.item(), rel=1e-4, abs=1e-6)
        assert found[3] == pytest.approx(norm.norm().item(), rel=1e-5)
