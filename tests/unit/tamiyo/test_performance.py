"""Claims about the performance tracker."""

from __future__ import annotations

import math
from typing import Any

from esper.clock import ManualClock
from esper.events import Origin
from esper.events.records import AdaptationOutcome, PerformanceDelta, Verdict
from esper_processors.tamiyo.deciding import performance
from esper_processors.tamiyo.deciding.performance import DECAY, EXPIRES_US, WINDOW, Performance
from esper_processors.tamiyo.deciding.tracker import Tracker

CLOCK = ManualClock()


def envelope(key: str, clock: ManualClock) -> dict[str, Any]:
    """Of run r."""
    return Origin("r", "trainer", "0" * 32, clock).envelope(key)


def delta(
    step: int,
    accuracy: float,
    loss: float = 0.0,
    *,
    seed: int = 0,
    kernel: str = "k",
    clock: ManualClock = CLOCK,
) -> PerformanceDelta:
    """One validation of a seed of layer 0."""
    return PerformanceDelta(
        **envelope(f"performance/{step}/{seed}", clock),
        layer="0",
        seed=seed,
        kernel_id=kernel,
        family="mlp",
        epoch=step // 40,
        step=step,
        accuracy_delta=accuracy,
        loss_delta=loss,
        latency_us=120.0,
        memory_bytes=4096,
    )


def outcome(verdict: Verdict, seed: int = 0) -> AdaptationOutcome:
    """The end of a graft."""
    return AdaptationOutcome(
        **envelope(f"outcome/{verdict}/{seed}", CLOCK),
        decision_id="d",
        layer="0",
        seed=seed,
        kernel_id="k",
        family="mlp",
        context="c",
        verdict=verdict,
        reward=1.0,
        shadow_gap=0.1,
        epoch=1,
        step=40,
    )


def folded(*deltas: PerformanceDelta) -> Performance:
    """A run after these validations."""
    found = Performance({})
    for one in deltas:
        found = found.observed(one)
    return found


def test_means_are_weighted_by_age_and_seventy_to_thirty() -> None:
    """Two values give the first decayed by 0.95 plus 5 % of the second, and the mean is 70 %
    accuracy and 30 % loss of that.
    """
    record = folded(delta(40, 0.1, 0.5), delta(80, 0.3, 0.1)).seeds["0", 0]
    accuracy, loss = DECAY * 0.1 + 0.05 * 0.3, DECAY * 0.5 + 0.05 * 0.1
    assert math.isclose(record.mean, 0.7 * accuracy + 0.3 * loss)
    scores = (0.7 * 0.1 + 0.3 * 0.5, 0.7 * 0.3 + 0.3 * 0.1)
    assert math.isclose(record.variance, (scores[0] - scores[1]) ** 2 / 2)
    assert record.success_rate == 1.0


def test_the_window_holds_the_last_twenty_and_its_trend_is_a_slope() -> None:
    """Of thirty validations with an accuracy that grows by 0.01 each, the last twenty are kept and
    the trend is 0.01.
    """
    record = folded(*(delta(40 * number, 0.01 * number - 0.045) for number in range(30))).seeds[
        "0", 0
    ]
    assert (len(record.window), record.window[0].step, record.activations) == (WINDOW, 400, 30)
    assert math.isclose(record.trend, 0.01)
    assert record.success_rate == 25 / 30


def test_a_delta_that_comes_twice_counts_once_and_another_kernel_begins_anew() -> None:
    """Redelivery changes nothing.

    The figures of a seed are of its present kernel, the counts of all that it had.
    """
    first = delta(40, 0.1)
    known = folded(first)
    assert known.observed(first) is known
    record = folded(first, delta(80, -0.2, kernel="other")).seeds["0", 0]
    assert (record.kernel_id, len(record.window), record.weighted[0], record.activations) == (
        "other",
        1,
        -0.2,
        2,
    )


def test_entropy_says_how_evenly_seeds_are_active() -> None:
    """One active seed gives 0, two alike 1, three to one Shannon's value for these shares."""
    assert folded(delta(40, 0.1)).entropy() == 0
    assert math.isclose(folded(delta(40, 0.1), delta(40, 0.1, seed=1)).entropy(), 1)
    uneven = folded(delta(40, 0.1), delta(80, 0.1), delta(120, 0.1), delta(40, 0.1, seed=1))
    assert math.isclose(uneven.entropy(), -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


def test_ends_of_grafts_are_counted_by_verdict() -> None:
    """Kept is a success, culled a failure, reset neither.

    The API has them beside UCB's score, mean + sqrt(2 ln(total) / n).
    """
    found = folded(delta(40, 0.1), delta(80, 0.1), delta(40, 0.2, seed=1))
    for verdict in ("FOSSILIZED", "CULLED", "RESET"):
        found = found.ended(outcome(verdict))
    told = found.as_json()
    first = told["seeds"][0]
    assert (first["successful_grafts"], first["failures"]) == (1, 1)
    assert math.isclose(first["ucb_score"], 0.07 + math.sqrt(2 * math.log(3) / 2))
    assert told["activations"] == 3
    assert performance.decode(performance.encode(found)) == found


def test_the_table_is_written_once_a_packet_and_forgets_after_a_day() -> None:
    """Ten deltas between two packets cost one write; the next life reads them from the table.

    A day later they have expired.
    """
    clock = ManualClock()

    class Counting(dict[bytes, bytes]):
        writes = 0

        def __setitem__(self, key: bytes, value: bytes) -> None:
            self.writes += 1
            super().__setitem__(key, value)

    table = Counting()
    tracker = Tracker(table, clock)
    for number in range(10):
        tracker.take(delta(40 * number, 0.1, clock=clock))
    assert table.writes == 0
    tracker.turn("r", [])
    tracker.turn("r", [])
    assert table.writes == 1
    assert Tracker(table, clock).of("r").seeds["0", 0].activations == 10
    clock.advance(EXPIRES_US / 1e6)
    assert Tracker(table, clock).of("r").seeds == {}
