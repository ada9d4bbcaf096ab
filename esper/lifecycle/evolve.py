"""`evolve(state, event) -> state`: the fold. Pure; live and replay use this one."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import singledispatch

from esper.errors import CorruptError
from esper.events.envelope import JournalEvent
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    CheckpointTaken,
    EpochEnded,
    InstabilityDetected,
    KernelFailed,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
    TelemetryLost,
)
from esper.lifecycle.stages import EXECUTION, FALLBACK_ENDS, may_follow
from esper.lifecycle.state import KNOWN_COMMANDS, RunState, SeedState

BREAKER = 3  # errors in a row that put a seed into ERROR_RECOVERY (MISSION: circuit breaker)


def evolve(state: RunState, event: JournalEvent) -> RunState:
    """The state after `event`.

    Raises:
        CorruptError: the event is not the next of this run, or does not follow from the state: the journal was changed.
    """
    if event.run_id != state.run_id:
        raise CorruptError(
            f"Event {event.event_id} belongs to run {event.run_id}, not to run {state.run_id}; the journal was mixed with another."
        )
    if event.sequence != state.sequence:
        raise CorruptError(_out_of_order(state, event))
    if event.sequence == 0 and not isinstance(event, RunStarted):
        raise CorruptError(f"The journal of run {state.run_id} begins with {event.NAME} instead of RunStarted.")
    if state.status in ("COMPLETED", "FAILED"):
        raise CorruptError(
            f"Event {event.sequence} ({event.NAME}) of run {state.run_id} comes after the run had ended ({state.status}); the journal was changed."
        )
    if isinstance(event, RunRolledBack):
        return _rolled_back(state, event)
    if event.timeline != state.timeline or event.step < state.step or event.epoch < state.epoch:
        raise CorruptError(
            f"Event {event.sequence} ({event.NAME}) of run {state.run_id} stands at timeline {event.timeline}, epoch {event.epoch}, step {event.step}, "
            f"behind timeline {state.timeline}, epoch {state.epoch}, step {state.step}; the journal was changed."
        )
    placed = replace(state, sequence=state.sequence + 1, step=event.step)
    return _evolve(event, placed, state)


def _rolled_back(state: RunState, event: RunRolledBack) -> RunState:
    """The state of the snapshot in a new timeline; what was asked, lost and unstable stays known."""
    here = [(seed.layer, seed.seed) for seed in state.seeds]
    if event.from_timeline != state.timeline or event.from_step < state.step:
        raise CorruptError(
            f"Event {event.sequence} (RunRolledBack) of run {state.run_id} leaves timeline {event.from_timeline}, step {event.from_step}, but "
            f"the run is in timeline {state.timeline}, step {state.step}; the journal was changed."
        )
    if event.timeline != state.timeline + 1 or event.step > event.from_step or event.epoch > state.epoch:
        raise CorruptError(
            f"Event {event.sequence} (RunRolledBack) of run {state.run_id} leads from timeline {state.timeline}, epoch {state.epoch}, step "
            f"{event.from_step}, to timeline {event.timeline}, epoch {event.epoch}, step {event.step}, which is not back; the journal was changed."
        )
    if [(seed.layer, seed.seed) for seed in event.seeds] != here:
        raise CorruptError(
            f"Event {event.sequence} (RunRolledBack) of run {state.run_id} restores other seeds than the run has; the journal was changed."
        )
    restored = replace(
        state,
        status="RUNNING",
        timeline=event.timeline,
        sequence=state.sequence + 1,
        epoch=event.epoch,
        step=event.step,
        seeds=tuple(SeedState(**asdict(seed)) for seed in event.seeds),
        adapted_epoch=event.adapted_epoch,
        adaptations=event.adaptations,
    )
    return _heard(restored, event.command_id, event.source_topic, event.source_partition, event.source_offset)


def _out_of_order(state: RunState, event: JournalEvent) -> str:
    where = f"The journal of run {state.run_id}"
    if event.sequence > state.sequence:
        return f"{where} lacks event {state.sequence}: {event.NAME} with sequence {event.sequence} ({event.event_id}) comes in its place."
    return (
        f"{where} has event {event.sequence} ({event.NAME}, {event.event_id}) again or too late, where event {state.sequence} should come."
    )


@singledispatch
def _evolve(event: JournalEvent, state: RunState, before: RunState) -> RunState:
    """State after one kind of event; `before` is the state that the event was decided in."""
    del state, before
    raise CorruptError(
        f"Event {event.sequence} of run {event.run_id} is a {event.NAME}, which this version of Esper cannot fold; upgrade Esper."
    )


@_evolve.register
def _(event: RunStarted, state: RunState, before: RunState) -> RunState:
    if before.status != "NEW":
        raise CorruptError(f"Run {event.run_id} starts a second time at event {event.sequence}; the journal was changed.")
    seeds = tuple(SeedState(layer.name, index) for layer in event.layers for index in range(len(layer.chunks)))
    return replace(state, status="RUNNING", incarnation=event.incarnation, seeds=seeds)


@_evolve.register
def _(event: RunForked, state: RunState, before: RunState) -> RunState:
    if before.sequence != 1:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} is a RunForked, which can only be the second of a journal; the journal was changed."
        )
    if [(seed.layer, seed.seed) for seed in event.seeds] != [(seed.layer, seed.seed) for seed in before.seeds]:
        raise CorruptError(
            f"Event {event.sequence} (RunForked) of run {event.run_id} brings other seeds than the run has; the journal was changed."
        )
    return replace(
        state,
        epoch=event.epoch,
        seeds=tuple(SeedState(**asdict(seed)) for seed in event.seeds),
        adapted_epoch=event.adapted_epoch,
        adaptations=event.adaptations,
        left_out=event.left_out,
    )


@_evolve.register
def _(event: SeedTransitioned, state: RunState, before: RunState) -> RunState:
    del before
    seed = state.seed(event.layer, event.seed)
    if seed is None or seed.stage != event.from_stage or not may_follow(event.from_stage, event.to_stage):
        stage = "no such seed" if seed is None else seed.stage
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} takes seed {event.layer}[{event.seed}] from {event.from_stage} to {event.to_stage}, "
            f"but it is {stage}; the journal was changed."
        )
    if seed.execution == "ERROR_RECOVERY" and event.to_stage not in FALLBACK_ENDS:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} takes seed {event.layer}[{event.seed}] to {event.to_stage}, but it is on its fallback, "
            "because its kernel failed; the journal was changed."
        )
    return state.with_seed(
        replace(
            seed,
            stage=event.to_stage,
            execution=EXECUTION[event.to_stage],
            kernel_id=event.kernel_id,
            family=event.family,
            decision_id=event.decision_id,
            alpha=event.alpha,
            alpha_target=event.alpha_target,
            stage_step=event.step,
            stage_epoch=event.epoch,
            errors=seed.errors if event.to_stage in ("CULLED", "RESETTING") else 0,
        )
    )


@_evolve.register
def _(event: AdaptationApplied, state: RunState, before: RunState) -> RunState:
    del before
    seed = state.seed(event.layer, event.seed)
    if seed is None:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} adapts {event.layer}[{event.seed}], which is no seed; the journal was changed."
        )
    counted = event.command in ("GERMINATE", "ADVANCE", "SET_ALPHA")
    adaptations = (state.adaptations if state.adapted_epoch == event.epoch else 0) + 1 if counted else state.adaptations
    changed = replace(seed, adapted_epoch=event.epoch, alpha_target=event.alpha if event.command == "SET_ALPHA" else seed.alpha_target)
    state = replace(state.with_seed(changed), adaptations=adaptations, adapted_epoch=event.epoch if counted else state.adapted_epoch)
    return _heard(state, event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_evolve.register
def _(event: AdaptationRejected, state: RunState, before: RunState) -> RunState:
    del before
    return _heard(state, event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_evolve.register
def _(event: KernelFailed, state: RunState, before: RunState) -> RunState:
    del before
    seed = state.seed(event.layer, event.seed)
    if seed is None:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} fails {event.layer}[{event.seed}], which is no seed; the journal was changed."
        )
    execution = "ERROR_RECOVERY" if event.consecutive_errors >= BREAKER and seed.execution in ("LOADING", "ACTIVE") else seed.execution
    return state.with_seed(replace(seed, errors=event.consecutive_errors, execution=execution))


@_evolve.register
def _(event: EpochEnded, state: RunState, before: RunState) -> RunState:
    if event.state_digest != (digest := before.digest()):
        raise CorruptError(
            f"Event {event.sequence} (EpochEnded, epoch {event.epoch}) of run {event.run_id} was written in another state "
            f"(digest {event.state_digest[:12]}) than the events before it give ({digest[:12]}); the journal was changed."
        )
    return replace(state, epoch=event.epoch + 1)


@_evolve.register
def _(event: RunPaused, state: RunState, before: RunState) -> RunState:
    del before
    return _heard(replace(state, status="PAUSED"), event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_evolve.register
def _(event: RunResumed, state: RunState, before: RunState) -> RunState:
    del before
    state = replace(state, status="RUNNING", incarnation=event.incarnation)
    return _heard(state, event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_evolve.register
def _(event: CheckpointTaken, state: RunState, before: RunState) -> RunState:
    del before
    return _heard(state, event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_evolve.register
def _(event: InstabilityDetected, state: RunState, before: RunState) -> RunState:
    del event
    return replace(state, instabilities=before.instabilities + 1)


@_evolve.register
def _(event: RunCompleted, state: RunState, before: RunState) -> RunState:
    del event, before
    return replace(state, status="COMPLETED")


@_evolve.register
def _(event: RunFailed, state: RunState, before: RunState) -> RunState:
    del event, before
    return replace(state, status="FAILED")


@_evolve.register
def _(event: TelemetryLost, state: RunState, before: RunState) -> RunState:
    del before
    lost = dict(state.lost)
    lost[event.topic] = lost.get(event.topic, 0) + event.lost
    return replace(state, lost=tuple(sorted(lost.items())))


def _heard(state: RunState, command_id: str, topic: str, partition: int, offset: int) -> RunState:
    """The state that knows this command and its position."""
    if not command_id:
        return state
    commands = (*state.commands, command_id)[-KNOWN_COMMANDS:]
    if offset <= state.position(topic, partition):
        return replace(state, commands=commands)
    others = tuple(entry for entry in state.positions if entry[:2] != (topic, partition))
    return replace(state, commands=commands, positions=tuple(sorted((*others, (topic, partition, offset)))))
