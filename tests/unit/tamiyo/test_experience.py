"""Claims about what is carried from run to run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.clock import ManualClock
from esper.events import Origin
from esper.events.records import AdaptationOutcome, Verdict
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.experience import HALF_LIFE_US, STRONGEST, Experience

NOW = 1_700_000_000_000_000


def outcome(
    number: int,
    *,
    reward: float = 1.0,
    verdict: Verdict = "FOSSILIZED",
    run_id: str = "r",
    age_us: int = 0,
) -> AdaptationOutcome:
    """An outcome in context c."""
    origin = Origin(run_id, "tamiyo", "0" * 32, ManualClock(NOW - age_us))
    return AdaptationOutcome(
        **origin.envelope(f"outcome/{number}"),
        epoch=10,
        step=400,
        decision_id=f"decision-{number}",
        layer="0",
        seed=0,
        kernel_id="k",
        family="mlp",
        context="c",
        verdict=verdict,
        reward=reward,
        shadow_gap=0.1,
    )


def prior(*outcomes: AdaptationOutcome, run_id: str = "other") -> Beta:
    """The prior for a run after these outcomes."""
    experience = Experience()
    for each in outcomes:
        experience.take(each, at_us=NOW)
    return experience.prior("c", run_id=run_id, now_us=NOW)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.sampled_from([0.0, 1.0]), st.integers(0, 10 * HALF_LIFE_US)
        ),
        max_size=30,
    ),
    st.randoms(),
)
def test_order_and_repetition_do_not_matter(
    drawn: list[tuple[int, float, int]], shuffler: object
) -> None:
    """The same outcomes in any order and any number of times give the same prior, which is never
    stronger than `STRONGEST` trials.
    """
    unique = {number: outcome(number, reward=reward, age_us=age) for number, reward, age in drawn}
    repeated = [*unique.values(), *unique.values()]
    shuffler.shuffle(repeated)  # type: ignore[attr-defined]
    once, again = prior(*unique.values()), prior(*repeated)
    assert abs(once.successes - again.successes) < 1e-9
    assert abs(once.failures - again.failures) < 1e-9
    assert once.successes + once.failures <= 2 + STRONGEST + 1e-9


def test_old_outcomes_count_for_less() -> None:
    """An outcome counts for half after each half-life."""
    assert prior(outcome(1)).successes == 2
    assert abs(prior(outcome(1, age_us=2 * HALF_LIFE_US)).successes - 1.25) < 1e-9


def test_the_own_run_and_resets_teach_nothing() -> None:
    """A run's own outcomes are already in its bandit, and a reset judged no kernel."""
    assert prior(outcome(1), run_id="r") == Beta()
    assert prior(outcome(1, verdict="RESET", reward=0.0)) == Beta()
