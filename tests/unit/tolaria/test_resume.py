"""Where a resumed run begins, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent
from esper.lifecycle import RunState, evolve
from esper.lifecycle.commands import (
    Complete,
    CountLost,
    Fail,
    RecordCheckpoint,
    ReportFailure,
    RollBack,
)
from esper.tolaria.recipes.environment import observe
from esper.tolaria.record.resume import beginning, differences, folded, recipe_of
from esper.tolaria.record.snapshot_content import RunSnapshot
from esper.urza.local import LocalStore
from tests.tensorstores import tensors_in
from tests.unit.lifecycle.test_recovery import Pen


class Story:
    """A run's journal with snapshots in a store."""

    def __init__(self, root: Path) -> None:
        self.store = LocalStore(root)
        self.pen = Pen()
        self.held: dict[str, RunState] = {}

    def train(self, steps: int) -> None:
        self.pen.step += steps
        self.pen.do(CountLost(topic="telemetry.training.step", lost=1))

    def snapshot(self) -> str:
        """Take one, and go on before it is recorded, as training does."""
        state, step = self.pen.state, self.pen.step
        values = {"model/a": torch.full((3,), float(step + 100 * state.timeline))}
        stored = tensors_in(self.store).write(
            RunSnapshot(values, state.canonical(), {"step": step}, {}, {}, {}, {}, {}).packed
        )
        name = f"t{state.timeline}-s{step}-n{state.sequence}"
        self.held[name] = state
        self.train(1)
        self.pen.do(
            RecordCheckpoint(
                snapshot_id=name,
                address=stored.address,
                sha256=stored.sha256,
                parent="",
                reason="epoch",
                at_timeline=state.timeline,
                at_sequence=state.sequence,
                at_epoch=state.epoch,
                at_step=step,
                tensors=1,
                size_bytes=1,
                stored_bytes=1,
                stall_us=1,
                duration_us=1,
                parameters_digest="",
            )
        )
        return name

    def address(self, name: str) -> Path:
        taken: Any = next(
            event for event in self.pen.events if getattr(event, "snapshot_id", "") == name
        )
        return self.store.root / str(taken.address)

    def begins(self) -> Any:
        return beginning("r", self.pen.events, tensors_in(self.store))

    def fold(self, count: int) -> RunState:
        state = RunState("r")
        for event in self.pen.events[:count]:
            state = evolve(state, event)
        return state


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_without_snapshots_a_run_begins_at_its_first_step(story: Story) -> None:
    """A new state, no tensors, no name, no notes."""
    story.train(3)
    found = story.begins()
    assert (found.state, found.snapshot, found.name, found.notes) == (RunState("r"), None, "", ())


def test_a_run_begins_at_its_last_snapshot(story: Story) -> None:
    """State and tensors are those of the same moment, though later events stand before the record
    of the snapshot.
    """
    story.train(2)
    story.snapshot()
    story.train(2)
    last = story.snapshot()
    story.train(2)
    found = story.begins()
    assert (found.name, found.state, found.notes) == (last, story.held[last], ())
    assert found.state == story.fold(found.state.sequence)
    assert found.snapshot is not None
    assert found.snapshot.tensors["model/a"].tolist() == [5.0] * 3


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda path: path.unlink(),
            "is not in the store: it was deleted, or the store is another one.",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            "is damaged: its content has another hash than the journal gives.",
        ),
    ],
)
def test_snapshots_that_cannot_be_used_are_passed_over(
    story: Story, damage: Callable[[Path], None], sentence: str
) -> None:
    """From the last to the first, each with a note; without any the run begins at its
    first step.
    """
    names = [story.snapshot() for _ in range(3)]
    for count in (1, 2, 3):
        damage(story.address(names[-count]))
        found = story.begins()
        assert found.name == ([*names, ""][-count - 2] if count < 3 else "")
        assert len(found.notes) == count
        for name, note in zip(reversed(names), found.notes, strict=False):
            assert note.startswith(f"Snapshot {name} cannot be used: Manifest manifests/")
            assert note.endswith(sentence)
    assert (found.state, found.snapshot) == (RunState("r"), None)


def rolled_back(story: Story) -> tuple[str, int]:
    """A story with a rollback to its first snapshot.

    Gives its name and the number of events up to the new timeline's beginning.
    """
    story.train(2)
    story.pen.grow("TRAINING", 1)
    first = story.snapshot()
    story.train(2)
    story.snapshot()
    story.pen.do(ReportFailure(layer="a", seed=1, phase="FORWARD", error="it broke."))
    story.pen.do(RollBack(snapshot_id=first, restored=story.held[first], reason="test"))
    story.pen.step = story.held[first].step
    return first, len(story.pen.events)


def test_after_a_rollback_a_run_begins_where_the_rollback_led(story: Story) -> None:
    """The tensors of the snapshot that was restored, the state after the resets.

    Later snapshots of the timeline that was left count no more.
    """
    first, count = rolled_back(story)
    story.train(1)
    found = story.begins()
    assert (found.name, found.state) == (first, story.fold(count))
    assert [seed.stage for seed in found.state.seeds] == ["DORMANT", "DORMANT"]
    assert found.state.timeline == 1
    assert found.snapshot is not None
    assert found.snapshot.tensors["model/a"].tolist() == [2.0] * 3


def test_a_snapshot_of_the_new_timeline_comes_before_the_rollback(story: Story) -> None:
    """And where it is damaged, the run begins at the rollback again."""
    first, count = rolled_back(story)
    newest = story.snapshot()
    story.train(3)
    found = story.begins()
    assert (found.name, found.state) == (newest, story.held[newest])
    story.address(newest).unlink()
    found = story.begins()
    assert (found.name, found.state, len(found.notes)) == (first, story.fold(count), 1)
    story.address(first).unlink()
    with pytest.raises(
        CorruptError,
        match=(
            r"^Run r was rolled back, and no snapshot since then can be used: Snapshot "
            r"t1-s\d+-n\d+ cannot be used: "
        ),
    ):
        story.begins()


def test_only_a_run_that_has_begun_and_not_ended_is_resumed(story: Story) -> None:
    """No journal, a finished and a failed run are refused, each in its sentence."""
    with pytest.raises(
        UsageError,
        match=(
            r"^Run r has no journal on this Kafka, so there is nothing to resume; start it "
            r"without --resume\.$"
        ),
    ):
        folded("r", [])
    assert folded("r", story.pen.events) == story.pen.state
    finished, failed = Pen(), Pen()
    finished.do(
        Complete(
            outcome="FINISHED", accuracy=0.5, loss=0.5, parameters=20, digest="", model_sha256=""
        )
    )
    failed.do(Fail(error="EsperError", reason="It broke."))
    with pytest.raises(
        UsageError, match=r"^Run r is finished, so there is nothing to resume; start a new run\.$"
    ):
        folded("r", finished.events)
    with pytest.raises(
        UsageError,
        match=r"^Run r ended by a failure, so there is nothing to resume; start a new run\.$",
    ):
        folded("r", failed.events)


def test_a_changed_journal_is_refused(story: Story) -> None:
    """An event that is missing is named before anything is resumed."""
    story.train(1)
    story.train(1)
    with pytest.raises(CorruptError, match="lacks event 1"):
        folded("r", [story.pen.events[0], story.pen.events[2]])


def begun(**changed: Any) -> list[JournalEvent]:
    """A journal's first event, begun here, with what is different."""
    here = observe()
    fields = {
        "source_sha256": here.source_sha256,
        "versions": here.versions,
        "threads": here.threads,
        "instruction_set": here.instruction_set,
        "blas": here.blas,
        "onednn": here.onednn,
    }
    return [replace(Pen().events[0], **{**fields, **changed})]


def test_what_differs_since_the_run_began_is_said() -> None:
    """Code, libraries and machine: a sentence each, and none when all is as it was."""
    here = observe()
    assert differences(begun(), here) == ()
    assert differences(begun(source_sha256="00" * 32), here) == ("Esper's code has changed",)
    assert differences(begun(threads=here.threads + 1, blas="none"), here) == (
        f"threads was {here.threads + 1} and is {here.threads}",
        f"blas was none and is {here.blas}",
    )
    import json  # noqa: PLC0415

    versions = json.loads(here.versions)
    name = min(versions)
    then = json.dumps({**versions, name: "0.0.1", "gone": "2"})
    assert set(differences(begun(versions=then), here)) == {
        f"{name} was 0.0.1 and is {versions[name]}",
        "gone was 2 and is None",
    }


def test_a_resumed_run_has_the_recipe_that_it_was_begun_with() -> None:
    """The recipe comes out of RunStarted, whatever its file says now."""
    from esper.tolaria.recipes.recipe import load  # noqa: PLC0415

    recipe = load("mnist1d", ["run.epochs=7"])
    assert recipe_of(begun(config=recipe.canonical())) == recipe
