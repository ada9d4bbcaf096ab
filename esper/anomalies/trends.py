"""Where the held-out loss of a run goes: its slope with an interval, and where that changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist, median

MOST = 400
"""Points that are looked at; of more, the latest. The work grows with their square."""
_MAD = 1.4826
_PENALTY = 3.0  # of a further piece, in units of noise variance times log of the number of points
_LEAST = 4  # points of a piece
_EXACT = 1e-9  # noise below which points lie on lines, relative to the values


@dataclass(frozen=True, slots=True)
class Slope:
    """Change of a series from one point to the next.

    Attributes:
        slope: The median of all pairs.
        low: Lower end of the confidence interval.
        high: Upper end.
        points: How many points it rests on.
    """

    slope: float
    low: float
    high: float
    points: int

    @property
    def direction(self) -> str:
        """`falls` or `rises` where the interval leaves out 0, else `level`."""
        return "falls" if self.high < 0 else "rises" if self.low > 0 else "level"


def slope(values: Sequence[float], confidence: float = 0.95) -> Slope | None:
    """The slope of the finite values, robust to outliers; None for fewer than three.

    The median of the slopes of all pairs, with an interval from Kendall's statistic (Theil 1950;
    Sen 1968, "Estimates of the regression coefficient based on Kendall's tau").
    """
    points = [(at, one) for at, one in enumerate(values) if math.isfinite(one)][-MOST:]
    count = len(points)
    if count < 3:
        return None
    slopes = sorted(
        (later[1] - one[1]) / (later[0] - one[0])
        for number, one in enumerate(points)
        for later in points[number + 1 :]
    )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    spread = z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, round((len(slopes) - spread) / 2) - 1)
    high = min(len(slopes) - 1, round((len(slopes) + spread) / 2))
    return Slope(median(slopes), slopes[low], slopes[high], count)


def change_points(values: Sequence[float]) -> list[int]:
    """Places in `values` from which on the series follows another line.

    The best pieces of straight lines, each further one at a price (optimal partitioning: Jackson et
    al. 2005, "An algorithm for optimal partitioning of data on an interval"). The noise is measured
    by the MAD of second differences. Values that are not finite are left out.
    """
    points = [(at, one) for at, one in enumerate(values) if math.isfinite(one)][-MOST:]
    series = [one for _, one in points]
    if len(series) < 2 * _LEAST:
        return []
    bends = [series[at] - 2 * series[at + 1] + series[at + 2] for at in range(len(series) - 2)]
    # a second difference of independent values has six times their variance
    noise = _MAD * median(abs(one) for one in bends) / math.sqrt(6)
    noise = max(noise, _EXACT * max(abs(one) for one in series), math.ulp(0.0))
    costs = _LineCosts([one / noise for one in series])
    price = _PENALTY * math.log(len(series))
    best, came = [-price], [0]
    for end in range(1, len(series) + 1):
        starts = [one for one in range(end - _LEAST + 1) if one == 0 or one >= _LEAST]
        options = [(best[one] + costs.of(one, end) + price, one) for one in starts]
        least = min(options, default=(math.inf, 0))
        best.append(least[0])
        came.append(least[1])
    found: list[int] = []
    at = came[-1]
    while at > 0:
        found.append(points[at][0])
        at = came[at]
    return found[::-1]


class _LineCosts:
    """Squared distances of any stretch of a series from its best line, each in constant time."""

    def __init__(self, series: Sequence[float]) -> None:
        middle = sum(series) / len(series)
        centred = [one - middle for one in series]
        self._y = [0.0, *accumulate(centred)]
        self._yy = [0.0, *accumulate(one * one for one in centred)]
        self._xy = [0.0, *accumulate(at * one for at, one in enumerate(centred))]

    def of(self, start: int, end: int) -> float:
        """The cost of the values from `start` up to, without, `end`."""
        count = end - start
        y = self._y[end] - self._y[start]
        centre = start + (count - 1) / 2
        xy = self._xy[end] - self._xy[start] - centre * y
        xx = count * (count * count - 1) / 12
        yy = self._yy[end] - self._yy[start] - y * y / count
        return max(0.0, yy - (xy * xy / xx if xx else 0.0))
