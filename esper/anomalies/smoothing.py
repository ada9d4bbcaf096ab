"""The usual value of a series and its spread, from a stream with outliers.

Robust exponential smoothing (Gelper, Fried and Croux 2010, "Robust forecasting with exponential and
Holt-Winters smoothing"): each value is drawn to two standard deviations from the level before it
counts, and the spread follows a bounded function. One outlier moves the level no further than an
ordinary value does. It begins with median and MAD (median absolute deviation).
"""

from __future__ import annotations

import math
from statistics import median
from typing import NamedTuple

WARM_UP = 30
"""Values before the level means anything."""
_BOUND = 2.0  # standard deviations, and its consistency factor in the paper
_CONSISTENCY = 2.52
_MAD = 1.4826  # makes the MAD of a normal distribution its standard deviation
_SPREAD_RATE = 0.05
_LEAST_SPREAD = 0.02  # of a logarithm: noise of 2 %


class Smoothed(NamedTuple):
    """Level and spread of a series of logarithms; both 0 until `WARM_UP` values have come."""

    level: float = 0.0
    spread: float = 0.0
    first: tuple[float, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the level means anything yet."""
        return self.spread > 0.0

    def deviation(self, value: float) -> float:
        """How many standard deviations `value` is above the level."""
        return (value - self.level) / self.spread

    def after(self, value: float, rate: float) -> Smoothed:
        """With one more value; `rate` is the weight of the newest."""
        if self.spread <= 0.0:
            first = (*self.first, value)
            return Smoothed(first=first) if len(first) < WARM_UP else _beginning(first)
        deviation = (value - self.level) / self.spread
        if -_BOUND <= deviation <= _BOUND:
            drawn = deviation
            square = 1 - (1 - (deviation / _BOUND) ** 2) ** 3
        else:
            drawn = math.copysign(_BOUND, deviation)
            square = 1.0
        spread = self.spread * math.sqrt(1 + _SPREAD_RATE * (_CONSISTENCY * square - 1))
        return Smoothed(self.level + rate * drawn * self.spread, max(spread, _LEAST_SPREAD))


def _beginning(first: tuple[float, ...]) -> Smoothed:
    level = median(first)
    return Smoothed(level, max(_MAD * median(abs(one - level) for one in first), _LEAST_SPREAD))


RATE = 0.05
"""Weight of the newest value: about the last twenty count."""
