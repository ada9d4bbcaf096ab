"""`decide(state, command) -> events`: what follows from a command in a state.

Pure: time and sender come in by the stamp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import singledispatch
from typing import Any, TypeVar

from esper.errors import RejectedError
from esper.events.envelope import JournalEvent, Origin
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    CheckpointTaken,
    EpochEnded,
    InstabilityDetected,
    KernelFailed,
    RestoredSeed,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
    Stage,
    TelemetryLost,
)
from esper.lifecycle.commands import (
    Adapt,
    Complete,
    CountLost,
    EndEpoch,
    Fail,
    Fork,
    Move,
    Pause,
    RecordCheckpoint,
    ReportFailure,
    Resume,
    RollBack,
    RunCommand,
    StartRun,
)
from esper.lifecycle.evolve import BREAKER, evolve
from esper.lifecycle.guardrails import Guardrails, refusal
from esper.lifecycle.stages import ADVANCE, EXECUTION, FALLBACK_ENDS, HOLDING, may_follow
from esper.lifecycle.state import RunState, SeedState

E = TypeVar("E", bound=JournalEvent)


@dataclass(frozen=True, slots=True)
class Context:
    """What `decide` may know beside state and command: who writes, the step that training stands
    at, and the guardrails.
    """

    origin: Origin
    step: int
    guardrails: Guardrails


class _Frame:
    """The events of one decision: each is numbered after the one before, in the state that this one
    left.

    They stand at the timeline, epoch and step of `place`.
    """

    def __init__(self, state: RunState, context: Context) -> None:
        self.state = state
        self.events: list[JournalEvent] = []
        # never before the last event: `evolve` refuses a step that goes back
        self.place = replace(state, step=max(context.step, state.step))
        self._context = context

    def add(
        self,
        record: Callable[..., E],
        subject: str,
        *,
        causation_id: str | None = None,
        **fields: Any,
    ) -> E:
        """Append an event.

        `subject` is what makes its identity differ from others at this sequence.
        """
        state, place, name = self.state, self.place, getattr(record, "NAME", "")
        # from these alone: a replay gives the same decision the same id, which the journal compares
        key = f"journal/{state.sequence}/{name}/{place.step}/{subject}"
        envelope = self._context.origin.envelope(
            key, timeline=place.timeline, causation_id=causation_id
        )
        event = record(
            **envelope,
            timeline=place.timeline,
            sequence=state.sequence,
            epoch=place.epoch,
            step=place.step,
            **fields,
        )
        # at once: the next event of the frame is decided in the state that this one left
        self.state = evolve(state, event)
        self.events.append(event)
        return event

    def move(
        self,
        seed: SeedState,
        to_stage: Stage,
        reason: str,
        *,
        causation_id: str | None = None,
        **changed: Any,
    ) -> SeedState:
        """Append the transition of one seed."""
        if not may_follow(seed.stage, to_stage):
            raise RejectedError(
                f"Seed {seed.layer}[{seed.seed}] is {seed.stage}, from where it cannot "
                f"become {to_stage}."
            )
        if seed.execution == "ERROR_RECOVERY" and to_stage not in FALLBACK_ENDS:
            raise RejectedError(
                f"Seed {seed.layer}[{seed.seed}] is on its fallback, because its kernel "
                f"failed, so it cannot become {to_stage}."
            )
        keep = to_stage in HOLDING
        after = replace(seed, **changed)
        if not keep:
            after = replace(after, kernel_id="", family="", alpha=0.0, alpha_target=0.0)
        # kept until here: the moves on the way out still name the decision that began the trial
        if to_stage == "DORMANT":
            after = replace(after, decision_id="")
        self.add(
            SeedTransitioned,
            f"{seed.layer}/{seed.seed}/{to_stage}",
            causation_id=causation_id,
            layer=seed.layer,
            seed=seed.seed,
            from_stage=seed.stage,
            to_stage=to_stage,
            execution=EXECUTION[to_stage],
            kernel_id=after.kernel_id,
            family=after.family,
            decision_id=after.decision_id,
            alpha=after.alpha,
            alpha_target=after.alpha_target,
            reason=reason,
        )
        moved = self.state.seed(seed.layer, seed.seed)
        assert moved is not None  # noqa: S101  # evolve kept it
        return moved


def decide(state: RunState, command: RunCommand, context: Context) -> tuple[JournalEvent, ...]:
    """The events of one frame, numbered from `state.sequence`.

    Empty when the command is already known.

    Raises:
        RejectedError: the run's own command does not fit the state. Commands of others are answered
            with AdaptationRejected instead.
    """
    source = getattr(command, "source", None)
    # before every check: a command that comes again after the run's end was answered long ago
    if source is not None and source.command_id and source.command_id in state.commands:
        return ()
    if state.status in ("COMPLETED", "FAILED"):
        raise RejectedError(f"Run {state.run_id} has ended ({state.status}); nothing can follow.")
    if (state.status == "NEW") != isinstance(command, StartRun | Fork):
        raise RejectedError(
            f"Run {state.run_id} is {state.status}; {type(command).__name__} does not fit."
        )
    frame = _Frame(state, context)
    _decide(command, frame, context)
    return tuple(frame.events)


@singledispatch
def _decide(command: Any, frame: _Frame, context: Context) -> None:
    del frame, context
    raise RejectedError(f"{type(command).__name__} is not a command of a run.")


@_decide.register
def _(command: StartRun, frame: _Frame, context: Context) -> None:
    del context
    fields = {name: getattr(command, name) for name in command.__slots__}
    frame.add(RunStarted, command.recipe, **fields)


@_decide.register
def _(command: Fork, frame: _Frame, context: Context) -> None:
    # RunStarted first, as in every journal: it has the seeds that the fork fills
    _decide(command.start, frame, context)
    forked = command.forked
    inventory = [
        [(seed.layer, seed.seed) for seed in state.seeds] for state in (frame.state, forked)
    ]
    if forked.run_id == frame.state.run_id or inventory[0] != inventory[1]:
        raise RejectedError(
            f"Run {forked.run_id} at step {forked.step} has {len(forked.seeds)} seeds at "
            f"other places than run {frame.state.run_id} with its "
            f"{len(frame.state.seeds)}, or is the same run, so it cannot be forked into it."
        )
    # RunForked stands where the parent stood: from there the fork's steps count
    frame.place = replace(frame.state, epoch=forked.epoch, step=forked.step)
    frame.add(
        RunForked,
        forked.run_id,
        parent_run_id=forked.run_id,
        parent_timeline=forked.timeline,
        parent_step=forked.step,
        parent_sequence=forked.sequence,
        address=command.address,
        sha256=command.sha256,
        seeds=tuple(RestoredSeed(**asdict(seed)) for seed in forked.seeds),
        adapted_epoch=forked.adapted_epoch,
        adaptations=forked.adaptations,
        changes=command.changes,
        without=tuple(decision.decision_id for decision in command.without),
        reason=command.reason,
        left_out=(*forked.left_out, *command.without),
        parent_packet=command.parent_packet,
        offered=command.offered,
    )


@_decide.register
def _(command: Adapt, frame: _Frame, context: Context) -> None:
    seed = frame.state.seed(command.layer, command.seed)
    source = {
        "source_topic": command.source.topic,
        "source_partition": command.source.partition,
        "source_offset": command.source.offset,
    }
    target = {
        "command_id": command.source.command_id,
        "decision_id": command.decision_id,
        "command": command.command,
    }
    place = {"layer": command.layer, "seed": command.seed, "kernel_id": command.kernel_id}
    reason = command.refusal or refusal(frame.state, seed, command, context.guardrails)
    # an event, not an error: the sender waits for an answer, and a replay has to give the same one
    if seed is None or reason:
        reason = reason or f"There is no seed {command.layer}[{command.seed}] in this run."
        frame.add(
            AdaptationRejected,
            command.source.command_id,
            causation_id=command.causation_id,
            **target,
            **place,
            reason=reason,
            **source,
        )
        return
    applied = frame.add(
        AdaptationApplied,
        command.source.command_id,
        causation_id=command.causation_id,
        **target,
        **place,
        family=command.family,
        alpha=command.alpha,
        confidence=command.confidence,
        urgency=command.urgency,
        **source,
    )
    # read again: the event has set its epoch of adaptation, and SET_ALPHA its target
    seed = frame.state.seed(command.layer, command.seed) or seed
    _carry_out(command, seed, frame, applied.event_id)


def _carry_out(command: Adapt, seed: SeedState, frame: _Frame, cause: str) -> None:
    """The transitions that an accepted command causes."""
    by = "an operator" if command.trusted else "Tamiyo"
    if command.command == "GERMINATE":
        fields = {
            "kernel_id": command.kernel_id,
            "family": command.family,
            "decision_id": command.decision_id,
        }
        # below 0 the command names no weight, and the blueprint's counts
        alpha = command.alpha if command.alpha >= 0 else command.alpha_target
        frame.move(
            seed,
            "GERMINATED",
            f"{by} grafts a {command.family} kernel",
            causation_id=cause,
            alpha=0.0,
            alpha_target=alpha,
            **fields,
        )
    elif command.command == "CULL":
        frame.move(seed, "CULLED", f"culled by {by}", causation_id=cause)
    elif command.command == "FOSSILISE":
        frame.move(seed, "FOSSILIZED", f"kept by {by}", causation_id=cause, alpha=seed.alpha_target)
    elif command.command == "TERMINATE":
        frame.move(seed, "TERMINATED", f"closed by {by}", causation_id=cause)
    elif command.command == "RESET":
        cleared = frame.move(seed, "RESETTING", f"reset by {by}", causation_id=cause)
        frame.move(cleared, "DORMANT", "cleared", causation_id=cause)
    elif command.command == "ADVANCE":
        frame.move(
            seed,
            ADVANCE[seed.stage],
            f"advanced by {by}",
            causation_id=cause,
            alpha=alpha_on_entry(seed, ADVANCE[seed.stage]),
        )


def alpha_on_entry(seed: SeedState, stage: Stage) -> float:
    """The blending weight with which a stage begins: BLENDING ramps from 0, later stages hold the
    target.
    """
    return seed.alpha_target if stage in ("SHADOWING", "PROBATIONARY", "FOSSILIZED") else 0.0


@_decide.register
def _(command: Move, frame: _Frame, context: Context) -> None:
    del context
    seed = frame.state.seed(command.layer, command.seed)
    if seed is None:
        raise RejectedError(f"There is no seed {command.layer}[{command.seed}] in this run.")
    if command.to_stage == "GERMINATED":
        raise RejectedError(
            f"Seed {command.layer}[{command.seed}] is germinated by a command that names a "
            "kernel, not by a gate."
        )
    frame.move(seed, command.to_stage, command.reason, alpha=alpha_on_entry(seed, command.to_stage))


@_decide.register
def _(command: ReportFailure, frame: _Frame, context: Context) -> None:
    del context
    seed = frame.state.seed(command.layer, command.seed)
    if seed is None or seed.stage not in HOLDING:
        raise RejectedError(
            f"Seed {command.layer}[{command.seed}] holds no kernel that could fail."
        )
    errors = (
        BREAKER if command.phase == "LOAD" else command.consecutive
    )  # a kernel that cannot be loaded is not tried again
    if seed.execution == "ERROR_RECOVERY":  # its row goes on until a gate ends it
        errors = max(errors, seed.errors)
    failed = frame.add(
        KernelFailed,
        f"{command.layer}/{command.seed}/{errors}",
        layer=command.layer,
        seed=command.seed,
        kernel_id=seed.kernel_id,
        phase=command.phase,
        error=command.error,
        consecutive_errors=errors,
    )
    # the model has grown around it and no stage leads back, so the run itself rolls back
    if seed.stage == "FOSSILIZED":
        frame.add(
            InstabilityDetected,
            f"{command.layer}/{command.seed}",
            causation_id=failed.event_id,
            layer=command.layer,
            seed=command.seed,
            kernel_id=seed.kernel_id,
            metric="kernel_failures",
            value=float(errors),
            threshold=0.0,
            reason=(
                f"The fossilised kernel of {command.layer}[{command.seed}] failed: {command.error}"
            ),
        )
    # nothing was grafted: the slot is free at once, without the rest after a trial
    elif seed.stage == "GERMINATED":
        present = frame.state.seed(command.layer, command.seed) or seed
        reset = frame.move(
            present, "RESETTING", f"kernel failed: {command.error}", causation_id=failed.event_id
        )
        frame.move(reset, "DORMANT", "cleared after the failure", causation_id=failed.event_id)


@_decide.register
def _(command: EndEpoch, frame: _Frame, context: Context) -> None:
    del context
    fields = asdict(command)
    del fields["step"]
    # the digest of the state before this event: whoever folds the journal compares it there
    frame.add(EpochEnded, str(frame.state.epoch), **fields, state_digest=frame.state.digest())


@_decide.register
def _(command: Pause, frame: _Frame, context: Context) -> None:
    del context
    if frame.state.status != "PAUSED":
        frame.add(
            RunPaused, command.source.command_id, reason=command.reason, **_origin_of(command)
        )


@_decide.register
def _(command: Resume, frame: _Frame, context: Context) -> None:
    del context
    frame.add(
        RunResumed,
        command.source.command_id,
        incarnation=command.incarnation,
        reason=command.reason,
        snapshot_id=command.snapshot_id,
        restored_step=command.restored_step,
        **_origin_of(command),
    )


@_decide.register
def _(command: RecordCheckpoint, frame: _Frame, context: Context) -> None:
    del context
    fields = {name: getattr(command, name) for name in command.__slots__ if name != "source"}
    frame.add(CheckpointTaken, command.snapshot_id, **fields, **_origin_of(command))


@_decide.register
def _(command: RollBack, frame: _Frame, context: Context) -> None:
    del context
    # training stands further on than its last event
    leaving, restored = replace(frame.state, step=frame.place.step), command.restored
    inventory = [[(seed.layer, seed.seed) for seed in state.seeds] for state in (leaving, restored)]
    if (
        restored.run_id != leaving.run_id
        or restored.step > leaving.step
        or restored.epoch > leaving.epoch
        or inventory[0] != inventory[1]
    ):
        raise RejectedError(
            f"Snapshot {command.snapshot_id} holds run {restored.run_id} at epoch "
            f"{restored.epoch}, step {restored.step}, which is not an earlier "
            f"state of run {leaving.run_id} at epoch {leaving.epoch}, step {leaving.step}."
        )
    frame.place = replace(restored, timeline=leaving.timeline + 1)
    rolled = frame.add(
        RunRolledBack,
        command.snapshot_id,
        from_timeline=leaving.timeline,
        from_step=leaving.step,
        snapshot_id=command.snapshot_id,
        seeds=tuple(RestoredSeed(**asdict(seed)) for seed in restored.seeds),
        adapted_epoch=restored.adapted_epoch,
        adaptations=restored.adaptations,
        reason=command.reason,
        **_origin_of(command),
    )
    for seed in frame.state.seeds:
        # trials under way belong to the future that was left; what was kept is part of the model
        if seed.stage in ("DORMANT", "FOSSILIZED", "TERMINATED"):
            continue
        reset = seed
        if seed.stage != "RESETTING":
            reset = frame.move(
                seed, "RESETTING", "the run was rolled back", causation_id=rolled.event_id
            )
        frame.move(reset, "DORMANT", "cleared by the rollback", causation_id=rolled.event_id)


def _origin_of(command: Pause | Resume | RecordCheckpoint | RollBack) -> dict[str, Any]:
    source = command.source
    return {
        "command_id": source.command_id,
        "source_topic": source.topic,
        "source_partition": source.partition,
        "source_offset": source.offset,
    }


@_decide.register
def _(command: Complete, frame: _Frame, context: Context) -> None:
    del context
    frame.add(RunCompleted, "completed", **asdict(command))


@_decide.register
def _(command: Fail, frame: _Frame, context: Context) -> None:
    del context
    frame.add(RunFailed, "failed", error=command.error, reason=command.reason)


@_decide.register
def _(command: CountLost, frame: _Frame, context: Context) -> None:
    del context
    frame.add(TelemetryLost, command.topic, topic=command.topic, lost=command.lost)
