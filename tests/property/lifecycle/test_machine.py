from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esper.clock import ManualClock
from esper.errors import CorruptError, RejectedError
from esper.events import JournalEvent, Origin, decode, encode
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    KernelFailed,
    LayerInventory,
    LeftOut,
    SeedTransitioned,
)
from esper.lifecycle import (
    EXECUTION,
    HOLDING,
    STAGES,
    Context,
    Fold,
    Guardrails,
    RunState,
    SeedState,
    decide,
    evolve,
    from_canonical,
    may_follow,
)
from esper.lifecycle.commands import (
    Adapt,
    EndEpoch,
    Fork,
    Move,
    Pause,
    RecordCheckpoint,
    ReportFailure,
    Resume,
    RollBack,
    RunCommand,
    Source,
)
from tests import samples
from tests.samples import EXAMPLES

PLACES = [("a", 0), ("a", 1), ("b", 0)]
LAYERS = (
    samples.LAYER,
    LayerInventory(
        name="b", kind="Linear", in_features=4, out_features=2, parameters=10, chunks=(2,)
    ),
)
COMMANDS = ["GERMINATE", "ADVANCE", "SET_ALPHA", "CULL", "FOSSILISE", "RESET", "TERMINATE"]


START = replace(samples.START, layers=LAYERS, parameters=30)
LEFT_OUT = LeftOut(
    run_id="p",
    decision_id="d",
    command="GERMINATE",
    layer="a",
    seed=0,
    kernel_id="cd" * 32,
    epoch=3,
)


def forked(stages: list[str]) -> RunState:
    """Another run at step 17, its seeds in these stages."""
    seeds = tuple(
        SeedState(
            layer,
            index,
            stage,  # type: ignore[arg-type]
            EXECUTION[stage],  # type: ignore[index]
            "ab" * 32 if stage in HOLDING else "",
            "conv1d" if stage in HOLDING else "",
        )
        for (layer, index), stage in zip(PLACES, stages, strict=True)
    )
    return RunState(
        "p",
        "RUNNING",
        timeline=2,
        sequence=40,
        epoch=3,
        step=17,
        seeds=seeds,
        adapted_epoch=2,
        adaptations=1,
    )


class Lifecycle(RuleBasedStateMachine):
    """Whatever is asked of a run, in whatever order, its journal folds back to the live state and
    no stage is skipped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.rails = Guardrails(cooldown=1, per_epoch=2)
        self.origin = Origin("r", "trainer", "0" * 32, self.clock)
        self.state = RunState("r")
        self.journal: list[JournalEvent] = []
        self.step = 0
        self.number = 0
        self.sent: list[Adapt] = []
        self.held: list[RunState] = []  # what snapshots hold, of every timeline

    def do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        self.clock.advance(0.001)
        before = self.state
        try:
            events = decide(self.state, command, Context(self.origin, self.step, self.rails))
        except RejectedError:
            assert self.state == before
            assert fold(self.journal) == before
            return ()
        for event in events:
            self.state = evolve(self.state, event)
            self.journal.append(event)
        return events

    @initialize(
        stages=st.none()
        | st.lists(st.sampled_from(STAGES), min_size=len(PLACES), max_size=len(PLACES))
    )
    def begin(self, stages: list[str] | None = None) -> None:
        """The run begins with nothing, or with what another run had."""
        if stages is None:
            assert [event.NAME for event in self.do(START)] == ["RunStarted"]
            return
        parent = forked(stages)
        events = self.do(
            Fork(
                start=START,
                forked=parent,
                address="manifests/ab.json",
                sha256="ab" * 32,
                changes=(),
                without=(LEFT_OUT,),
                reason="test",
            )
        )
        assert [event.NAME for event in events] == ["RunStarted", "RunForked"]
        expected = RunState(
            "r",
            "RUNNING",
            sequence=2,
            epoch=3,
            step=17,
            seeds=parent.seeds,
            adapted_epoch=2,
            adaptations=1,
        )
        assert self.state == replace(expected, left_out=(LEFT_OUT,))
        self.step = 17

    @rule(
        place=st.sampled_from([*PLACES, ("c", 0)]),
        command=st.sampled_from(COMMANDS),
        confidence=st.sampled_from([0.5, 0.9]),
        urgency=st.sampled_from([0.5, 0.9]),
        trusted=st.booleans(),
    )
    def adapt(
        self,
        place: tuple[str, int],
        command: str,
        confidence: float,
        urgency: float,
        trusted: bool,  # noqa: FBT001
    ) -> None:
        self.number += 1
        asked = Adapt(
            source=Source(
                f"00000000-0000-4000-8000-{self.number:012d}", "decision.tamiyo", 0, self.number
            ),
            decision_id=f"d{self.number}",
            command=command,  # type: ignore[arg-type]
            layer=place[0],
            seed=place[1],
            kernel_id="ab" * 32 if command == "GERMINATE" else "",
            family="conv1d",
            alpha=0.5 if command == "SET_ALPHA" else -1.0,
            alpha_target=1.0,
            confidence=confidence,
            urgency=urgency,
            trusted=trusted,
        )
        counted = self.state.adaptations if self.state.adapted_epoch == self.state.epoch else 0
        try:
            events = self.do(asked)
        finally:
            self.sent.append(asked)
        answers = [
            event for event in events if isinstance(event, AdaptationApplied | AdaptationRejected)
        ]
        assert len(answers) == 1
        if isinstance(answers[0], AdaptationApplied):
            assert trusted or confidence > self.rails.confidence
            if command in ("GERMINATE", "ADVANCE", "SET_ALPHA"):
                assert trusted or urgency > self.rails.urgency
                assert counted < self.rails.per_epoch
        else:
            assert [event.NAME for event in events] == ["AdaptationRejected"]

    @precondition(lambda self: self.sent)
    @rule()
    def repeat(self) -> None:
        """A command that comes again does nothing."""
        assert self.do(self.sent[-1]) == ()

    @rule(place=st.sampled_from(PLACES), stage=st.sampled_from(STAGES))
    def move(self, place: tuple[str, int], stage: str) -> None:
        before = self.state.seed(*place)
        assert before is not None
        events = self.do(Move(layer=place[0], seed=place[1], to_stage=stage, reason="test"))  # type: ignore[arg-type]
        open_to = before.execution != "ERROR_RECOVERY" or stage in ("CULLED", "RESETTING")
        assert bool(events) == (
            may_follow(before.stage, stage) and stage != "GERMINATED" and open_to  # type: ignore[arg-type]
        )

    @rule(
        place=st.sampled_from(PLACES),
        phase=st.sampled_from(["LOAD", "FORWARD", "NON_FINITE"]),
        consecutive=st.integers(1, 4),
    )
    def fail(self, place: tuple[str, int], phase: str, consecutive: int) -> None:
        """What a failure leads to depends on the stage, and on how many there were in a row."""
        before, unstable = self.state.seed(*place), self.state.instabilities
        assert before is not None
        asked = ReportFailure(
            layer=place[0],
            seed=place[1],
            phase=phase,  # type: ignore[arg-type]
            error="it broke",
            consecutive=consecutive,
        )
        events, after = self.do(asked), self.state.seed(*place)
        assert after is not None
        if before.stage not in HOLDING:
            assert events == ()
            return
        errors = 3 if phase == "LOAD" else consecutive
        if before.execution == "ERROR_RECOVERY":
            errors = max(errors, before.errors)
        assert isinstance(events[0], KernelFailed)
        assert (events[0].consecutive_errors, events[0].kernel_id, events[0].phase) == (
            errors,
            before.kernel_id,
            phase,
        )
        assert self.state.instabilities == unstable + (before.stage == "FOSSILIZED")
        followers = {
            "FOSSILIZED": ["InstabilityDetected"],
            "GERMINATED": ["SeedTransitioned", "SeedTransitioned"],
        }.get(before.stage, [])
        assert [event.NAME for event in events[1:]] == followers
        assert all(event.causation_id == events[0].event_id for event in events[1:])
        if before.stage == "GERMINATED":
            assert (after.stage, after.execution, after.errors, after.kernel_id) == (
                "DORMANT",
                "DORMANT",
                0,
                "",
            )
            return
        recovering = before.execution == "ERROR_RECOVERY" or (
            errors >= 3 and before.stage != "FOSSILIZED"
        )
        assert after == replace(
            before, errors=errors, execution="ERROR_RECOVERY" if recovering else before.execution
        )

    @rule(steps=st.integers(1, 5))
    def train(self, steps: int) -> None:
        self.step += steps

    @rule()
    def end_epoch(self) -> None:
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
        self.do(EndEpoch(step=self.step, parameters_digest="", alphas=(), **figures))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:  # noqa: FBT001
        self.do(
            Pause(reason="test")
            if paused
            else Resume(reason="test", incarnation=self.state.incarnation)
        )
        assert self.state.status == ("PAUSED" if paused else "RUNNING")

    @rule(asked=st.booleans())
    def checkpoint(self, asked: bool) -> None:  # noqa: FBT001
        """A snapshot changes nothing of a run but what it has answered."""
        before = self.state
        self.number += 1
        source = (
            Source(
                f"00000000-0000-4000-8000-{self.number:012d}",
                "control.tolaria.commands",
                1,
                self.number,
            )
            if asked
            else Source("")
        )
        (taken,) = self.do(record(before, source))
        assert taken.NAME == "CheckpointTaken"
        known = (*before.commands, source.command_id) if asked else before.commands
        heard = (
            hashlib.sha256((before.heard + source.command_id).encode()).hexdigest()
            if asked
            else before.heard
        )
        unchanged = replace(
            before,
            sequence=before.sequence + 1,
            step=self.step,
            commands=known,
            positions=self.state.positions,
            heard=heard,
        )
        assert self.state == unchanged
        assert not asked or self.state.position("control.tolaria.commands", 1) == self.number
        self.held.append(before)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), asked=st.booleans())
    def roll_back(self, data: st.DataObject, asked: bool) -> None:  # noqa: FBT001
        """A new timeline has the steps, epochs and finished seeds of the snapshot, and the answers
        and the instabilities of the whole run.
        """
        restored, before = data.draw(st.sampled_from(self.held)), self.state
        self.number += 1
        source = (
            Source(
                f"00000000-0000-4000-8000-{self.number:012d}",
                "control.tolaria.commands",
                1,
                self.number,
            )
            if asked
            else Source("")
        )
        events = self.do(
            RollBack(snapshot_id="one", restored=restored, reason="test", source=source)
        )
        if restored.step > self.step or restored.epoch > before.epoch:
            assert events == ()
            return
        assert [events[0].NAME, *{event.NAME for event in events[1:]}] in (
            ["RunRolledBack"],
            ["RunRolledBack", "SeedTransitioned"],
        )
        assert {(event.timeline, event.epoch, event.step) for event in events} == {
            (before.timeline + 1, restored.epoch, restored.step)
        }
        assert all(event.causation_id == events[0].event_id for event in events[1:])
        assert (getattr(events[0], "from_timeline", -1), getattr(events[0], "from_step", -1)) == (
            before.timeline,
            self.step,
        )
        after, self.step = self.state, restored.step
        assert (after.status, after.timeline, after.epoch, after.step) == (
            "RUNNING",
            before.timeline + 1,
            restored.epoch,
            restored.step,
        )
        assert (after.adapted_epoch, after.adaptations) == (
            restored.adapted_epoch,
            restored.adaptations,
        )
        assert (after.instabilities, after.lost, after.incarnation) == (
            before.instabilities,
            before.lost,
            before.incarnation,
        )
        assert after.commands == (
            (*before.commands, source.command_id) if asked else before.commands
        )
        for then, now in zip(restored.seeds, after.seeds, strict=True):
            if then.stage in ("DORMANT", "FOSSILIZED", "TERMINATED"):
                assert now == then
            else:
                assert (now.stage, now.execution, now.kernel_id, now.alpha, now.errors) == (
                    "DORMANT",
                    "DORMANT",
                    "",
                    0.0,
                    0,
                )
                assert now.adapted_epoch == then.adapted_epoch

    @rule()
    def restart(self) -> None:
        """A new process goes on from a snapshot: only the incarnation moves."""
        before = self.state
        self.do(
            Resume(
                reason="test",
                incarnation=before.incarnation + 1,
                snapshot_id="one",
                restored_step=0,
            )
        )
        moved = replace(
            before,
            status="RUNNING",
            incarnation=before.incarnation + 1,
            sequence=before.sequence + 1,
            step=self.step,
        )
        assert self.state == moved

    @invariant()
    def the_journal_folds_to_the_live_state(self) -> None:
        assert fold(self.journal) == self.state

    @invariant()
    def timelines_only_grow(self) -> None:
        """Within a timeline steps and epochs do not go back, and each timeline is opened by a
        rollback.
        """
        for before, after in zip(self.journal, self.journal[1:], strict=False):
            if after.timeline == before.timeline:
                assert after.NAME != "RunRolledBack"
                assert (after.step, after.epoch) >= (before.step, before.epoch)
                assert after.epoch >= before.epoch
            else:
                assert (after.NAME, after.timeline) == ("RunRolledBack", before.timeline + 1)

    @invariant()
    def seeds_are_consistent(self) -> None:
        for seed in self.state.seeds:
            assert seed.execution in (EXECUTION[seed.stage], "ERROR_RECOVERY")
            assert bool(seed.kernel_id) == (seed.stage in HOLDING)
            assert 0 <= seed.alpha <= 1
            assert seed.execution != "ERROR_RECOVERY" or (
                seed.errors >= 3 and seed.stage in HOLDING
            )

    @invariant()
    def only_allowed_transitions(self) -> None:
        for event in self.journal[-3:]:
            if isinstance(event, SeedTransitioned):
                assert may_follow(event.from_stage, event.to_stage)

    def teardown(self) -> None:
        """Fold what was written, through the codec.

        Then remove, double and swap events, and see each refused.
        """
        state = RunState("r")
        for event in self.journal:
            again = decode(encode(event).value)
            assert isinstance(again, JournalEvent)
            state = evolve(state, again)
        assert state == self.state
        assert from_canonical(state.canonical()) == state
        assert len({event.event_id for event in self.journal}) == len(self.journal)
        if len(self.journal) > 3:
            middle = len(self.journal) // 2
            removed = self.journal[:middle] + self.journal[middle + 1 :]
            doubled = [*self.journal[: middle + 1], *self.journal[middle:]]
            swapped = [
                *self.journal[: middle - 1],
                self.journal[middle],
                self.journal[middle - 1],
                *self.journal[middle + 1 :],
            ]
            renamed = [
                *self.journal[:middle],
                replace(self.journal[middle], run_id="another"),
                *self.journal[middle + 1 :],
            ]
            for broken in (removed, doubled, swapped, renamed):
                with pytest.raises(CorruptError) as caught:
                    fold(broken)
                with pytest.raises(CorruptError, match=f"^{re.escape(str(caught.value))}$"):
                    folded(broken)
        assert folded(self.journal) == self.state


def record(state: RunState, source: Source) -> RecordCheckpoint:
    """A snapshot of `state`."""
    return RecordCheckpoint(
        snapshot_id=f"t{state.timeline}-s{state.step}",
        address="manifests/ab.json",
        sha256="ab" * 32,
        parent="",
        reason="requested" if source.command_id else "epoch",
        at_timeline=state.timeline,
        at_sequence=state.sequence,
        at_epoch=state.epoch,
        at_step=state.step,
        tensors=3,
        size_bytes=12,
        stored_bytes=13,
        stall_us=14,
        duration_us=15,
        parameters_digest="cd" * 32,
        source=source,
    )


def folded(events: list[JournalEvent]) -> RunState:
    """The state after all events, taken in by one Fold."""
    run = Fold(RunState("r"))
    for event in events:
        run.apply(event)
    assert run.digest() == run.state().digest()
    return run.state()


def fold(events: list[JournalEvent]) -> RunState:
    """The state after all events, evolved one by one."""
    state = RunState("r")
    for event in events:
        state = evolve(state, event)
    return state


Lifecycle.TestCase.settings = settings(
    max_examples=40 * EXAMPLES, stateful_step_count=30, deadline=None
)
TestLifecycle = Lifecycle.TestCase


def test_a_changed_state_digest_is_noticed() -> None:
    """An EpochEnded that was written in another state than the events before it give is refused."""
    machine = Lifecycle()
    machine.begin()
    machine.end_epoch()
    last = machine.journal[-1]
    with pytest.raises(CorruptError, match="written in another state"):
        evolve(fold(machine.journal[:-1]), replace(last, state_digest="0" * 64))  # type: ignore[call-arg]
