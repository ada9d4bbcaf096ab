"""The health score of a seed, 0 to 1, from measured figures.

    score = (1 - dead_ratio) * (1 - correlation) / (1 + cv)

where `cv` is the coefficient of variation (standard deviation over mean) of the gradient norm in
its exponentially weighted window: features that are alive, differ from each other and get a steady
gradient are healthy. A seed on its fallback, or with a figure that is not finite, scores 0. The
score that is reported is smoothed with weight 0.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.kasmina.seeded.statistics import SeedStatistics

SMOOTHING = 0.1  # weight of the newest score
WINDOW = 0.05  # weight of the newest gradient norm: about the last 20 samples


@dataclass(slots=True)
class Health:
    """Running figures of one seed."""

    mean: float = 0.0
    variance: float = 0.0
    score: float = 0.0
    samples: int = 0

    def observe(self, figures: SeedStatistics, *, recovering: bool) -> float:
        """Take in one sample and return the smoothed score."""
        norm = figures.gradient_norm
        values = (norm, figures.dead_ratio, figures.correlation, figures.activation_variance)
        if all(math.isfinite(value) for value in values):
            # a plain mean at first, so that the start at zero does not count as a sample
            weight = max(WINDOW, 1 / (self.samples + 1))
            difference = norm - self.mean
            self.mean += weight * difference
            # incremental weighted variance (Finch 2009, "Incremental calculation of weighted mean
            # and variance")
            self.variance = (1 - weight) * (self.variance + weight * difference * difference)
            cv = math.sqrt(self.variance) / self.mean if self.mean > 0 else 0.0
            raw = (
                0.0
                if recovering
                # rounding can take a correlation just above 1
                else (1 - figures.dead_ratio) * (1 - min(figures.correlation, 1.0)) / (1 + cv)
            )
        else:
            # mean and variance are left alone: one NaN in them would stay forever
            raw = 0.0
        self.score = raw if not self.samples else (1 - SMOOTHING) * self.score + SMOOTHING * raw
        self.samples += 1
        return self.score
