"""The trainer's pen in re-execution: what is decided anew has to be what was recorded, what came
from outside is applied where it stood.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.errors import CorruptError
from esper.events import JournalEvent, Origin
from esper.events.records import EpochEnded
from esper.lifecycle import Guardrails, RunState, evolve
from esper.lifecycle.commands import (
    Adapt,
    CountLost,
    EndEpoch,
    Move,
    Pause,
    ReportFailure,
    Resume,
    RunCommand,
    Source,
)
from esper.oona.durable.outbox import Outbox
from esper.tolaria.record.journal import Diverged, Journal, derived
from tests.samples import START

KERNEL = "ab" * 32
GRAFT = Adapt(
    source=Source("00000000-0000-4000-8000-000000000001", "decision.tamiyo", 0, 7),
    decision_id="d",
    command="GERMINATE",
    layer="a",
    seed=0,
    kernel_id=KERNEL,
    family="mlp",
    alpha_target=1.0,
    trusted=True,
)


def end(step: int, digest: str = "cd" * 32) -> EndEpoch:
    figures: dict[str, Any] = dict.fromkeys(
        (
            "train_loss",
            "train_accuracy",
            "validation_loss",
            "validation_accuracy",
            "test_loss",
            "test_accuracy",
            "learning_rate",
        ),
        0.5,
    )
    return EndEpoch(step=step, parameters_digest=digest, alphas=(), **figures)


def move(stage: str) -> Move:
    return Move(layer="a", seed=0, to_stage=stage, reason="test")  # type: ignore[arg-type]


def failure(consecutive: int = 1, phase: str = "FORWARD") -> ReportFailure:
    return ReportFailure(layer="a", seed=0, phase=phase, error="it broke.", consecutive=consecutive)  # type: ignore[arg-type]


LIVE: tuple[tuple[RunCommand, int], ...] = (
    (START, 0),
    (GRAFT, 0),
    (move("TRAINING"), 2),
    (failure(), 3),
    (Pause(reason="test"), 4),
    (Resume(reason="test", incarnation=0), 4),
    (end(5), 5),
    (move("BLENDING"), 5),
    (CountLost(topic="telemetry.training.step", lost=3), 5),
    (failure(1), 5),
    (failure(2), 6),
    (end(7), 7),
)
"""A run as it was lived: (command, step)."""


@contextmanager
def pen(
    folder: Path, recorded: Sequence[JournalEvent] = (), *, state: RunState | None = None
) -> Iterator[Journal]:
    outbox = Outbox.open(folder / "r" / "outbox", clock=ManualClock())
    origin = Origin("r", "trainer", "0" * 32, ManualClock())
    try:
        yield Journal(
            state=state or RunState("r"),
            outbox=outbox,
            origin=origin,
            guardrails=Guardrails(),
            notify=lambda: None,
            recorded=recorded,
        )
    finally:
        outbox.close()


@pytest.fixture
def record(tmp_path: Path) -> list[JournalEvent]:
    with pen(tmp_path / "live") as journal:
        return [event for command, step in LIVE for event in journal.do(command, step)]


def execute(journal: Journal, until: int = 12) -> list[str]:
    """What a trainer does of LIVE by itself, taking the rest from the record.

    Gives the events in the order in which they were met.
    """
    met: list[str] = []

    def outside(step: int, *, after_step: bool) -> None:
        while (event := journal.outside(step, after_step=after_step)) is not None:
            met.append(f"{journal.accept().NAME}@{event.step}")

    def do(command: RunCommand, step: int) -> None:
        outside(step, after_step=False)
        met.extend(event.NAME for event in journal.do(command, step))

    do(START, 0)
    for step in range(7):
        outside(step, after_step=False)
        failed = journal.failures(step)
        met += [f"failed in {step}"] if failed else []
        outside(step, after_step=True)
        if step in (4, 6) and until > step:
            do(end(step + 1), step + 1)
        if step == 4 and until > step:
            do(move("BLENDING"), 5)
    return met


def test_a_record_is_executed_again_event_by_event(
    record: list[JournalEvent], tmp_path: Path
) -> None:
    """Each event is met once, at its step and on its side of it; nothing is written.

    The state is the live one.
    """
    names = [derived(event) for event in record]
    assert [event.NAME for event, mine in zip(record, names, strict=True) if mine] == [
        "RunStarted",
        "EpochEnded",
        "SeedTransitioned",
        "EpochEnded",
    ]
    with pen(tmp_path / "again", record) as journal:
        assert execute(journal) == [
            "RunStarted",
            "AdaptationApplied@0",
            "SeedTransitioned@0",
            "SeedTransitioned@2",
            "failed in 3",
            "KernelFailed@3",
            "RunPaused@4",
            "RunResumed@4",
            "EpochEnded",
            "SeedTransitioned",
            "TelemetryLost@5",
            "failed in 5",
            "KernelFailed@5",
            "failed in 6",
            "KernelFailed@6",
            "EpochEnded",
        ]
        assert not journal.replaying
        assert isinstance(journal._outbox, Outbox)
        assert list(journal._outbox.unacknowledged()) == []
        assert journal.state.sequence == len(record)
        assert journal.state.seed("a", 0) is not None


def test_failures_are_told_for_the_step_in_which_they_happened(
    record: list[JournalEvent], tmp_path: Path
) -> None:
    """Before the step, `failures` names the kernel and `outside` holds its event back.

    A failed load is no failure of a step.
    """
    state = RunState("r")
    first = next(number for number, event in enumerate(record) if event.NAME == "KernelFailed")
    for event in record[:first]:
        state = evolve(state, event)
    with pen(tmp_path / "again", record[first:], state=state) as journal:
        assert journal.failures(2) == frozenset()
        assert journal.failures(3) == {("a", 0)}
        assert journal.outside(2, after_step=True) is None
        assert journal.outside(3, after_step=False) is None
        assert journal.outside(3, after_step=True) == record[first]
    with pen(tmp_path / "load") as journal:
        events = [
            event
            for command in (START, GRAFT, failure(1, "LOAD"))
            for event in journal.do(command, 0)
        ]
        loads = events[-3:]
        state = RunState("r")
        for event in events[:-3]:
            state = evolve(state, event)
    with pen(tmp_path / "load-again", loads, state=state) as journal:
        assert journal.failures(0) == frozenset()
        assert [journal.outside(0, after_step=False), journal.accept().NAME] == [
            loads[0],
            "KernelFailed",
        ]
        assert not any(map(derived, loads))


def test_other_parameters_are_refused(record: list[JournalEvent], tmp_path: Path) -> None:
    """An epoch that ends with another digest than the record has: both are named, and the state is
    not moved.
    """
    changed = [
        replace(event, parameters_digest="ef" * 32) if isinstance(event, EpochEnded) else event
        for event in record
    ]
    sentence = (
        r"^Re-executed, epoch 0 of run r ends with other parameters \(digest "
        rf"{'cd' * 6}\) than its journal has \({'ef' * 6}\); the code, the "
        r"settings or the machine differ from those it was trained with\.$"
    )
    with pen(tmp_path / "again", changed) as journal, pytest.raises(CorruptError, match=sentence):
        execute(journal)
    assert journal.state.epoch == 0


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        (
            "EpochEnded",
            (
                r"decides EpochEnded at epoch 0, step 5, where its journal has "
                r"SeedTransitioned at epoch 1, step 5 \(event \d+\); the code"
            ),
        ),
        ("SeedTransitioned", r"^The journal of run r lacks event 8: TelemetryLost with sequence 9"),
    ],
)
def test_a_derived_event_that_the_record_lacks_is_refused(
    record: list[JournalEvent], tmp_path: Path, lacking: str, sentence: str
) -> None:
    """What the run decides and the journal does not have is named, with what stands
    there instead.
    """
    number = next(
        number for number, event in enumerate(record) if lacking == event.NAME and derived(event)
    )
    with (
        pen(tmp_path / "again", [*record[:number], *record[number + 1 :]]) as journal,
        pytest.raises(CorruptError, match=sentence),
    ):
        execute(journal)


def test_a_run_that_passes_the_step_of_an_outside_event_is_refused(
    record: list[JournalEvent], tmp_path: Path
) -> None:
    """An event from outside that belongs to an earlier step than the run stands at: both steps are
    named.
    """
    with pen(tmp_path / "again", record) as journal:
        journal.do(START, 0)
        with pytest.raises(
            CorruptError,
            match=(
                r"^Re-executed, run r stands at step 3, but event 1 \(AdaptationApplied\) "
                r"of its journal belongs to step 0; the code or"
            ),
        ):
            journal.outside(3, after_step=False)


def test_after_the_record_the_pen_writes_on(record: list[JournalEvent], tmp_path: Path) -> None:
    """Once the record is used up, events go to the outbox, which takes them only where its own
    journal ends.
    """
    with pen(tmp_path / "live", record) as journal:
        execute(journal)
        (ended,) = journal.do(end(9), 9)
        assert (ended.sequence, ended.epoch) == (len(record), 2)
        assert isinstance(journal._outbox, Outbox)
        assert journal._outbox.next_sequence == len(record) + 1
    with pen(tmp_path / "again", record[:1]) as journal:
        journal.do(START, 0)
        assert not journal.replaying
        with pytest.raises(CorruptError, match="where 0 follows"):
            journal.do(
                end(1), 1
            )  # the outbox of this place has not what the record has: the run would leave a gap


def test_what_diverged_is_known_in_another_process(record: list[JournalEvent]) -> None:
    """The sentence, and both events."""
    error = pickle.loads(pickle.dumps(Diverged("So it is.", record[0], None)))  # noqa: S301  # ours
    assert isinstance(error, Diverged)
    assert (str(error), error.recorded, error.decided) == ("So it is.", record[0], None)
