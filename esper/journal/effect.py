"""The effect of a decision from paired runs: mean and 95 % interval of differences, epoch by epoch.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esper.journal.story import EpochPoint

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""0.975 quantiles of Student's t distribution for 1 to 10 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and the interval that holds the true one with 95 % confidence.

    None for a single pair, which says nothing of its spread.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Branch:
    """One run of a pair: the ends of its epochs from the fork on, and how long it took."""

    order: int
    run_id: str
    points: tuple[EpochPoint, ...]
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Effect:
    """What a decision was worth: figures with it minus figures without it, over pairs of runs with
    the same batches and random streams.

    `score` is the task's, of the name `score_name`; `higher_is_better` says which effects on it are
    gains. Of the loss, negative ones are. `curve` has (epoch, score, loss) for each epoch that all
    branches ended.
    """

    score: Interval
    score_name: str
    higher_is_better: bool
    loss: Interval
    curve: tuple[tuple[int, Interval, Interval], ...]

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "score_name": self.score_name,
            "higher_is_better": self.higher_is_better,
            self.score_name: asdict(self.score),
            "loss": asdict(self.loss),
            "curve": [
                {"epoch": epoch, self.score_name: asdict(score), "loss": asdict(loss)}
                for epoch, score, loss in self.curve
            ],
        }


def effect(with_it: Sequence[Branch], without: Sequence[Branch]) -> Effect:
    """The effect from branches that are paired by their place."""
    ends = [{point.epoch: point for point in branch.points} for branch in (*with_it, *without)]
    epochs = sorted(set(ends[0]).intersection(*ends[1:]))
    pairs = list(zip(ends[: len(with_it)], ends[len(with_it) :], strict=True))
    curve = tuple(
        (epoch, _between(pairs, epoch, "score"), _between(pairs, epoch, "loss")) for epoch in epochs
    )
    _, score, loss = curve[-1]
    last = with_it[0].points[-1]
    return Effect(score, last.score_name, last.higher_is_better, loss, curve)


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent values with Student's interval (Student 1908)."""
    count = len(values)
    # fsum rounds once: the order of pairs changes no digit
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def t_quantile(degrees: int) -> float:
    """The 0.975 quantile of Student's t: from the table, beyond it by Cornish and Fisher's
    expansion (Abramowitz and Stegun 26.7.5).
    """
    if degrees <= len(T_QUANTILES):
        return T_QUANTILES[degrees - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _between(
    pairs: Sequence[tuple[Mapping[int, EpochPoint], Mapping[int, EpochPoint]]],
    epoch: int,
    figure: str,
) -> Interval:
    return interval(
        [
            getattr(with_it[epoch], figure) - getattr(without[epoch], figure)
            for with_it, without in pairs
        ]
    )
