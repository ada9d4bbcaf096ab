from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esper.clock import ManualClock
from esper.errors import CorruptError, RejectedError
from esper.events import JournalEvent, Origin, decode, encode
from esper.events.records import AdaptationApplied, AdaptationRejected, LayerInventory, SeedTransitioned
from esper.lifecycle import EXECUTION, HOLDING, STAGES, Context, Guardrails, RunState, decide, evolve, from_canonical, may_follow
from esper.lifecycle.commands import Adapt, EndEpoch, Move, Pause, ReportFailure, Resume, RunCommand, Source, StartRun

PLACES = [("a", 0), ("a", 1), ("b", 0)]
LAYERS = (
    LayerInventory(name="a", kind="Linear", in_features=4, out_features=4, parameters=20, chunks=(2, 2)),
    LayerInventory(name="b", kind="Linear", in_features=4, out_features=2, parameters=10, chunks=(2,)),
)
COMMANDS = ["GERMINATE", "ADVANCE", "SET_ALPHA", "CULL", "FOSSILISE", "RESET", "TERMINATE"]


class Lifecycle(RuleBasedStateMachine):
    """Whatever is asked of a run, in whatever order, its journal folds back to the live state and no stage is skipped."""

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

    def do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        self.clock.advance(0.001)
        before = self.state
        try:
            events = decide(self.state, command, Context(self.origin, self.step, self.rails))
        except RejectedError:
            assert self.state == before
            return ()
        for event in events:
            self.state = evolve(self.state, event)
            self.journal.append(event)
        return events

    @initialize()
    def begin(self) -> None:
        self.do(
            StartRun(
                incarnation=0,
                recipe="t",
                config="{}",
                seed=0,
                decisions="LIVE",
                total_steps=100,
                layers=LAYERS,
                parameters=30,
                source_sha256="",
                versions="{}",
                threads=1,
                instruction_set="",
                blas="",
                onednn=False,
            )
        )

    @rule(
        place=st.sampled_from([*PLACES, ("c", 0)]),
        command=st.sampled_from(COMMANDS),
        confidence=st.sampled_from([0.5, 0.9]),
        urgency=st.sampled_from([0.5, 0.9]),
        trusted=st.booleans(),
    )
    def adapt(self, place: tuple[str, int], command: str, confidence: float, urgency: float, trusted: bool) -> None:  # noqa: FBT001
        self.number += 1
        asked = Adapt(
            source=Source(f"00000000-0000-4000-8000-{self.number:012d}", "decision.tamiyo", 0, self.number),
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
        answers = [event for event in events if isinstance(event, AdaptationApplied | AdaptationRejected)]
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
        assert bool(events) == (may_follow(before.stage, stage) and stage != "GERMINATED")  # type: ignore[arg-type]

    @rule(place=st.sampled_from(PLACES), phase=st.sampled_from(["LOAD", "FORWARD", "NON_FINITE"]))
    def fail(self, place: tuple[str, int], phase: str) -> None:
        self.do(ReportFailure(layer=place[0], seed=place[1], phase=phase, error="it broke"))  # type: ignore[arg-type]

    @rule(steps=st.integers(1, 5))
    def train(self, steps: int) -> None:
        self.step += steps

    @rule()
    def end_epoch(self) -> None:
        figures = dict.fromkeys(
            ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "learning_rate"), 0.5
        )
        self.do(EndEpoch(step=self.step, parameters_digest="", alphas=(), **figures))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:  # noqa: FBT001
        self.do(Pause(reason="test") if paused else Resume(reason="test", incarnation=0))

    @invariant()
    def seeds_are_consistent(self) -> None:
        for seed in self.state.seeds:
            assert seed.execution in (EXECUTION[seed.stage], "ERROR_RECOVERY")
            assert bool(seed.kernel_id) == (seed.stage in HOLDING)
            assert 0 <= seed.alpha <= 1

    @invariant()
    def only_allowed_transitions(self) -> None:
        for event in self.journal[-3:]:
            if isinstance(event, SeedTransitioned):
                assert may_follow(event.from_stage, event.to_stage)

    def teardown(self) -> None:
        """Fold what was written, through the codec; then remove, double and swap events, and see each refused."""
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
            swapped = [*self.journal[: middle - 1], self.journal[middle], self.journal[middle - 1], *self.journal[middle + 1 :]]
            for broken in (removed, doubled, swapped):
                with pytest.raises(CorruptError):
                    fold(broken)


def fold(events: list[JournalEvent]) -> RunState:
    state = RunState("r")
    for event in events:
        state = evolve(state, event)
    return state


Lifecycle.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLifecycle = Lifecycle.TestCase


def test_a_changed_state_digest_is_noticed() -> None:
    """An EpochEnded that was written in another state than the events before it give is refused."""
    machine = Lifecycle()
    machine.begin()
    machine.end_epoch()
    last = machine.journal[-1]
    with pytest.raises(CorruptError, match="written in another state"):
        evolve(fold(machine.journal[:-1]), replace(last, state_digest="0" * 64))  # type: ignore[call-arg]
