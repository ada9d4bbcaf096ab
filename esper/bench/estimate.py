"""From timings to a figure with its interval: medians, quantiles and ratios with bootstrap
intervals of 95 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

_RESAMPLES = 400
_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that holds it with 95 % confidence (percentile bootstrap, Efron
    1979).
    """

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, low, high)


def exactly(value: float) -> Estimate:
    """A count, or something measured once: no interval."""
    return Estimate(value, value, value)


def median(samples: Samples) -> Estimate:
    """The median of independent samples [N]."""
    return _bootstrap(lambda indices: np.median(samples[indices], axis=-1), len(samples))


def p99(samples: Samples) -> Estimate:
    """The 99th percentile of independent samples [N]."""
    return _bootstrap(lambda indices: np.quantile(samples[indices], 0.99, axis=-1), len(samples))


def overhead(changed: Samples, plain: Samples) -> Estimate:
    """Median of the paired relative differences of rounds [N], in percent: the two of a round were
    measured side by side.
    """
    # paired first: what slows the machine for a while slows both of a round
    return median((changed - plain) / plain * 100)


def difference(changed: Samples, plain: Samples) -> Estimate:
    """Median of the paired differences of rounds [N], in the samples' unit."""
    return median(changed - plain)


def rate(count: int, seconds: Samples) -> Estimate:
    """Things a second, from the seconds [N] that `count` of them took in each round."""
    return median(count / seconds)


def _bootstrap(
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]], count: int
) -> Estimate:
    """The statistic of all samples, and its interval over resamples.

    `statistic` takes indices [..., N]. The draws are the same each time.
    """
    # seeded: two reports of the same samples have the same interval
    draws = np.random.default_rng(0).integers(0, count, size=(_RESAMPLES, count))
    low, high = np.quantile(statistic(draws), (_LOW, _HIGH))
    return Estimate(float(statistic(np.arange(count))), float(low), float(high))
