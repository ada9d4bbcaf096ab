"""Which snapshots are kept beyond their time: by the journals of runs, forks and rollbacks, and by
pins.
"""

from __future__ import annotations

from dataclasses import replace

from esper.checkpoint.retention import Pins, held
from esper.clock import ManualClock
from esper.events import Event, Origin
from esper.events.records import CheckpointTaken, RunForked, RunStarted
from esper.lifecycle.commands import Complete, RecordCheckpoint, RollBack
from esper.oona.durable.run_notes import deleted
from esper.urza.memory import MemoryStore
from tests.unit.lifecycle.test_recovery import Pen


class Story(Pen):
    """A run's journal with snapshots, which have the address of their name."""

    def snapshot(self, name: str) -> None:
        self.step += 1
        fields = dict.fromkeys(
            (
                "at_timeline",
                "at_sequence",
                "at_epoch",
                "at_step",
                "tensors",
                "size_bytes",
                "stored_bytes",
                "stall_us",
                "duration_us",
            ),
            0,
        )
        self.do(
            RecordCheckpoint(
                snapshot_id=name,
                address=name,
                sha256="",
                parent="",
                reason="epoch",
                parameters_digest="",
                **fields,  # type: ignore[arg-type]
            )
        )

    def roll_back(self, name: str, at: int) -> None:
        """To a snapshot, with the state after the first `at` events."""
        restored = Pen().state
        assert at == 1
        self.do(RollBack(snapshot_id=name, restored=restored, reason="test"))

    def journal(self, run_id: str, family: str = "") -> list[Event]:
        """The events as those of a run of this name."""
        events: list[Event] = [replace(event, run_id=run_id) for event in self.events]
        assert isinstance(events[0], RunStarted)
        events[0] = replace(events[0], family=family)
        return events


def why(events: list[Event], family: str, pinned: tuple[str, ...] = ()) -> dict[str, str]:
    return {name: one.why for name, one in held(events, pinned)[family].items()}


def test_the_last_of_a_run_that_has_not_ended_is_held() -> None:
    """Once the run has ended, it is kept for its time alone; a run without a snapshot
    holds none.
    """
    story = Story()
    assert held(story.journal("r"), ()) == {"r": {}}
    story.snapshot("first")
    story.snapshot("second")
    assert why(story.journal("r"), "r") == {"first": "", "second": "last"}
    story.do(
        Complete(
            outcome="FINISHED", accuracy=0.0, loss=0.0, parameters=1, digest="", model_sha256=""
        )
    )
    assert why(story.journal("r"), "r") == {"first": "", "second": ""}


def test_after_a_rollback_the_snapshot_that_it_went_back_to_is_held_too() -> None:
    """The run begins there if it stops before the next one.

    The last one that was taken is held as well.
    """
    story = Story()
    story.snapshot("first")
    story.snapshot("second")
    story.snapshot("third")
    story.roll_back("first", 1)
    assert why(story.journal("r"), "r") == {"first": "last", "second": "", "third": "last"}
    story.snapshot("fourth")
    assert why(story.journal("r"), "r") == {
        "first": "",
        "second": "",
        "third": "",
        "fourth": "last",
    }


def test_what_a_fork_begins_with_and_what_is_pinned_is_held() -> None:
    """In the family of the first run, whoever named it.

    The fork's own snapshots are in the same family.
    """
    story = Story()
    story.snapshot("first")
    story.snapshot("second")
    story.do(
        Complete(
            outcome="FINISHED", accuracy=0.0, loss=0.0, parameters=1, digest="", model_sha256=""
        )
    )
    fork = Story()
    fork.snapshot("third")
    forked = fork.journal("fork", family="r")
    forked.insert(1, fork_of("first"))
    events = [*story.journal("r"), *forked]
    assert why(events, "r") == {"first": "forked", "second": "", "third": "last"}
    assert why(events, "r", ("r",)) == {"first": "pinned", "second": "pinned", "third": "last"}
    assert [one.taken_us for one in held(events, ())["r"].values()] == [
        event.occurred_at for event in events if isinstance(event, CheckpointTaken)
    ]


def fork_of(address: str) -> RunForked:
    return RunForked(
        **Origin("fork", "trainer", "0" * 32, ManualClock()).envelope("forked"),
        timeline=0,
        sequence=1,
        epoch=0,
        step=0,
        parent_run_id="r",
        parent_timeline=0,
        parent_step=1,
        parent_sequence=1,
        address=address,
        sha256="",
        seeds=(),
        adapted_epoch=-1,
        adaptations=0,
        changes=(),
        without=(),
        reason="test",
    )


def test_pins_are_in_the_store_and_name_no_run() -> None:
    """Another process sees them; both ways say whether anything changed."""
    store = MemoryStore()
    assert "run-1" not in Pins(store)
    assert Pins(store).add("run-1")
    assert not Pins(store).add("run-1")
    assert "run-1" in Pins(store)
    assert "run-2" not in Pins(store)
    assert not any("run-1" in key for key in store.list())
    assert Pins(store).remove("run-1")
    assert not Pins(store).remove("run-1")
    assert "run-1" not in Pins(store)


def test_snapshots_of_a_deleted_run_are_not_kept() -> None:
    """Not the last of one that never ended either; those that a living fork begins with, or that
    another run names, stay; a deleted fork keeps nothing.
    """
    story, other = Story(), Story()
    for name in ("first", "second", "third"):
        story.snapshot(name)
    other.snapshot("second")
    forked = Story().journal("c", family="a")
    begin = replace(fork_of("first"), run_id="c")
    events = [*story.journal("a"), *other.journal("b", family="a"), *forked, begin]

    def why(*deleted_runs: str) -> dict[str, str]:
        gone = [gone_run(run) for run in deleted_runs]
        return {name: snapshot.why for name, snapshot in held([*events, *gone], set())["a"].items()}

    own = replace(fork_of("written for the fork"), run_id="d")
    events += [*Story().journal("d", family="a"), own]
    assert why() == {"first": "forked", "second": "last", "third": "last"}
    assert why("d") == {**why(), "written for the fork": "deleted"}
    assert why("a") == {"first": "forked", "second": "last", "third": "deleted"}
    assert why("a", "c") == {"first": "deleted", "second": "last", "third": "deleted"}
    assert why("a", "b", "c") == dict.fromkeys(("first", "second", "third"), "deleted")
    pinned = held([*events, gone_run("a")], {"a"})["a"]
    assert {name: pinned[name].why for name in ("first", "third")} == {
        "first": "pinned",
        "third": "pinned",
    }


def gone_run(run_id: str) -> Event:
    return deleted(run_id, snapshots=0, files=0, file_bytes=0, actor="", clock=ManualClock())
