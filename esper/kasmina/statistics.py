"""Measured statistics of seeded layers, written by the forward pass into preallocated buffers; one copy to the host a report.

Positions of a convolution or sequence count as samples. Cost is bounded: of many samples a fixed selection is measured, and of wide chunks
a fixed selection of channels for the correlation.
Shape legend: N samples, O output channels, C chunk width, S seeds of all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

COLUMNS: Final = ("activation_variance", "dead_ratio", "correlation", "gradient_norm")
DEAD_VARIANCE: Final = 1e-8  # a feature that varies less over the batch carries nothing
SAMPLES: Final = 1024  # samples that are measured at most
ELEMENTS: Final = 1 << 15  # numbers that are measured at most, unless that leaves fewer than LEAST samples
LEAST: Final = 64
CORRELATED: Final = 64  # channels of a chunk that are correlated at most


@dataclass(frozen=True, slots=True)
class SeedStatistics:
    """One seed's figures at the last sampled step; meanings as in SeedHealth."""

    activation_variance: float
    dead_ratio: float
    correlation: float
    gradient_norm: float


def samples(output: Tensor, dim: int) -> Tensor:
    """Samples [N, O] of a layer's output with its channels at `dim`: all of them, or every k-th in the order of batch and positions.

    k has no common factor with the number of positions, so that each position comes up.
    """
    channels = output.shape[dim]
    total = output.numel() // max(channels, 1)
    wanted = min(SAMPLES, max(LEAST, ELEMENTS // max(channels, 1)))
    positions = math.prod(output.shape[dim:]) // max(channels, 1) if dim != -1 else 1
    by_position = output.flatten(dim + 1) if dim != -1 else output.unsqueeze(-1)  # [..., O, P]
    by_position = by_position.reshape(-1, channels, positions)
    if total <= wanted:
        return by_position.movedim(1, -1).reshape(-1, channels)
    every = -(-total // wanted)
    while math.gcd(every, positions) > 1:
        every += 1
    taken = torch.arange(0, total, every, device=output.device)
    return by_position[taken // positions, :, taken % positions]


class LayerStatistics:
    """Figures of one layer: a view of the model's buffer, one row a seed."""

    def __init__(self, rows: Tensor, chunks: tuple[int, ...], dim: int = -1) -> None:
        self.rows = rows
        self._chunks = chunks
        self._dim = dim

    @torch.no_grad()
    def observe(self, output: Tensor) -> None:
        """Write variance, dead ratio and correlation of a layer's output, in float32 whatever the forward runs in."""
        with torch.autocast(output.device.type, enabled=False):
            self._observe(samples(output.detach(), self._dim).float())

    def _observe(self, flat: Tensor) -> None:
        centred = flat - flat.mean(0)
        variance = centred.square().mean(0)
        dead = (variance < DEAD_VARIANCE).float()
        unit = centred / (variance.sqrt() + DEAD_VARIANCE)
        for row, part, spread, lost in zip(
            self.rows, unit.split(self._chunks, 1), variance.split(self._chunks), dead.split(self._chunks), strict=True
        ):
            some = part[:, :: -(-part.shape[1] // CORRELATED)] if part.shape[1] > CORRELATED else part
            width = some.shape[1]
            pairs = (some.T @ some / some.shape[0]).abs()
            row[0] = spread.mean()
            row[1] = lost.mean()
            row[2] = (pairs.sum() - pairs.diagonal().sum()) / max(width * (width - 1), 1)


class StatisticsBuffer:
    """The figures of all seeds of a model in one tensor [S, 4]. `layers` gives chunks and channel dimension of each layer."""

    def __init__(self, layers: dict[str, tuple[tuple[int, ...], int]], device: torch.device) -> None:
        self._buffer = torch.zeros((sum(len(sizes) for sizes, _ in layers.values()), len(COLUMNS)), device=device)
        self.layers: dict[str, LayerStatistics] = {}
        first = 0
        for name, (sizes, dim) in layers.items():
            self.layers[name] = LayerStatistics(self._buffer[first : first + len(sizes)], sizes, dim)
            first += len(sizes)

    def read(self) -> dict[tuple[str, int], SeedStatistics]:
        """Copy the buffer to the host once and name its rows by (layer, seed)."""
        rows = iter(self._buffer.tolist())
        return {(name, index): SeedStatistics(*next(rows)) for name, layer in self.layers.items() for index in range(len(layer.rows))}
