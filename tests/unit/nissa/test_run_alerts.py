"""Claims about the alerts of one run: each event counts once, whatever comes again."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Sequence

import pytest

from esper.anomalies import AlertRules, Silence
from esper.clock import ManualClock
from esper.events import Event, decode, encode
from esper.events.records import AlertRaised, AlertResolved, AnomalyDetected
from esper_processors.nissa.alerting import stored
from esper_processors.nissa.alerting.run_alerts import ROUTED_WITHIN_US, KnownAlerts, RunAlerts
from tests.unit.nissa.journal import Run

TOPIC = "telemetry.training.step"
CLEAN = 25
"""Steps after which a loss that was not finite counts as over."""


def steps(run: Run, first: int, losses: Iterable[float]) -> list[Event]:
    """Steps with these losses."""
    return [run.step(first + place, loss=loss) for place, loss in enumerate(losses)]


def troubled(run: Run) -> list[Event]:
    """A run that learns, has two losses that are NaN, and learns again."""
    return [run.started(), *steps(run, 1, [*[1.0] * 9, math.nan, math.nan, *[1.0] * CLEAN])]


def given(
    alerts: RunAlerts, events: Sequence[Event], first: int = 0, rules: AlertRules | None = None
) -> None:
    """Give events as they stand on one partition from an offset on."""
    for offset, event in enumerate(events, first):
        alerts.take(event, (TOPIC, 0, offset), rules or AlertRules())


def told(alerts: RunAlerts) -> list[tuple[str, bool]]:
    """What is to be said."""
    return [(one.event.NAME, one.routed) for one in alerts.unsent]


WHOLE = [("AnomalyDetected", False), ("AlertRaised", True), ("AlertResolved", True)]


def test_a_condition_is_detected_raised_and_resolved_once() -> None:
    """With the events that caused it, how long it held and why it ended; events survive the
    codec with a value that is NaN.
    """
    clock = ManualClock()
    run, alerts = Run("r", clock), RunAlerts(KnownAlerts("r"), clock)
    events = troubled(run)
    given(alerts, events)
    assert told(alerts) == WHOLE
    found, raised, over = (decode(encode(one.event).value) for one in alerts.unsent)
    assert isinstance(found, AnomalyDetected)
    assert isinstance(raised, AlertRaised)
    assert isinstance(over, AlertResolved)
    assert (raised.detector, raised.severity, raised.step) == ("loss_not_finite", "CRITICAL", 10)
    assert math.isnan(raised.value)
    assert raised.evidence == (events[10].event_id,)
    assert (raised.causation_id, raised.sender_id) == (events[10].event_id, "nissa")
    assert (over.alert_id, over.why, over.count) == (raised.alert_id, "CLEARED", 2)
    assert over.held_us == over.resolved_at - over.raised_at
    assert len({found.event_id, raised.event_id, over.event_id}) == 3


@pytest.mark.parametrize("saved_at", range(0, 37, 4))
@pytest.mark.parametrize("pickled", [False, True])
def test_whatever_is_delivered_again_after_a_kill_counts_once(
    saved_at: int, *, pickled: bool
) -> None:
    """Killed after any event, and given everything from the beginning, it says the same and knows
    the same as if it had not been.
    """
    clock = ManualClock()
    events = troubled(Run("r", clock))
    whole = RunAlerts(KnownAlerts("r"), clock)
    given(whole, events)
    killed = RunAlerts(KnownAlerts("r"), clock)
    given(killed, events[:saved_at])
    kept = killed.kept
    again = pickle.loads(pickle.dumps(kept)) if pickled else stored.decode(stored.encode(kept))  # noqa: S301  # its own
    assert repr(again) == repr(kept)  # NaN is unequal to itself
    after = RunAlerts(again, clock)
    given(after, events)
    assert told(after) == WHOLE
    assert stored.encode(after.kept) == stored.encode(whole.kept)


def test_an_event_that_a_sender_sent_twice_counts_once() -> None:
    """At another offset, with the same id: the steps of a run that was resumed."""
    clock = ManualClock()
    run = Run("r", clock)
    events = troubled(run)[:11]
    alerts = RunAlerts(KnownAlerts("r"), clock)
    given(alerts, [*events, *events])
    (alert,) = alerts.book.open
    assert alert.anomalies == 1
    assert told(alerts) == WHOLE[:2]


def test_old_troubles_are_recorded_and_wake_nobody() -> None:
    """Neither that they were, nor that they are over; nor a run that died long ago."""
    clock = ManualClock()
    events = troubled(Run("r", clock))
    clock.advance(ROUTED_WITHIN_US / 1e6 + 1)
    alerts = RunAlerts(KnownAlerts("r"), clock)
    given(alerts, events)
    assert told(alerts) == [(name, False) for name, _ in WHOLE]
    alerts = RunAlerts(KnownAlerts("r"), clock)
    given(alerts, events[:5])
    assert alerts.at(clock.now_us(), AlertRules())
    assert told(alerts) == [("AnomalyDetected", False), ("AlertRaised", False)]


def test_silence_of_a_live_run_is_routed_and_its_next_word_ends_it() -> None:
    """A run that has ended is not missed, and telemetry that comes late does not revive it."""
    clock = ManualClock()
    run = Run("r", clock)
    alerts = RunAlerts(KnownAlerts("r"), clock)
    given(alerts, [run.started(), *steps(run, 1, [1.0])])
    clock.advance(400)
    assert alerts.at(clock.now_us(), AlertRules())
    assert told(alerts)[-1] == ("AlertRaised", True)
    given(alerts, [*steps(run, 2, [1.0]), run.completed(accuracy=0.5), *steps(run, 3, [1.0])], 2)
    assert told(alerts)[-1] == ("AlertResolved", True)
    clock.advance(40_000)
    assert not alerts.at(clock.now_us(), AlertRules())


def test_the_end_of_a_run_ends_its_alerts() -> None:
    """And says why."""
    clock = ManualClock()
    run = Run("r", clock)
    alerts = RunAlerts(KnownAlerts("r"), clock)
    given(alerts, [*troubled(run)[:12], run.completed(accuracy=0.1)])
    over = alerts.unsent[-1].event
    assert isinstance(over, AlertResolved)
    assert (over.why, alerts.ended, alerts.book.held) == ("RUN_ENDED", True, {})
    assert stored.decode(stored.encode(alerts.kept)).ended


def test_what_is_silenced_is_detected_and_not_raised() -> None:
    """The record has it, and nobody hears of it."""
    clock = ManualClock()
    alerts = RunAlerts(KnownAlerts("r"), clock)
    rules = AlertRules(silences=(Silence(clock.now_us() + 10**12, detector="loss_*"),))
    given(alerts, troubled(Run("r", clock)), rules=rules)
    assert told(alerts) == WHOLE[:1]


def test_every_detectors_memory_is_kept_as_it_was() -> None:
    """Of a run with seeds, epochs, kernels and caches, all of which detectors remember."""
    clock = ManualClock()
    run = Run("r", clock)
    told_events: list[Event] = [
        run.started(),
        *run.germinated("0", 1),
        *steps(run, 1, [1.0, 2.0, math.inf, 1.0] * 12),
        *(run.health("0", seed, 0.8) for seed in range(4)),
        run.cache(memory=1, disk=2, store=3, misses=4),
        run.compiled(0.2),
        run.epoch_ended(validation_accuracy=0.4),
    ]
    alerts = RunAlerts(KnownAlerts("r"), clock)
    given(alerts, told_events)
    kept = alerts.kept
    assert len(kept.state.memories) > 10
    assert stored.decode(stored.encode(kept)).state == kept.state
