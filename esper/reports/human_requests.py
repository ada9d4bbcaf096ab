"""What people asked of a run, who asked, and what the trainer did. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from esper.events import Event, JournalEvent
from esper.events.records import (
    AuditRecorded,
    CheckpointRequested,
    CheckpointTaken,
    PauseRequested,
    ResumeRequested,
    RollbackRequested,
    RunAnnotated,
    RunDeleted,
    RunPaused,
    RunResumed,
    RunRolledBack,
)
from esper.reports.material import Material
from esper.reports.moments import moment

_ANSWERS: Final[Mapping[str, str]] = {
    RunPaused.NAME: "pause",
    RunResumed.NAME: "resume",
    RunRolledBack.NAME: "roll back",
    CheckpointTaken.NAME: "checkpoint",
}


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """One request or remark.

    Attributes:
        at: When it was asked for, or answered where only the answer is at hand.
        who: Name of the person or part; None where no record at hand has it.
        what: What was asked for.
        why: The words that came with it.
        answer: What was done.
        event: Event of the journal that answers; None where the journal has none.
        record: Name of the record that says so.
    """

    at: str
    who: str | None
    what: str
    why: str
    answer: str
    event: int | None
    record: str


def human_requests(material: Material) -> tuple[RequestFacts, ...]:
    """Requests that the journal answers, words on the run, and records of who asked a part."""
    found = [*_answered(material), *_annotated(material), *_recorded(material)]
    return tuple(sorted(found, key=lambda one: (one.at, one.event or 0, one.what)))


def _answered(material: Material) -> Iterator[RequestFacts]:
    asked: dict[str, Event] = {
        request.event_id: request
        for kind in (PauseRequested, ResumeRequested, CheckpointRequested, RollbackRequested)
        for request in material.every(kind)
    }
    for event in material.journal:
        if isinstance(event, RunPaused | RunResumed | RunRolledBack | CheckpointTaken):
            if not event.command_id:
                continue  # the trainer's own decision
            request = asked.get(event.command_id)
            yield RequestFacts(
                at=moment(event.occurred_at if request is None else request.occurred_at),
                who=None if request is None else f"through {request.sender_id}",
                what=_ANSWERS[event.NAME],
                why=str(getattr(request, "reason", event.reason)),
                answer=_done(event),
                event=event.sequence,
                record=event.NAME,
            )


def _done(event: JournalEvent) -> str:
    where = f"step {event.step} of timeline {event.timeline}"
    if isinstance(event, RunRolledBack | CheckpointTaken):
        return f"snapshot {event.snapshot_id} at {where}"
    return f"done at {where}"


def _annotated(material: Material) -> Iterator[RequestFacts]:
    for event in material.every(RunAnnotated):
        yield RequestFacts(
            at=moment(event.occurred_at),
            who=event.actor or None,
            what=_said(event),
            why=event.text,
            answer="noted; journal and training do not change",
            event=None,
            record=event.NAME,
        )
    for gone in material.every(RunDeleted):
        yield RequestFacts(
            at=moment(gone.occurred_at),
            who=gone.actor or None,
            what="delete the run",
            why="",
            answer=f"{gone.snapshots} snapshots and {gone.files} files",
            event=None,
            record=gone.NAME,
        )


def _said(event: RunAnnotated) -> str:
    if event.change == "TAGGED":
        return " ".join(
            ["tag", *(f"+{tag}" for tag in event.added), *(f"-{tag}" for tag in event.removed)]
        )
    if event.change == "BASELINE":
        return f"baseline {'on' if event.on else 'off'}"
    return "note" if event.change == "NOTED" else "name"


def _recorded(material: Material) -> Iterator[RequestFacts]:
    for event in material.every(AuditRecorded):
        yield RequestFacts(
            at=moment(event.occurred_at),
            who=f"{event.actor} ({event.role})" if event.role else event.actor or None,
            what=f"{event.action} {event.resource}".strip(),
            why=event.detail,
            answer=f"status {event.status} by {event.sender_id}",
            event=None,
            record=event.NAME,
        )
