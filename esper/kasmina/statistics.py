"""Measured statistics of seeded layers, written by the forward pass into preallocated buffers; one copy to the host a report.

Shape legend: B samples, O output features, C chunk width, S seeds of all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

COLUMNS: Final = ("activation_variance", "dead_ratio", "correlation", "gradient_norm")
DEAD_VARIANCE: Final = 1e-8  # a feature that varies less over the batch carries nothing


@dataclass(frozen=True, slots=True)
class SeedStatistics:
    """One seed's figures at the last sampled step; meanings as in SeedHealth."""

    activation_variance: float
    dead_ratio: float
    correlation: float
    gradient_norm: float


class LayerStatistics:
    """Figures of one layer: a view of the model's buffer, one row a seed."""

    def __init__(self, rows: Tensor, chunks: tuple[int, ...]) -> None:
        self.rows = rows
        self._chunks = chunks

    @torch.no_grad()
    def observe(self, output: Tensor) -> None:
        """Write variance, dead ratio and correlation of a layer's output [..., O]."""
        flat = output.detach().flatten(0, -2).float()
        centred = flat - flat.mean(0)
        variance = centred.square().mean(0)
        dead = (variance < DEAD_VARIANCE).float()
        unit = centred / (variance.sqrt() + DEAD_VARIANCE)
        for row, part, spread, lost in zip(
            self.rows, unit.split(self._chunks, 1), variance.split(self._chunks), dead.split(self._chunks), strict=True
        ):
            width = part.shape[1]
            pairs = (part.T @ part / part.shape[0]).abs()
            row[0] = spread.mean()
            row[1] = lost.mean()
            row[2] = (pairs.sum() - pairs.diagonal().sum()) / max(width * (width - 1), 1)


class StatisticsBuffer:
    """The figures of all seeds of a model in one tensor [S, 4]."""

    def __init__(self, chunks: dict[str, tuple[int, ...]], device: torch.device) -> None:
        self._buffer = torch.zeros((sum(len(sizes) for sizes in chunks.values()), len(COLUMNS)), device=device)
        self.layers: dict[str, LayerStatistics] = {}
        first = 0
        for name, sizes in chunks.items():
            self.layers[name] = LayerStatistics(self._buffer[first : first + len(sizes)], sizes)
            first += len(sizes)

    def read(self) -> dict[tuple[str, int], SeedStatistics]:
        """Copy the buffer to the host once and name its rows by (layer, seed)."""
        rows = iter(self._buffer.tolist())
        return {(name, index): SeedStatistics(*next(rows)) for name, layer in self.layers.items() for index in range(len(layer.rows))}
