"""Measured statistics of seeded layers, written by the forward pass into preallocated buffers.

One copy to the host a report.

Positions of a convolution or sequence count as samples. Cost is bounded: of many samples a fixed
selection is measured, and of wide chunks a fixed selection of channels for the correlation. Seeds
whose chunks have the same width are measured at once. Shape legend: N samples, O output channels, C
chunk width, K channels that are correlated, G seeds of a group, S seeds of all layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

COLUMNS: Final = ("activation_variance", "dead_ratio", "correlation", "gradient_norm")
DEAD_VARIANCE: Final = 1e-8  # a feature that varies less over the batch carries nothing
SAMPLES: Final = 1024  # samples that are measured at most
ELEMENTS: Final = (
    1 << 15
)  # numbers that are measured at most, unless that leaves fewer than LEAST samples
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
    """Samples [N, O] of a layer's output with its channels at `dim`: all of them, or every k-th in
    the order of batch and positions.

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
    if positions == 1:
        return by_position[::every, :, 0]
    taken = torch.arange(0, total, every, device=output.device)
    return by_position[taken // positions, :, taken % positions]


class Group(NamedTuple):
    """Neighbouring seeds of a layer whose chunks have the same width: their rows, their channels,
    and the width.
    """

    seeds: slice
    channels: slice
    width: int


def groups(chunks: Sequence[int]) -> tuple[Group, ...]:
    """The chunks of a layer, as few groups as can be."""
    merged: list[Group] = []
    seed = channel = 0
    for width, same in itertools.groupby(chunks):
        count = len(list(same))
        merged.append(
            Group(slice(seed, seed + count), slice(channel, channel + count * width), width)
        )
        seed, channel = seed + count, channel + count * width
    return tuple(merged)


class LayerStatistics:
    """Figures of one layer: a view of the model's buffer, one row a seed."""

    def __init__(self, rows: Tensor, chunks: tuple[int, ...], dim: int = -1) -> None:
        self.rows = rows
        self._groups = groups(chunks)
        self._dim = dim

    @torch.no_grad()
    def observe(self, output: Tensor) -> None:
        """Write variance, dead ratio and correlation of a layer's output, in float32 whatever the
        forward runs in.
        """
        with torch.autocast(output.device.type, enabled=False):
            self._observe(samples(output.detach(), self._dim).float())

    def _observe(self, flat: Tensor) -> None:
        count = len(flat)
        centred = flat - flat.mean(0)
        # divided by N, not N - 1: only so `pairs / N` below is Pearson's coefficient
        variance = centred.square().mean(0)
        # added, so that a dead feature divides by no zero and correlates with nothing
        unit = centred.div_(variance.sqrt().add_(DEAD_VARIANCE))
        for seeds, channels, width in self._groups:
            spread = variance[channels].reshape(-1, width)  # [G, C]
            some = (
                unit[:, channels]
                .reshape(count, -1, width)[:, :, :: -(-width // CORRELATED)]
                .movedim(1, 0)
            )  # [G, N, K]
            pairs = torch.bmm(some.mT, some).abs_()
            # less the diagonal: each channel correlates fully with itself
            others = pairs.sum((1, 2)) - pairs.diagonal(dim1=1, dim2=2).sum(1)
            kept = some.shape[2]
            self.rows[seeds, 0] = spread.mean(1)
            self.rows[seeds, 1] = (spread < DEAD_VARIANCE).float().mean(1)
            # a chunk of one channel has no pair
            self.rows[seeds, 2] = others / (count * max(kept * (kept - 1), 1))

    @torch.no_grad()
    def observe_gradient(self, gradient: Tensor) -> None:
        """Write the norm of each seed's rows of the gradient [O, ...] of the layer's weight."""
        for seeds, channels, _ in self._groups:
            self.rows[seeds, 3] = torch.linalg.vector_norm(
                # float32: the norm of a large row leaves float16's range
                gradient[channels].float().reshape(seeds.stop - seeds.start, -1),
                dim=1,
            )


class StatisticsBuffer:
    """The figures of all seeds of a model in one tensor [S, 4].

    `layers` gives chunks and channel dimension of each layer.
    """

    def __init__(
        self, layers: dict[str, tuple[tuple[int, ...], int]], device: torch.device
    ) -> None:
        self._buffer = torch.zeros(
            (sum(len(sizes) for sizes, _ in layers.values()), len(COLUMNS)), device=device
        )
        self.layers: dict[str, LayerStatistics] = {}
        first = 0
        for name, (sizes, dim) in layers.items():
            # views of one buffer: a report costs one copy from the device, however many layers
            # there are
            self.layers[name] = LayerStatistics(
                self._buffer[first : first + len(sizes)], sizes, dim
            )
            first += len(sizes)

    def read(self) -> dict[tuple[str, int], SeedStatistics]:
        """Copy the buffer to the host once and name its rows by (layer, seed)."""
        rows = iter(self._buffer.tolist())
        return {
            (name, index): SeedStatistics(*next(rows))
            for name, layer in self.layers.items()
            for index in range(len(layer.rows))
        }
