"""Bandits over arms whose pulls succeed or fail and, when they succeed, gain something.

Pure: the generator is passed in.

Sources: Thompson 1933 (Biometrika 25); Chapelle and Li 2011 (NIPS), Beta-Bernoulli; Raj and Kalyani
2017 (arXiv 1707.09727), discounting; Auer, Cesa-Bianchi and Fischer 2002 (Machine Learning 47),
UCB1 and epsilon-greedy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeVar

import numpy as np

from esper.errors import PoisonError
from esper.plugins import BANDITS, together

K = TypeVar("K")

EPSILON = 0.1
"""Share of the choices that epsilon-greedy leaves to chance."""

FRESH_GAIN = 0.03
"""Prior median of what a kernel of `FRESH_PARAMETERS` parameters gains when it succeeds, as a
fraction of the validation loss.
"""
FRESH_PARAMETERS = 1000
LEAST_GAIN, MOST_GAIN = 1e-3, 0.3
"""Within which gains are foreseen."""
FRESH_SPREAD = 1.0
"""Prior standard deviation of the logarithm of that gain: within a factor e."""
SEEN_SPREAD = 0.5
"""Standard deviation of the logarithm of one observed gain around the arm's own."""


@dataclass(frozen=True, slots=True)
class Beta:
    """Distribution of a probability of success."""

    successes: float = 1.0
    failures: float = 1.0

    @property
    def mean(self) -> float:
        """Expected probability of success."""
        return self.successes / (self.successes + self.failures)

    def plus(self, successes: float, failures: float) -> Beta:
        """The posterior after that many more successes and failures.

        Fractions are evidence that counts for less.
        """
        return Beta(self.successes + successes, self.failures + failures)


def fresh_gain(parameters: int) -> float:
    """Prior median of what an untried kernel of that many parameters gains: in proportion to their
    square root.

    Measured by hand on the layers of two hosts (images, a table), gains rose with the power 0.4 to
    0.6 of the parameters, from 1 % of the loss at 16 to 23 % at 15,000; `docs/growth.md` has some.
    """
    return min(MOST_GAIN, max(LEAST_GAIN, FRESH_GAIN * math.sqrt(parameters / FRESH_PARAMETERS)))


@dataclass(frozen=True, slots=True)
class Gain:
    """What successes of an arm gained, as fractions of the validation loss: their number and the
    sum of their logarithms.
    """

    count: int = 0
    log_sum: float = 0.0

    def plus(self, gain: float) -> Gain:
        """With one more observed gain; less than 0.1 % counts as 0.1 %."""
        return Gain(self.count + 1, self.log_sum + math.log(max(gain, 1e-3)))

    def posterior(self, fresh: float = FRESH_GAIN) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm of the arm's gain: normal prior around the
        median `fresh`, normal observations (conjugate update).
        """
        # precisions (1 / variance) add up; the mean is the mean of prior and data weighted by them
        prior, seen = FRESH_SPREAD**-2, self.count * SEEN_SPREAD**-2
        mean = (prior * math.log(fresh) + SEEN_SPREAD**-2 * self.log_sum) / (prior + seen)
        return mean, (prior + seen) ** -0.5


@dataclass(frozen=True, slots=True)
class Arm:
    """What is known of one choice; `fresh` is the prior median of its gain."""

    success: Beta = Beta()
    gain: Gain = Gain()
    fresh: float = FRESH_GAIN

    @property
    def pulls(self) -> float:
        """Trials behind the posterior, beyond the uniform prior.

        Those of other arms and runs count by their weight.
        """
        return self.success.successes + self.success.failures - 2.0

    @property
    def median_gain(self) -> float:
        """Posterior median of the gain."""
        return math.exp(self.gain.posterior(self.fresh)[0])

    @property
    def worth(self) -> float:
        """Expected probability of success times the median gain."""
        return self.success.mean * self.median_gain

    def sample(self, generator: np.random.Generator) -> float:
        """A draw of the arm's worth: probability of success times gain."""
        mean, spread = self.gain.posterior(self.fresh)
        return float(
            generator.beta(self.success.successes, self.success.failures)
            * math.exp(generator.normal(mean, spread))
        )


def generator(run_seed: int, epoch: int, version: str) -> np.random.Generator:
    """The random generator of one decision: the same run seed, epoch and policy version give the
    same draws.
    """
    digest = int.from_bytes(hashlib.sha256(version.encode()).digest()[:8], "big")
    return np.random.Generator(
        # SeedSequence takes no negative numbers; PCG64 by name, since numpy may change its default
        np.random.PCG64(np.random.SeedSequence([run_seed & (2**64 - 1), epoch, digest]))
    )


def thompson(arms: Sequence[tuple[K, Arm]], generator: np.random.Generator) -> tuple[K, float]:
    """The arm with the largest draw, and the draw.

    The order of `arms` matters for the draws: pass them sorted.

    Raises:
        ValueError: no arms.
    """
    # the index before the key: keys need no order, and equal draws go to the first arm
    draws = [(arm.sample(generator), -index, key) for index, (key, arm) in enumerate(arms)]
    worth, _, key = max(draws, key=lambda draw: draw[:2])
    return key, worth


def ucb_score(mean: float, pulls: float, total: float) -> float:
    """UCB1: mean + sqrt(2 ln(total) / n), for a mean reward between 0 and 1.

    Infinite for an arm without a pull.
    """
    # fractions of other arms' trials can add up to less than one, whose logarithm is negative
    return mean + math.sqrt(2 * math.log(max(total, 1.0)) / pulls) if pulls > 0 else math.inf


def ucb(arms: Sequence[tuple[K, Arm]], generator: np.random.Generator) -> tuple[K, float]:
    """The arm with the largest upper confidence bound of its probability of success, and its worth.

    Of equal ones the first.

    Raises:
        ValueError: no arms.
    """
    del generator
    total = sum(arm.pulls for _, arm in arms)
    key, arm = max(arms, key=lambda item: ucb_score(item[1].success.mean, item[1].pulls, total))
    return key, arm.worth


def epsilon_greedy(
    arms: Sequence[tuple[K, Arm]], generator: np.random.Generator
) -> tuple[K, float]:
    """The arm with the largest worth, or with probability `EPSILON` any one, and its worth.

    Raises:
        ValueError: no arms.
    """
    explores = generator.random() < EPSILON
    key, arm = (
        arms[int(generator.integers(len(arms)))]
        if explores
        else max(arms, key=lambda item: item[1].worth)
    )
    return key, arm.worth


def performance_weighted(
    arms: Sequence[tuple[K, Arm]], generator: np.random.Generator
) -> tuple[K, float]:
    """An arm drawn with a probability in proportion to its worth, and its worth.

    Raises:
        ValueError: no arms.
    """
    # never all zero: the mean of a Beta and the median of a log-normal are above 0
    worth = np.array([arm.worth for _, arm in arms])
    key, arm = arms[int(generator.choice(len(arms), p=worth / worth.sum()))]
    return key, arm.worth


Choose = Callable[[Sequence[tuple[Any, Arm]], np.random.Generator], tuple[Any, float]]
"""Takes arms in order and a generator; gives a key and a value."""


@dataclass(frozen=True, slots=True)
class Bandit:
    """How an arm is chosen, by the name that recipes call it.

    Attributes:
        name: As in `tamiyo.policy.bandit`.
        choose: Takes the arms in a stable order and a generator, from which alone it draws; gives
            the key of the chosen one and what it was valued at, a finite number.
    """

    name: str
    choose: Choose = field(hash=False)

    def pick(
        self, arms: Sequence[tuple[K, Arm]], generator: np.random.Generator
    ) -> tuple[K, float]:
        """The key of the chosen arm and its value.

        Raises:
            PoisonError: `choose` gave none of the arms, or no finite value.
        """
        key, worth = self.choose(arms, generator)
        # compared with `!=`, not by hash: keys of a package's bandit may be anything
        if all(key != known_key for known_key, _ in arms) or not math.isfinite(worth):
            raise PoisonError(
                f"The bandit {self.name} chose {str(key)[:200]!r} with the value {worth}: it has "
                "to choose one of the arms, with a finite value"
            )
        return key, float(worth)


OWN: Final[Mapping[str, Bandit]] = {
    bandit.name: bandit
    for bandit in (
        Bandit("thompson", thompson),
        Bandit("ucb", ucb),
        Bandit("epsilon-greedy", epsilon_greedy),
        Bandit("performance-weighted", performance_weighted),
    )
}
"""Esper's own bandits by name; `esper.policies.OWN_BANDITS` has the same names, for trainers."""


@cache
def known() -> Mapping[str, Bandit]:
    """Esper's own bandits and those of installed packages, by name.

    Raises:
        UsageError: a package's cannot be used; the package is named.
    """
    return together(BANDITS, Bandit, OWN)


def normal_cdf(z: float) -> float:
    """Probability that a standard normal variable is at most `z`."""
    # erfc and not 1 - erf: the far tail would be rounded to 0
    return 0.5 * math.erfc(-z / math.sqrt(2))


def sign_test(times: int, of: int) -> float:
    """Posterior probability, from a uniform prior, that what happened `times` out of `of` times has
    a probability above one half.

    P(Beta(k+1, n-k+1) > 1/2) = P(Binomial(n+1, 1/2) <= k), k = `times`, n = `of`.
    """
    return float(sum(math.comb(of + 1, j) for j in range(times + 1)) / 2.0 ** (of + 1))
