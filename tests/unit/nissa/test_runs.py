"""Claims about what Nissa keeps of runs and compilations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.clock import ManualClock
from esper.events import Event, JournalEvent
from esper.events.records import KernelCompiled
from esper_processors.nissa import compilations, runs
from esper_processors.nissa.compilations import Compilations
from esper_processors.nissa.runs import RunView, fold
from tests.unit.nissa.journal import Run


def story() -> list[Event]:
    """Journal of a run with two germinations, three epochs and an end."""
    run = Run("r", ManualClock())
    events: list[Event] = [run.started()]
    for epoch in range(3):
        events += [
            *run.germinated("0", epoch),
            run.epoch_ended(validation_accuracy=(0.4, 0.5, 0.6)[epoch]),
        ]
    return [*events, run.completed(accuracy=0.7)]


def told(events: list[Event]) -> RunView:
    """The view after these events."""
    view = RunView(run_id="r")
    for event in events:
        view = fold(view, event)
    return view


def test_the_view_says_what_happened() -> None:
    """Epochs, accuracies, stages, adaptations and the end are those of the journal."""
    view = told(story())
    assert (view.epoch, view.status, view.accuracy, view.validation_accuracy) == (
        3,
        "COMPLETED",
        0.7,
        0.6,
    )
    assert view.stages() == {"DORMANT": 5, "GERMINATED": 3}
    assert view.adaptations == {"GERMINATE": 3}
    assert view.ended


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), max_size=12))
def test_redelivery_changes_nothing(steps: list[tuple[int, int]]) -> None:
    """At-least-once delivery goes back to an earlier event any number of times.

    The view is that of the plain journal, and survives its bytes.
    """
    events = story()
    delivered: list[Event] = []
    at = 0
    for forward, back in steps:
        delivered += events[at : at + forward]
        at = max(0, min(at + forward, len(events)) - back)
    view = told([*delivered, *events[at:]])
    assert view == told(events)
    assert runs.decode(runs.encode(view)) == view


def test_every_journal_record_moves_the_sequence_on() -> None:
    """A record that Nissa makes nothing of still counts as seen."""
    events = story()
    assert told(events).sequence == len(events) - 1
    assert all(isinstance(event, JournalEvent) for event in events)


def test_a_compilation_is_counted_once() -> None:
    """A compilation that is delivered twice is one; latencies fall into their buckets.

    Partitions add up.
    """
    run = Run("r", ManualClock())
    slow, fast = run.compiled(0.7), Run("s", ManualClock()).compiled(0.02)
    view = Compilations()
    for event in (slow, slow, fast, slow):
        view = compilations.fold(view, event)
    assert view.compiled == 2
    assert view.counts == (1, 0, 0, 0, 1, 0, 0, 0, 0, 0)
    assert view.last_s == 0.02
    assert compilations.decode(compilations.encode(view)) == view
    assert view.plus(view).compiled == 4
    assert isinstance(slow, KernelCompiled)


def test_a_rollback_takes_the_seeds_back_and_is_counted() -> None:
    """After snapshots, an instability and a rollback the view has the restored seeds, epoch and
    step, a new timeline, and each of them counted once.
    """
    run = Run("r", ManualClock())
    events: list[Event] = [
        run.started(),
        *run.germinated("0", 2),
        run.checkpoint(40),
        run.checkpoint(80),
        run.unstable(),
    ]
    events += [run.rolled_back(1), run.epoch_ended(validation_accuracy=0.3)]
    view = told([*events, *events])
    assert view.stages() == {"FOSSILIZED": 1, "DORMANT": 7}
    assert (view.checkpoints, view.checkpoint_step, view.checkpoint_bytes) == (2, 40, 800)
    assert (view.rollbacks, view.instabilities, view.timeline, view.epoch) == (1, 1, 1, 2)
    assert view.last_instability == "The training loss went beyond its bound."
    assert runs.decode(runs.encode(view)) == view
