"""A run as the control API shows it: its overview, its newest snapshots, and how its trainer has
answered requests. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from esper.events import Event, JournalEvent
from esper.events.records import AdaptationRejected, CheckpointTaken
from esper.lifecycle import overview
from esper.lifecycle.overview import RunOverview

KEPT_CHECKPOINTS = 50
KEPT_ANSWERS = 64
_REQUESTS = "control."
"""What the topics of requests begin with."""


@dataclass(frozen=True, slots=True)
class RequestAnswer:
    """How a trainer has answered a request: the journal's record, where it stands, and why, where
    it says so.
    """

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
class RunStatus(RunOverview):
    """The overview, the newest `checkpoints` from old to new, and the newest `answers` by the
    request's id.
    """

    checkpoints: tuple[Checkpoint, ...] = ()
    answers: Mapping[str, RequestAnswer] = field(default_factory=dict)


def fold(status: RunStatus, event: Event) -> RunStatus:
    """The status after an event of the run's journal; the same when it was folded before."""
    after = overview.fold(status, event)
    if after is status or not isinstance(event, JournalEvent):
        return status
    if isinstance(event, CheckpointTaken):
        after = replace(
            after, checkpoints=(*after.checkpoints, _checkpoint(event))[-KEPT_CHECKPOINTS:]
        )
    return _answered(after, event)


def _checkpoint(event: CheckpointTaken) -> Checkpoint:
    return Checkpoint(
        event.snapshot_id,
        event.at_timeline,
        event.at_step,
        event.at_epoch,
        event.size_bytes,
        event.reason,
        event.occurred_at,
    )


def _answered(status: RunStatus, event: JournalEvent) -> RunStatus:
    command_id: str = getattr(event, "command_id", "")
    if not command_id or not getattr(event, "source_topic", "").startswith(_REQUESTS):
        return status
    reason = event.reason if isinstance(event, AdaptationRejected) else ""
    answers = {
        **status.answers,
        command_id: RequestAnswer(
            event.NAME, event.sequence, event.step, event.occurred_at, reason
        ),
    }
    # a dict keeps the order of insertion: the first are the oldest
    for oldest in list(answers)[:-KEPT_ANSWERS]:
        del answers[oldest]
    return replace(status, answers=answers)
