"""Every command of people and of Tamiyo, every gate, in every stage: what follows, field by field,
and each refusal in its sentence.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.errors import CorruptError, RejectedError
from esper.events import JournalEvent, Origin
from esper.events.envelope import event_id
from esper.events.records import (
    RECORDS,
    AdaptationApplied,
    AdaptationRejected,
    EpochEnded,
    LeftOut,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunStarted,
    SeedTransitioned,
    TelemetryLost,
)
from esper.lifecycle import (
    EXECUTION,
    HOLDING,
    STAGES,
    Context,
    Guardrails,
    RunState,
    SeedState,
    decide,
    evolve,
    fold,
    may_follow,
)
from esper.lifecycle.commands import (
    Adapt,
    Complete,
    CountLost,
    EndEpoch,
    Fail,
    Move,
    Pause,
    RunCommand,
    Source,
)
from esper.lifecycle.evolve import _RULES
from esper.lifecycle.state import KNOWN_COMMANDS
from tests.samples import START

KERNEL, OTHER = "ab" * 32, "cd" * 32
ID = "00000000-0000-4000-8000-000000000009"
SOURCE = Source(ID, "decision.tamiyo", 3, 17)
STEP, EPOCH = 40, 6

# What a command makes of a seed: its further stages in order with their reasons, and the weight
# that it has in the last.
KEPT, GONE = "kept", "gone"
WAYS: dict[tuple[str, str], tuple[tuple[tuple[str, str], ...], Any]] = {
    ("DORMANT", "GERMINATE"): ((("GERMINATED", "{by} grafts a conv1d kernel"),), 0.0),
    ("DORMANT", "TERMINATE"): ((("TERMINATED", "closed by {by}"),), GONE),
    ("FOSSILIZED", "TERMINATE"): ((("TERMINATED", "closed by {by}"),), GONE),
    ("TRAINING", "ADVANCE"): ((("BLENDING", "advanced by {by}"),), 0.0),
    ("BLENDING", "ADVANCE"): ((("SHADOWING", "advanced by {by}"),), 0.4),
    ("SHADOWING", "ADVANCE"): ((("PROBATIONARY", "advanced by {by}"),), 0.4),
    ("PROBATIONARY", "FOSSILISE"): ((("FOSSILIZED", "kept by {by}"),), 0.4),
    **{(stage, "SET_ALPHA"): ((), KEPT) for stage in ("BLENDING", "SHADOWING", "PROBATIONARY")},
    **{
        (stage, "CULL"): ((("CULLED", "culled by {by}"),), GONE)
        for stage in ("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY")
    },
    **{
        (stage, "RESET"): ((("RESETTING", "reset by {by}"), ("DORMANT", "cleared")), GONE)
        for stage in (
            "GERMINATED",
            "TRAINING",
            "BLENDING",
            "SHADOWING",
            "PROBATIONARY",
            "CULLED",
            "EMBARGOED",
        )
    },
}
COMMANDS = ("GERMINATE", "ADVANCE", "SET_ALPHA", "CULL", "FOSSILISE", "RESET", "TERMINATE")


def started() -> RunState:
    """A run that has begun."""
    return after(RunState("r"), decide(RunState("r"), START, context(0)))


def context(step: int = STEP, rails: Guardrails = Guardrails()) -> Context:  # noqa: B008  # frozen
    return Context(Origin("r", "trainer", "0" * 32, ManualClock()), step, rails)


def after(state: RunState, events: tuple[JournalEvent, ...]) -> RunState:
    """The state after these events."""
    for event in events:
        state = evolve(state, event)
    return state


def at(stage: str, **fields: Any) -> RunState:
    """A run at STEP in EPOCH, whose first seed is in a stage, with a weight of 0.25 on the way to
    0.4.
    """
    held = (
        {"kernel_id": KERNEL, "family": "mlp", "alpha": 0.25, "alpha_target": 0.4}
        if stage in HOLDING
        else {}
    )
    decided = {} if stage in ("DORMANT", "TERMINATED") else {"decision_id": "d0"}
    seed = SeedState(
        "a",
        0,
        stage,  # type: ignore[arg-type]
        EXECUTION[stage],  # type: ignore[index]
        **held,  # type: ignore[arg-type]
        **decided,  # type: ignore[arg-type]
        stage_step=9,
        stage_epoch=2,
    )
    state = started()
    return replace(state, step=STEP, epoch=EPOCH, seeds=(replace(seed, **fields), *state.seeds[1:]))


def adapt(command: str, **fields: Any) -> Adapt:
    """A command for the first seed, by an operator unless it says otherwise."""
    usual: dict[str, Any] = {
        "source": SOURCE,
        "decision_id": "d1",
        "layer": "a",
        "seed": 0,
        "family": "conv1d",
        "trusted": True,
    }
    usual |= {"kernel_id": OTHER, "alpha_target": 0.3} if command == "GERMINATE" else {}
    usual |= {"alpha": 0.75} if command == "SET_ALPHA" else {}
    return Adapt(
        **(
            usual
            | {"command": command, "confidence": 0.8, "urgency": 0.9, "causation_id": "cause"}
            | fields
        )
    )


def answered(
    state: RunState,
    command: RunCommand,
    rails: Guardrails = Guardrails(),  # noqa: B008  # frozen
) -> AdaptationRejected:
    """The one refusal of a command, which changes nothing but what was asked."""
    (event,) = decide(state, command, context(rails=rails))
    assert isinstance(event, AdaptationRejected)
    assert after(state, (event,)).seeds == state.seeds
    return event


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stage", STAGES)
def test_what_follows_from_a_command_in_a_stage(stage: str, command: str, trusted: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """Applied with all its fields and the transitions that it causes, in one frame, or refused in a
    sentence; the seed is then as the last one says.
    """
    state, asked = at(stage), adapt(command, trusted=trusted)
    events = decide(state, asked, context())
    assert [event.sequence for event in events] == list(
        range(state.sequence, state.sequence + len(events))
    )
    assert {(event.run_id, event.timeline, event.epoch, event.step) for event in events} == {
        ("r", 0, EPOCH, STEP)
    }
    assert len({event.event_id for event in events}) == len(events)
    first, *moves = events
    assert isinstance(first, AdaptationApplied | AdaptationRejected)
    assert (first.command_id, first.decision_id, first.command, first.causation_id) == (
        ID,
        "d1",
        command,
        "cause",
    )
    assert (first.layer, first.seed, first.kernel_id) == ("a", 0, asked.kernel_id)
    assert (first.source_topic, first.source_partition, first.source_offset) == (
        "decision.tamiyo",
        3,
        17,
    )
    before, now = state.seeds[0], after(state, events)
    if (stage, command) not in WAYS:
        assert isinstance(first, AdaptationRejected)
        assert first.reason == f"{command} does not fit a seed that is {stage}."
        assert (moves, now.seeds[0]) == ([], before)
        return
    assert isinstance(first, AdaptationApplied)
    assert (first.family, first.alpha, first.confidence, first.urgency) == (
        "conv1d",
        asked.alpha,
        0.8,
        0.9,
    )
    ways, alpha = WAYS[stage, command]
    by = "an operator" if trusted else "Tamiyo"
    last = stage
    for move, (to_stage, reason) in zip(moves, ways, strict=True):
        assert isinstance(move, SeedTransitioned)
        assert (move.layer, move.seed, move.from_stage, move.to_stage) == ("a", 0, last, to_stage)
        assert (move.reason, move.causation_id) == (reason.format(by=by), first.event_id)
        assert move.execution == EXECUTION[to_stage]  # type: ignore[index]
        last = to_stage
    changed: dict[str, Any] = {"stage": last, "execution": EXECUTION[last], "adapted_epoch": EPOCH}  # type: ignore[index]
    changed |= {"stage_step": STEP, "stage_epoch": EPOCH} if ways else {}
    if alpha == GONE:
        changed |= {"kernel_id": "", "family": "", "alpha": 0.0, "alpha_target": 0.0}
    elif alpha != KEPT:
        changed["alpha"] = alpha
    if command == "GERMINATE":
        changed |= {
            "kernel_id": OTHER,
            "family": "conv1d",
            "decision_id": "d1",
            "alpha_target": 0.3,
        }
    if command == "SET_ALPHA":
        changed["alpha_target"] = 0.75
    if last == "DORMANT":
        changed["decision_id"] = ""
    assert now.seeds == (replace(before, **changed), *state.seeds[1:])
    assert (now.commands, now.position("decision.tamiyo", 3)) == ((ID,), 17)
    counted = command in ("GERMINATE", "ADVANCE", "SET_ALPHA")
    assert (now.adapted_epoch, now.adaptations) == ((EPOCH, 1) if counted else (-1, 0))
    assert decide(now, asked, context()) == ()


@pytest.mark.parametrize("to_stage", STAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_where_a_gate_may_lead(stage: str, to_stage: str) -> None:
    """One transition without a cause, with the weight that the stage begins with.

    Else a refusal that names both stages.
    """
    state, move = at(stage), Move(layer="a", seed=0, to_stage=to_stage, reason="it is time")  # type: ignore[arg-type]
    if to_stage == "GERMINATED":
        with pytest.raises(
            RejectedError,
            match=r"^Seed a\[0\] is germinated by a command that names a kernel, not by a gate\.$",
        ):
            decide(state, move, context())
        return
    if not may_follow(stage, to_stage):  # type: ignore[arg-type]
        with pytest.raises(
            RejectedError,
            match=rf"^Seed a\[0\] is {stage}, from where it cannot become {to_stage}\.$",
        ):
            decide(state, move, context())
        return
    (event,) = decide(state, move, context())
    assert isinstance(event, SeedTransitioned)
    assert (event.from_stage, event.to_stage, event.reason, event.causation_id) == (
        stage,
        to_stage,
        "it is time",
        None,
    )
    now = after(state, (event,)).seeds[0]
    held = to_stage in HOLDING
    whole = to_stage in ("SHADOWING", "PROBATIONARY", "FOSSILIZED")
    assert (now.alpha, now.alpha_target) == (0.4 if whole else 0.0, 0.4 if held else 0.0)
    assert (now.kernel_id, now.family) == ((KERNEL, "mlp") if held else ("", ""))
    assert now.decision_id == ("" if to_stage == "DORMANT" else state.seeds[0].decision_id)


def test_a_gate_of_a_seed_that_there_is_not() -> None:
    """Refused by its place."""
    with pytest.raises(RejectedError, match=r"^There is no seed a\[7\] in this run\.$"):
        decide(at("TRAINING"), Move(layer="a", seed=7, to_stage="BLENDING", reason="x"), context())


@pytest.mark.parametrize(("alpha", "target"), [(-1.0, 0.3), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_graft_blends_to_the_weight_that_was_asked_for(alpha: float, target: float) -> None:
    """That of the command; its blueprint's where the command names none."""
    state = at("DORMANT")
    assert (
        after(state, decide(state, adapt("GERMINATE", alpha=alpha), context()))
        .seeds[0]
        .alpha_target
        == target
    )


@pytest.mark.parametrize(
    ("command", "fields", "state", "reason"),
    [
        ("ADVANCE", {"seed": 5}, {}, "There is no seed a[5] in this run."),
        ("ADVANCE", {"refusal": "It came too late."}, {}, "It came too late."),
        (
            "ADVANCE",
            {"trusted": False, "confidence": 0.7},
            {},
            "Confidence 0.70 is not above 0.70.",
        ),
        ("CULL", {"trusted": False, "confidence": 0.7}, {}, "Confidence 0.70 is not above 0.70."),
        ("ADVANCE", {"trusted": False, "urgency": 0.6}, {}, "Urgency 0.60 is not above 0.60."),
        ("ADVANCE", {}, {"epoch": 7}, "Epoch 7 accepts no adaptations: they come every 2 epochs."),
        (
            "ADVANCE",
            {},
            {"adapted_epoch": EPOCH, "adaptations": 3},
            "Epoch 6 has had its 3 adaptations.",
        ),
        (
            "ADVANCE",
            {},
            {"seed": {"adapted_epoch": 5}},
            "Seed a[0] was adapted in epoch 5 and rests for 2 epochs.",
        ),
        (
            "ADVANCE",
            {},
            {"seed": {"adapted_epoch": 0}, "epoch": 0},
            "Seed a[0] was adapted in epoch 0 and rests for 2 epochs.",
        ),
        ("SET_ALPHA", {"alpha": 1.5}, {"stage": "BLENDING"}, "Alpha 1.5 is not between 0 and 1."),
        ("SET_ALPHA", {"alpha": -0.5}, {"stage": "BLENDING"}, "Alpha -0.5 is not between 0 and 1."),
        (
            "ADVANCE",
            {"trusted": False},
            {"left_out": True},
            "This fork leaves out decision d9 of run p, which this one repeats.",
        ),
    ],
)
def test_guardrails_refuse_in_a_sentence(
    command: str, fields: dict[str, Any], state: dict[str, Any], reason: str
) -> None:
    """Each limit at its very edge."""
    state = dict(state)
    usual = at(state.pop("stage", "TRAINING"), **state.pop("seed", {}))
    if state.pop("left_out", False):
        state["left_out"] = (
            LeftOut(
                run_id="p",
                decision_id="d9",
                command="ADVANCE",
                layer="a",
                seed=0,
                kernel_id="",
                epoch=EPOCH,
            ),
        )
    event = answered(replace(usual, **state), adapt(command, **fields), Guardrails(frequency=2))
    assert event.reason == reason


@pytest.mark.parametrize(
    ("command", "fields", "state"),
    [
        ("ADVANCE", {"trusted": False, "confidence": 0.71}, {}),
        ("ADVANCE", {"trusted": False, "urgency": 0.61}, {}),
        ("ADVANCE", {"trusted": True, "confidence": 0.1, "urgency": 0.1}, {}),
        ("CULL", {"trusted": False, "urgency": 0.1}, {}),
        ("CULL", {}, {"epoch": 7}),
        ("CULL", {}, {"adapted_epoch": EPOCH, "adaptations": 3}),
        ("CULL", {}, {"seed": {"adapted_epoch": 5}}),
        ("ADVANCE", {}, {"adapted_epoch": EPOCH, "adaptations": 2}),
        ("ADVANCE", {}, {"adapted_epoch": 5, "adaptations": 3}),
        ("ADVANCE", {}, {"seed": {"adapted_epoch": 4}}),
        ("SET_ALPHA", {"alpha": 0.0}, {"stage": "BLENDING"}),
        ("SET_ALPHA", {"alpha": 1.0}, {"stage": "BLENDING"}),
        ("ADVANCE", {"trusted": True}, {"left_out": {}}),
        ("ADVANCE", {"trusted": False}, {"left_out": {"command": "CULL"}}),
        ("ADVANCE", {"trusted": False}, {"left_out": {"layer": "b"}}),
        ("ADVANCE", {"trusted": False}, {"left_out": {"seed": 1}}),
        ("ADVANCE", {"trusted": False}, {"left_out": {"kernel_id": KERNEL}}),
        ("ADVANCE", {"trusted": False}, {"left_out": {"epoch": 5}}),
    ],
)
def test_guardrails_let_pass_what_is_within(
    command: str, fields: dict[str, Any], state: dict[str, Any]
) -> None:
    """One step inside each limit; operators need neither confidence nor urgency.

    Culling ends what was begun, so it is not counted.
    """
    state = dict(state)
    usual = at(state.pop("stage", "TRAINING"), **state.pop("seed", {}))
    if (odd := state.pop("left_out", None)) is not None:
        one = LeftOut(
            run_id="p",
            decision_id="d9",
            command="ADVANCE",
            layer="a",
            seed=0,
            kernel_id="",
            epoch=EPOCH,
        )
        state["left_out"] = (replace(one, **odd),)
    events = decide(
        replace(usual, **state), adapt(command, **fields), context(rails=Guardrails(frequency=2))
    )
    assert isinstance(events[0], AdaptationApplied)


def test_adaptations_are_counted_by_epoch() -> None:
    """The count grows within an epoch and begins anew in the next."""
    state = at("DORMANT")
    for number, (epoch, seed, count) in enumerate(((6, 0, 1), (6, 1, 2), (7, 0, 1))):
        state = replace(
            state, epoch=epoch, seeds=(replace(state.seeds[0], adapted_epoch=-1), *state.seeds[1:])
        )
        command = "ADVANCE" if epoch == 7 else "GERMINATE"
        state = (
            replace(state, seeds=(replace(state.seeds[0], stage="TRAINING"), *state.seeds[1:]))
            if epoch == 7
            else state
        )
        state = after(
            state,
            decide(state, adapt(command, seed=seed, source=Source(f"id-{number}")), context()),
        )
        assert (state.adapted_epoch, state.adaptations) == (epoch, count)


def test_the_start_has_all_that_was_asked() -> None:
    """Every field of StartRun stands in RunStarted, and each chunk of a layer is a dormant seed."""
    (event,) = decide(RunState("r"), START, context(0))
    assert isinstance(event, RunStarted)
    assert {name: getattr(event, name) for name in START.__slots__} == {
        name: getattr(START, name) for name in START.__slots__
    }
    assert (event.sequence, event.timeline, event.epoch, event.step, event.causation_id) == (
        0,
        0,
        0,
        0,
        None,
    )
    assert started().seeds == (SeedState("a", 0), SeedState("a", 1))
    assert (started().status, started().sequence) == ("RUNNING", 1)


def test_a_run_begins_once_and_with_its_beginning() -> None:
    """Anything else before it, or it again, is refused: as a command, and in a journal."""
    lost = CountLost(topic="t", lost=1)
    with pytest.raises(RejectedError, match=r"^Run r is NEW; CountLost does not fit\.$"):
        decide(RunState("r"), lost, context())
    with pytest.raises(RejectedError, match=r"^Run r is RUNNING; StartRun does not fit\.$"):
        decide(started(), START, context())
    (begun,) = decide(RunState("r"), START, context(0))
    (counted,) = decide(started(), lost, context())
    with pytest.raises(
        CorruptError,
        match=r"^The journal of run r begins with TelemetryLost instead of RunStarted\.$",
    ):
        evolve(RunState("r"), replace(counted, sequence=0))
    with pytest.raises(
        CorruptError, match=r"^Run r starts a second time at event 1; the journal was changed\.$"
    ):
        evolve(started(), replace(begun, sequence=1))


def test_a_command_that_is_none() -> None:
    """Is named by its type."""
    with pytest.raises(RejectedError, match=r"^int is not a command of a run\.$"):
        decide(started(), 7, context())  # type: ignore[arg-type]


def test_the_end_of_an_epoch_proves_the_state_before_it() -> None:
    """Every figure stands in the event, and the digest is that of the state it was written in.

    The next epoch has begun.
    """
    state = at("BLENDING")
    figures: dict[str, Any] = {
        "train_loss": 0.1,
        "train_accuracy": 0.2,
        "validation_loss": 0.3,
        "validation_accuracy": 0.4,
        "test_loss": 0.5,
    }
    command = EndEpoch(
        step=STEP,
        **figures,
        test_accuracy=0.6,
        learning_rate=0.7,
        parameters_digest="ef",
        alphas=(0.25,),
    )
    (event,) = decide(state, command, context())
    assert isinstance(event, EpochEnded)
    asked = {name: getattr(command, name) for name in command.__slots__ if name != "step"}
    assert {name: getattr(event, name) for name in asked} == asked
    assert (event.epoch, event.step, event.state_digest) == (EPOCH, STEP, state.digest())
    now = after(state, (event,))
    assert (now.epoch, now.step, now.seeds) == (EPOCH + 1, STEP, state.seeds)


@pytest.mark.parametrize(
    ("command", "record", "status"),
    [
        (
            Complete(
                outcome="FINISHED",
                accuracy=0.5,
                loss=0.6,
                parameters=7,
                digest="ab",
                model_sha256="cd",
            ),
            RunCompleted,
            "COMPLETED",
        ),
        (Fail(error="RuntimeError", reason="It broke."), RunFailed, "FAILED"),
    ],
)
def test_a_run_ends_in_order_or_not(
    command: Complete | Fail, record: type[JournalEvent], status: str
) -> None:
    """With every field, and nothing follows."""
    (event,) = decide(started(), command, context())
    assert isinstance(event, record)
    assert {name: getattr(event, name) for name in command.__slots__} == {
        name: getattr(command, name) for name in command.__slots__
    }
    ended = after(started(), (event,))
    assert ended.status == status
    with pytest.raises(
        RejectedError, match=rf"^Run r has ended \({status}\); nothing can follow\.$"
    ):
        decide(ended, CountLost(topic="t", lost=1), context())


def test_a_pause_is_told_once() -> None:
    """A paused run is not paused again, even by another request.

    The request that paused it is known.
    """
    first = Pause(reason="Lunch.", source=SOURCE)
    (event,) = decide(started(), first, context())
    assert isinstance(event, RunPaused)
    assert (
        event.reason,
        event.command_id,
        event.source_topic,
        event.source_partition,
        event.source_offset,
    ) == (
        "Lunch.",
        ID,
        "decision.tamiyo",
        3,
        17,
    )
    paused = after(started(), (event,))
    assert (paused.status, paused.commands) == ("PAUSED", (ID,))
    assert decide(paused, Pause(reason="Again.", source=Source("other")), context()) == ()


def test_losses_are_added_up_by_topic() -> None:
    """Each TelemetryLost counts; the sums are sorted by topic."""
    state = started()
    for topic, lost in (("b", 2), ("a", 1), ("b", 3)):
        (event,) = decide(state, CountLost(topic=topic, lost=lost), context())
        assert isinstance(event, TelemetryLost)
        assert (event.topic, event.lost) == (topic, lost)
        state = after(state, (event,))
    assert state.lost == (("a", 1), ("b", 5))


def test_an_event_out_of_order_is_named_with_the_one_that_should_come() -> None:
    """One too far, and one again."""
    state = started()
    (event,) = decide(state, CountLost(topic="t", lost=1), context())
    with pytest.raises(CorruptError) as caught:
        evolve(state, replace(event, sequence=3))
    assert str(caught.value) == (
        "The journal of run r lacks event 1: TelemetryLost with sequence 3 "
        f"({event.event_id}) comes in its place."
    )
    with pytest.raises(CorruptError) as caught:
        evolve(after(state, (event,)), event)
    assert str(caught.value) == (
        f"The journal of run r has event 1 (TelemetryLost, {event.event_id}) again or too "
        "late, where event 2 should come."
    )


@pytest.mark.parametrize(
    ("doctored", "sentence"),
    [
        (
            {"timeline": 1},
            (
                "stands at timeline 1, epoch 6, step 40, behind timeline 0, epoch 6, step 40; "
                "the journal was changed."
            ),
        ),
        (
            {"epoch": 5},
            (
                "stands at timeline 0, epoch 5, step 40, behind timeline 0, epoch 6, step 40; "
                "the journal was changed."
            ),
        ),
        (
            {"step": 39},
            (
                "stands at timeline 0, epoch 6, step 39, behind timeline 0, epoch 6, step 40; "
                "the journal was changed."
            ),
        ),
        ({"run_id": "q"}, "belongs to run q, not to run r; the journal was mixed with another."),
        (
            {"from_stage": "BLENDING"},
            "takes seed a[0] from BLENDING to CULLED, but it is TRAINING; the journal was changed.",
        ),
        (
            {"to_stage": "FOSSILIZED"},
            (
                "takes seed a[0] from TRAINING to FOSSILIZED, but it is TRAINING; the journal "
                "was changed."
            ),
        ),
        (
            {"seed": 4},
            (
                "takes seed a[4] from TRAINING to CULLED, but it is no such seed; the journal "
                "was changed."
            ),
        ),
    ],
)
def test_a_doctored_transition_is_refused(doctored: dict[str, Any], sentence: str) -> None:
    """Whatever does not follow from the run before it is named; what stands later than it may."""
    state = at("TRAINING")
    (event,) = decide(state, Move(layer="a", seed=0, to_stage="CULLED", reason="x"), context())
    with pytest.raises(CorruptError) as caught:
        evolve(state, replace(event, **doctored))
    assert str(caught.value).endswith(sentence)
    assert evolve(state, replace(event, step=41)).seeds[0].stage_step == 41


@pytest.mark.parametrize("command", ["GERMINATE", "CULL"])
def test_adaptations_of_no_seed_in_a_journal_are_refused(command: str) -> None:
    """Applied to a seed that the run does not have: the journal was changed."""
    state = at("DORMANT" if command == "GERMINATE" else "TRAINING")
    applied = decide(state, adapt(command), context())[0]
    with pytest.raises(
        CorruptError,
        match=r"^Event 1 of run r adapts a\[4\], which is not a seed; the journal was changed\.$",
    ):
        evolve(state, replace(applied, seed=4))  # type: ignore[call-arg]


def test_a_whole_journal_folds_as_its_events_one_by_one() -> None:
    """`fold` is `evolve`, over and over."""
    state, events = RunState("r"), list[JournalEvent]()
    commands: tuple[RunCommand, ...] = (START, CountLost(topic="t", lost=1), adapt("GERMINATE"))
    for command in commands:
        new = decide(state, command, context())
        state, events = after(state, new), [*events, *new]
    assert fold("r", events) == state
    with pytest.raises(CorruptError, match=r"belongs to run r, not to run q"):
        fold("q", events)


def test_the_id_of_an_event_is_made_of_what_it_is_about() -> None:
    """Run, timeline, sequence, record, step and subject, and nothing else: whoever decides the same
    again gives the same id, in any version.
    """
    state = replace(at("TRAINING"), timeline=2)
    (move,) = decide(state, Move(layer="a", seed=0, to_stage="BLENDING", reason="x"), context())
    assert move.event_id == event_id("r", 2, "journal/1/SeedTransitioned/40/a/0/BLENDING")
    (lost,) = decide(state, CountLost(topic="t", lost=1), context())
    assert lost.event_id == event_id("r", 2, "journal/1/TelemetryLost/40/t")


def test_the_last_commands_are_known_and_no_more() -> None:
    """KNOWN_COMMANDS of them, the latest last."""
    state = started()
    for number in range(KNOWN_COMMANDS + 2):
        refused = adapt("CULL", source=Source(f"id-{number}", "decision.tamiyo", 0, number))
        state = after(state, decide(state, refused, context()))
    assert state.commands == tuple(f"id-{number}" for number in range(2, KNOWN_COMMANDS + 2))


@pytest.mark.parametrize(
    ("sources", "positions"),
    [
        ([("decision.tamiyo", 0, 5), ("decision.tamiyo", 0, 3)], (("decision.tamiyo", 0, 5),)),
        ([("decision.tamiyo", 0, 5), ("decision.tamiyo", 0, 8)], (("decision.tamiyo", 0, 8),)),
        (
            [("decision.tamiyo", 1, 5), ("control.x", 0, 0), ("decision.tamiyo", 0, 3)],
            (("control.x", 0, 0), ("decision.tamiyo", 0, 3), ("decision.tamiyo", 1, 5)),
        ),
        ([("", 0, -1)], ()),
    ],
)
def test_how_far_commands_were_read_by_partition(
    sources: list[tuple[str, int, int]], positions: tuple[tuple[str, int, int], ...]
) -> None:
    """The furthest offset of each, whatever order they come in; a command from nowhere has none."""
    state = started()
    for number, place in enumerate(sources):
        state = after(
            state, decide(state, adapt("CULL", source=Source(f"id-{number}", *place)), context())
        )
    assert state.positions == positions


def test_every_record_of_a_journal_has_a_rule() -> None:
    """A schema whose topic is the journal's, and that no fold knows, is forgotten here."""
    records = {kind for kind in RECORDS if issubclass(kind, JournalEvent)}
    assert set(_RULES) == records


def test_a_record_that_this_version_does_not_know() -> None:
    """Is named, with the remedy."""

    class Unheard(TelemetryLost):
        """Of a later version."""

        NAME = "Unheard"

    (lost,) = decide(started(), CountLost(topic="t", lost=1), context())
    later = Unheard(**{one.name: getattr(lost, one.name) for one in fields(TelemetryLost)})
    with pytest.raises(CorruptError) as caught:
        evolve(started(), later)
    assert (
        str(caught.value)
        == "Event 1 of run r is a Unheard, which this version of Esper cannot fold; upgrade Esper."
    )


@pytest.mark.parametrize(
    "end",
    [
        Complete(outcome="FINISHED", accuracy=0, loss=0, parameters=1, digest="", model_sha256=""),
        Fail(error="x", reason="y"),
    ],
)
def test_nothing_follows_an_end_in_a_journal(end: Complete | Fail) -> None:
    """Whatever the end was."""
    (lost,) = decide(started(), CountLost(topic="t", lost=1), context())
    ended = after(started(), decide(started(), end, context()))
    with pytest.raises(
        CorruptError,
        match=(
            r"^Event 2 \(TelemetryLost\) of run r comes after the run had ended "
            rf"\({ended.status}\); the journal was changed\.$"
        ),
    ):
        evolve(ended, replace(lost, sequence=2))
