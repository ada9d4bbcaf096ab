"""Claims about the bandit's arithmetic and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_processors.tamiyo.deciding.bandits import (
    EPSILON,
    OWN,
    Arm,
    Beta,
    Gain,
    epsilon_greedy,
    generator,
    normal_cdf,
    performance_weighted,
    sign_test,
    thompson,
    ucb,
    ucb_score,
)

GOOD, BAD = 0.7, 0.3


def play(run_seed: int, pulls: int) -> list[str]:
    """Pull by Thompson sampling from one good arm among five; the gains are alike."""
    truth = dict.fromkeys("abcde", BAD) | {"c": GOOD}
    arms = {name: Arm() for name in truth}
    chance = np.random.default_rng(run_seed)
    chosen = []
    for pull in range(pulls):
        name, _ = thompson(sorted(arms.items()), generator(run_seed, pull, "v"))
        chosen.append(name)
        success = bool(chance.random() < truth[name])
        arm = arms[name]
        arms[name] = Arm(
            arm.success.plus(success, 1 - success), arm.gain.plus(0.05) if success else arm.gain
        )
    return chosen


def test_thompson_sampling_concentrates_on_the_good_arm() -> None:
    """Of the second 150 of 300 pulls most go to the arm that succeeds most, whatever the random
    seed.
    """
    shares = [play(run_seed, 300)[150:].count("c") / 150 for run_seed in range(5)]
    assert min(shares) > 0.5
    assert sum(shares) / len(shares) > 0.75


def test_a_larger_gain_beats_a_surer_success() -> None:
    """An arm that gains a quarter of the loss every second time is preferred to one that gains a
    hundredth each time.
    """
    sure = Arm(Beta(20, 1), Gain(20, 20 * math.log(0.01)))
    large = Arm(Beta(4, 4), Gain(4, 4 * math.log(0.25)))
    picks = [
        thompson([("large", large), ("sure", sure)], generator(0, epoch, "v"))[0]
        for epoch in range(200)
    ]
    assert picks.count("large") > 190


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10_000), st.text(max_size=20))
def test_the_key_decides_the_draws(run_seed: int, epoch: int, version: str) -> None:
    """The same run seed, epoch and policy version give the same choice and draw.

    Another epoch gives other draws.
    """
    arms = [(name, Arm()) for name in "abc"]
    assert thompson(arms, generator(run_seed, epoch, version)) == thompson(
        arms, generator(run_seed, epoch, version)
    )
    assert (
        generator(run_seed, epoch, version).random()
        != generator(run_seed, epoch + 1, version).random()
    )


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_the_tail_of_the_beta_posterior(times: int, others: int) -> None:
    """`sign_test` equals the posterior probability by numerical integration, and both directions
    add up to one.
    """
    of = times + others
    grid = np.linspace(0, 1, 20_001)
    density = grid**times * (1 - grid) ** others
    density /= density.max()
    tail = np.trapezoid(density[10_000:], grid[10_000:]) / np.trapezoid(density, grid)
    assert sign_test(times, of) == pytest.approx(float(tail), abs=1e-3)
    assert sign_test(times, of) + sign_test(others, of) == pytest.approx(1.0)


@given(st.floats(-30, 30))
def test_the_normal_distribution_function_is_symmetric(z: float) -> None:
    """Phi(z) + Phi(-z) = 1, and both are probabilities."""
    assert 0 <= normal_cdf(z) <= 1
    assert normal_cdf(z) + normal_cdf(-z) == pytest.approx(1.0)


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=30))
def test_the_gain_lies_between_prior_and_what_was_seen(gains: list[float]) -> None:
    """The posterior median of a gain is never outside the span of the prior median and the
    observations, and grows surer with each.
    """
    gain, spreads = Gain(), [Gain().posterior()[1]]
    for seen in gains:
        gain = gain.plus(seen)
        spreads.append(gain.posterior()[1])
    median = Arm(gain=gain).median_gain
    assert min(*gains, 0.03) * (1 - 1e-9) <= median <= max(*gains, 0.03) * (1 + 1e-9)
    assert spreads == sorted(spreads, reverse=True)


def arm(successes: float, failures: float, *gains: float) -> Arm:
    """An arm with these trials behind it, beyond the uniform prior."""
    gain = Gain()
    for one in gains:
        gain = gain.plus(one)
    return Arm(Beta().plus(successes, failures), gain)


def test_ucb_takes_the_untried_first_and_then_the_larger_bound() -> None:
    """An arm without a pull comes before all.

    Then mean + sqrt(2 ln(total) / n) decides, so a rarely tried arm beats a better known one.
    """
    rng = generator(0, 0, "v")
    assert ucb([("known", arm(9, 1)), ("new", Arm())], rng)[0] == "new"
    known, rare = arm(30, 10), arm(1, 1)
    total = known.pulls + rare.pulls
    assert ucb_score(rare.success.mean, rare.pulls, total) == 0.5 + math.sqrt(2 * math.log(42) / 2)
    assert ucb([("known", known), ("rare", rare)], rng)[0] == "rare"
    assert ucb([("known", known), ("tried", arm(8, 32))], rng)[0] == "known"


def test_epsilon_greedy_explores_one_choice_in_ten() -> None:
    """Of 4000 choices between a good and a bad arm the bad one gets half of the share that is left
    to chance.
    """
    arms = [("bad", arm(1, 9)), ("good", arm(9, 1))]
    chosen = [epsilon_greedy(arms, generator(1, turn, "v"))[0] for turn in range(4000)]
    assert abs(chosen.count("bad") / 4000 - EPSILON / 2) < 0.015


def test_performance_weighted_draws_in_proportion_to_worth() -> None:
    """Of 4000 draws each arm gets its share of the summed worth."""
    arms = [("a", arm(8, 0, 0.2)), ("b", arm(0, 8)), ("c", arm(4, 4, 0.1))]
    total = sum(one.worth for _, one in arms)
    chosen = [performance_weighted(arms, generator(2, turn, "v"))[0] for turn in range(4000)]
    for name, one in arms:
        assert abs(chosen.count(name) / 4000 - one.worth / total) < 0.03


@pytest.mark.parametrize("name", sorted(OWN))
def test_every_bandit_is_repeated_by_its_key(name: str) -> None:
    """The same arms and the same key of randomness give the same choice, which is one of
    the arms.
    """
    arms = [("a", arm(3, 1, 0.1)), ("b", arm(1, 3)), ("c", Arm())]
    choices = [OWN[name].pick(arms, generator(3, 7, "v")) for _ in range(3)]
    assert choices[0] == choices[1] == choices[2]
    assert choices[0][0] in "abc"
    assert math.isfinite(choices[0][1])
