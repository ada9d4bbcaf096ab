"""A run as its journal tells it, for people: light, tolerant of records that it does not know, without the proof that a replay gives. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, Literal

from esper.events import Event, JournalEvent
from esper.events.records import (
    AdaptationRejected,
    CheckpointTaken,
    EpochEnded,
    InstabilityDetected,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
    Stage,
)

Status = Literal["RUNNING", "PAUSED", "COMPLETED", "FAILED"]
KEPT_CHECKPOINTS = 50
KEPT_ANSWERS = 64
_REQUESTS = "control."
"""What the topics of requests begin with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a trainer has answered a request: the journal's record, where it stands, and why, where it says so."""

    event: str
    sequence: int
    step: int
    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A snapshot: timeline, step and epoch of the state that it holds, bytes uncompressed."""

    snapshot_id: str
    timeline: int
    step: int
    epoch: int
    size_bytes: int
    reason: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Losses in nats, accuracies as fractions, times in microseconds since 1970; what is not known yet is None or empty."""

    run_id: str
    status: Status = "RUNNING"
    reason: str = ""
    recipe: str = ""
    decisions: str = ""
    sequence: int = -1
    timeline: int = 0
    incarnation: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    parameters: int = 0
    started_at: int = 0
    updated_at: int = 0
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    rollbacks: int = 0
    instability: str = ""
    seeds: Mapping[tuple[str, int], Stage] = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing follows any more."""
        return self.status in ("COMPLETED", "FAILED")

    def stages(self) -> dict[str, int]:
        """Seeds by stage."""
        return dict(sorted(Counter(self.seeds.values()).items()))


def fold(status: RunStatus, event: Event) -> RunStatus:
    """The status after an event of the run's journal; the same when it was folded before."""
    if not isinstance(event, JournalEvent) or event.sequence <= status.sequence:
        return status
    at = replace(status, sequence=event.sequence, timeline=event.timeline, epoch=event.epoch, step=event.step, updated_at=event.occurred_at)
    return _answered(_fold(event, at), event)


def _answered(status: RunStatus, event: JournalEvent) -> RunStatus:
    command_id: str = getattr(event, "command_id", "")
    if not command_id or not getattr(event, "source_topic", "").startswith(_REQUESTS):
        return status
    reason = event.reason if isinstance(event, AdaptationRejected) else ""
    answers = {**status.answers, command_id: Answer(event.NAME, event.sequence, event.step, event.occurred_at, reason)}
    for oldest in list(answers)[:-KEPT_ANSWERS]:
        del answers[oldest]
    return replace(status, answers=answers)


@singledispatch
def _fold(event: Any, status: RunStatus) -> RunStatus:
    """Records without a meaning here."""
    del event
    return status


@_fold.register
def _(event: RunStarted, status: RunStatus) -> RunStatus:
    return replace(
        status,
        recipe=event.recipe,
        decisions=event.decisions,
        incarnation=event.incarnation,
        total_steps=event.total_steps,
        parameters=event.parameters,
        started_at=event.occurred_at,
        seeds={(layer.name, index): "DORMANT" for layer in event.layers for index in range(len(layer.chunks))},
    )


@_fold.register
def _(event: SeedTransitioned, status: RunStatus) -> RunStatus:
    return replace(status, seeds={**status.seeds, (event.layer, event.seed): event.to_stage})


@_fold.register
def _(event: EpochEnded, status: RunStatus) -> RunStatus:
    return replace(
        status,
        epoch=event.epoch + 1,
        train_loss=event.train_loss,
        train_accuracy=event.train_accuracy,
        validation_loss=event.validation_loss,
        validation_accuracy=event.validation_accuracy,
        loss=event.test_loss,
        accuracy=event.test_accuracy,
    )


@_fold.register
def _(event: CheckpointTaken, status: RunStatus) -> RunStatus:
    taken = Checkpoint(
        event.snapshot_id, event.at_timeline, event.at_step, event.at_epoch, event.size_bytes, event.reason, event.occurred_at
    )
    return replace(status, checkpoints=(*status.checkpoints, taken)[-KEPT_CHECKPOINTS:])


@_fold.register
def _(event: InstabilityDetected, status: RunStatus) -> RunStatus:
    return replace(status, instability=event.reason)


@_fold.register
def _(event: RunForked, status: RunStatus) -> RunStatus:
    return replace(status, reason=event.reason, seeds={(seed.layer, seed.seed): seed.stage for seed in event.seeds})


@_fold.register
def _(event: RunRolledBack, status: RunStatus) -> RunStatus:
    seeds = {(seed.layer, seed.seed): seed.stage for seed in event.seeds}
    return replace(status, rollbacks=status.rollbacks + 1, reason=event.reason, seeds=seeds)


@_fold.register
def _(event: RunPaused, status: RunStatus) -> RunStatus:
    return replace(status, status="PAUSED", reason=event.reason)


@_fold.register
def _(event: RunResumed, status: RunStatus) -> RunStatus:
    return replace(status, status="RUNNING", reason=event.reason, incarnation=event.incarnation)


@_fold.register
def _(event: RunCompleted, status: RunStatus) -> RunStatus:
    return replace(status, status="COMPLETED", reason=event.outcome, accuracy=event.accuracy, loss=event.loss, parameters=event.parameters)


@_fold.register
def _(event: RunFailed, status: RunStatus) -> RunStatus:
    return replace(status, status="FAILED", reason=event.reason)
