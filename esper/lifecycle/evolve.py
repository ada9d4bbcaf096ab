"""The fold: `Fold` takes in events one after the other, `evolve(state, event) -> state` one of
them. Pure; live and replay use the same rules.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from esper.errors import CorruptError
from esper.events.envelope import JournalEvent
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    CheckpointTaken,
    EpochEnded,
    InstabilityDetected,
    KernelFailed,
    LeftOut,
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
from esper.lifecycle.guardrails import ADAPTATIONS
from esper.lifecycle.stages import EXECUTION, FALLBACK_ENDS, may_follow
from esper.lifecycle.state import KNOWN_COMMANDS, PLAIN, RunState, SeedState, Status, digest_of

BREAKER = 3  # errors in a row that put a seed into ERROR_RECOVERY

E = TypeVar("E", bound=JournalEvent)
Rule = Callable[[Any, "Fold"], None]

_RULES: Final[dict[type[JournalEvent], Rule]] = {}


class Fold:
    """A run while its journal is folded: what RunState holds, changed in place.

    After an error it is of no use any more.
    """

    run_id: str
    status: Status
    timeline: int
    sequence: int
    incarnation: int
    epoch: int
    step: int
    adapted_epoch: int
    adaptations: int
    instabilities: int
    heard: str
    left_out: tuple[LeftOut, ...]

    def __init__(self, state: RunState) -> None:
        for name in PLAIN:
            setattr(self, name, getattr(state, name))
        # a dict for speed, in the inventory's order: `state` gives the seeds back in it
        self.seeds = {(seed.layer, seed.seed): seed for seed in state.seeds}
        self.positions = {
            (topic, partition): offset for topic, partition, offset in state.positions
        }
        self.commands = deque(state.commands, maxlen=KNOWN_COMMANDS)
        self.lost = dict(state.lost)

    def state(self) -> RunState:
        """The state now."""
        return RunState(
            **{name: getattr(self, name) for name in PLAIN},
            seeds=tuple(self.seeds.values()),
            positions=tuple(sorted(self._places())),
            commands=tuple(self.commands),
            lost=tuple(sorted(self.lost.items())),
        )

    def digest(self) -> str:
        """The digest of the state now."""
        return digest_of(self, self.seeds.values(), self._places(), self.lost.items())

    def _places(self) -> list[tuple[str, int, int]]:
        return [(topic, partition, offset) for (topic, partition), offset in self.positions.items()]

    def apply(self, event: JournalEvent) -> None:
        """Take in the next event.

        Raises:
            CorruptError: the event is not the next of this run, or does not follow from the state:
                the journal was changed.
        """
        if event.run_id != self.run_id:
            raise CorruptError(
                f"Event {event.event_id} belongs to run {event.run_id}, not to run "
                f"{self.run_id}; the journal was mixed with another."
            )
        if event.sequence != self.sequence:
            raise CorruptError(_out_of_order(self, event))
        if self.sequence == 0 and not isinstance(event, RunStarted):
            raise CorruptError(
                f"The journal of run {self.run_id} begins with {event.NAME} instead of RunStarted."
            )
        if self.status in ("COMPLETED", "FAILED"):
            raise CorruptError(
                f"Event {event.sequence} ({event.NAME}) of run {self.run_id} comes after "
                f"the run had ended ({self.status}); the journal was changed."
            )
        kind = type(event)
        # nothing else may lead back
        if kind is not RunRolledBack and (
            event.timeline != self.timeline or event.step < self.step or event.epoch < self.epoch
        ):
            raise CorruptError(
                f"Event {event.sequence} ({event.NAME}) of run {self.run_id} stands at "
                f"timeline {event.timeline}, epoch {event.epoch}, step {event.step}, "
                f"behind timeline {self.timeline}, epoch {self.epoch}, step {self.step}; "
                "the journal was changed."
            )
        rule = _RULES.get(kind)
        if rule is None:
            raise CorruptError(
                f"Event {event.sequence} of run {event.run_id} is a {event.NAME}, which "
                "this version of Esper cannot fold; upgrade Esper."
            )
        rule(event, self)
        self.sequence += 1
        self.step = event.step

    def hear(self, command_id: str, topic: str, partition: int, offset: int) -> None:
        """Know a command and its position; nothing without an id."""
        if not command_id:
            return
        self.commands.append(command_id)
        # a chain: the digest covers commands that the list of the last ones has forgotten
        self.heard = hashlib.sha256((self.heard + command_id).encode()).hexdigest()
        # never back: a command that waited may be answered after a later one
        if offset > self.positions.get((topic, partition), -1):
            self.positions[topic, partition] = offset


def evolve(state: RunState, event: JournalEvent) -> RunState:
    """The state after `event`.

    Raises:
        CorruptError: as `Fold.apply` does.
    """
    fold = Fold(state)
    fold.apply(event)
    return fold.state()


def fold(run_id: str, events: Iterable[JournalEvent]) -> RunState:
    """The state after `events`, which are the journal of a run from its first event on.

    Raises:
        CorruptError: as `Fold.apply` does.
    """
    run = Fold(RunState(run_id))
    for event in events:
        run.apply(event)
    return run.state()


def _out_of_order(run: Fold, event: JournalEvent) -> str:
    where = f"The journal of run {run.run_id}"
    if event.sequence > run.sequence:
        return (
            f"{where} lacks event {run.sequence}: {event.NAME} with sequence {event.sequence} "
            f"({event.event_id}) comes in its place."
        )
    return (
        f"{where} has event {event.sequence} ({event.NAME}, {event.event_id}) again or too "
        f"late, where event {run.sequence} should come."
    )


def _rule(kind: type[E]) -> Callable[[Callable[[E, Fold], None]], Callable[[E, Fold], None]]:
    """Register what a kind of event changes.

    Rules see the run as it was when the event was decided; `apply` moves sequence and step after
    them.
    """

    def register(rule: Callable[[E, Fold], None]) -> Callable[[E, Fold], None]:
        _RULES[kind] = rule
        return rule

    return register


@_rule(RunStarted)
def _(event: RunStarted, run: Fold) -> None:
    if run.status != "NEW":
        raise CorruptError(
            f"Run {event.run_id} starts a second time at event {event.sequence}; the "
            "journal was changed."
        )
    run.status, run.incarnation = "RUNNING", event.incarnation
    run.seeds = {
        (layer.name, index): SeedState(layer.name, index)
        for layer in event.layers
        for index in range(len(layer.chunks))
    }


@_rule(RunRolledBack)
def _(event: RunRolledBack, run: Fold) -> None:
    """The state of the snapshot in a new timeline; what was asked, lost and unstable
    stays known.
    """
    if event.from_timeline != run.timeline or event.from_step < run.step:
        raise CorruptError(
            f"Event {event.sequence} (RunRolledBack) of run {run.run_id} leaves timeline "
            f"{event.from_timeline}, step {event.from_step}, but "
            f"the run is in timeline {run.timeline}, step {run.step}; the journal was changed."
        )
    if (
        event.timeline != run.timeline + 1
        or event.step > event.from_step
        or event.epoch > run.epoch
    ):
        raise CorruptError(
            f"Event {event.sequence} (RunRolledBack) of run {run.run_id} leads from "
            f"timeline {run.timeline}, epoch {run.epoch}, step "
            f"{event.from_step}, to timeline {event.timeline}, epoch {event.epoch}, step "
            f"{event.step}, which is not back; the journal was changed."
        )
    if [(seed.layer, seed.seed) for seed in event.seeds] != list(run.seeds):
        raise CorruptError(
            f"Event {event.sequence} (RunRolledBack) of run {run.run_id} restores other "
            "seeds than the run has; the journal was changed."
        )
    run.status, run.timeline, run.epoch = "RUNNING", event.timeline, event.epoch
    run.seeds = {(seed.layer, seed.seed): SeedState(**asdict(seed)) for seed in event.seeds}
    # commands, positions and instabilities stay: forgotten, they would let a command be applied
    # twice and a failing kernel roll the run back forever
    run.adapted_epoch, run.adaptations = event.adapted_epoch, event.adaptations
    run.hear(event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_rule(RunForked)
def _(event: RunForked, run: Fold) -> None:
    if run.sequence != 1:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} is a RunForked, which can only "
            "be the second of a journal; the journal was changed."
        )
    if [(seed.layer, seed.seed) for seed in event.seeds] != list(run.seeds):
        raise CorruptError(
            f"Event {event.sequence} (RunForked) of run {event.run_id} brings other seeds "
            "than the run has; the journal was changed."
        )
    run.epoch = event.epoch
    run.seeds = {(seed.layer, seed.seed): SeedState(**asdict(seed)) for seed in event.seeds}
    run.adapted_epoch, run.adaptations, run.left_out = (
        event.adapted_epoch,
        event.adaptations,
        event.left_out,
    )


@_rule(SeedTransitioned)
def _(event: SeedTransitioned, run: Fold) -> None:
    place = (event.layer, event.seed)
    seed, to_stage = run.seeds.get(place), event.to_stage
    if seed is None or seed.stage != event.from_stage or not may_follow(event.from_stage, to_stage):
        stage = "no such seed" if seed is None else seed.stage
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} takes seed "
            f"{event.layer}[{event.seed}] from {event.from_stage} to {to_stage}, "
            f"but it is {stage}; the journal was changed."
        )
    if seed.execution == "ERROR_RECOVERY" and to_stage not in FALLBACK_ENDS:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} takes seed "
            f"{event.layer}[{event.seed}] to {to_stage}, but it is on its fallback, "
            "because its kernel failed; the journal was changed."
        )
    run.seeds[place] = seed.changed(
        stage=to_stage,
        execution=EXECUTION[to_stage],
        kernel_id=event.kernel_id,
        family=event.family,
        decision_id=event.decision_id,
        alpha=event.alpha,
        alpha_target=event.alpha_target,
        stage_step=event.step,
        stage_epoch=event.epoch,
        # on the way out the count stays: it says why the seed was given up
        errors=seed.errors if to_stage in FALLBACK_ENDS else 0,
    )


@_rule(AdaptationApplied)
def _(event: AdaptationApplied, run: Fold) -> None:
    place = (event.layer, event.seed)
    seed = run.seeds.get(place)
    if seed is None:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} adapts "
            f"{event.layer}[{event.seed}], which is not a seed; the journal was changed."
        )
    alpha_target = event.alpha if event.command == "SET_ALPHA" else seed.alpha_target
    run.seeds[place] = seed.changed(adapted_epoch=event.epoch, alpha_target=alpha_target)
    if event.command in ADAPTATIONS:
        # counted by epoch: the first of an epoch begins at 0
        run.adaptations = (run.adaptations if run.adapted_epoch == event.epoch else 0) + 1
        run.adapted_epoch = event.epoch
    run.hear(event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_rule(AdaptationRejected)
def _(event: AdaptationRejected, run: Fold) -> None:
    run.hear(event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_rule(KernelFailed)
def _(event: KernelFailed, run: Fold) -> None:
    place = (event.layer, event.seed)
    seed = run.seeds.get(place)
    if seed is None:
        raise CorruptError(
            f"Event {event.sequence} of run {event.run_id} fails "
            f"{event.layer}[{event.seed}], which is not a seed; the journal was changed."
        )
    execution = (
        "ERROR_RECOVERY"
        if event.consecutive_errors >= BREAKER and seed.execution in ("LOADING", "ACTIVE")
        else seed.execution
    )
    run.seeds[place] = seed.changed(errors=event.consecutive_errors, execution=execution)


@_rule(EpochEnded)
def _(event: EpochEnded, run: Fold) -> None:
    # before the epoch counts: `decide` took the digest there
    if event.state_digest != (digest := run.digest()):
        raise CorruptError(
            f"Event {event.sequence} (EpochEnded, epoch {event.epoch}) of run "
            f"{event.run_id} was written in another state "
            f"(digest {event.state_digest[:12]}) than the events before it give "
            f"({digest[:12]}); the journal was changed."
        )
    run.epoch = event.epoch + 1


@_rule(RunPaused)
def _(event: RunPaused, run: Fold) -> None:
    run.status = "PAUSED"
    run.hear(event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_rule(RunResumed)
def _(event: RunResumed, run: Fold) -> None:
    run.status, run.incarnation = "RUNNING", event.incarnation
    run.hear(event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_rule(CheckpointTaken)
def _(event: CheckpointTaken, run: Fold) -> None:
    run.hear(event.command_id, event.source_topic, event.source_partition, event.source_offset)


@_rule(InstabilityDetected)
def _(event: InstabilityDetected, run: Fold) -> None:
    del event
    run.instabilities += 1


@_rule(RunCompleted)
def _(event: RunCompleted, run: Fold) -> None:
    del event
    run.status = "COMPLETED"


@_rule(RunFailed)
def _(event: RunFailed, run: Fold) -> None:
    del event
    run.status = "FAILED"


@_rule(TelemetryLost)
def _(event: TelemetryLost, run: Fold) -> None:
    run.lost[event.topic] = run.lost.get(event.topic, 0) + event.lost
