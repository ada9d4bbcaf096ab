"""What operators have said of a run, folded from `control.runs`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from esper.events import Event
from esper.events.records import RunAnnotated, RunDeleted


@dataclass(frozen=True, slots=True)
class RunNotes:
    """What people see beside a run: the last word counts.

    Attributes:
        name: Shown beside the id; empty where nobody has given one.
        note: A sentence or a few.
        tags: In the order of the alphabet.
        baseline: Whether others of its recipe are compared with it.
        deleted_at: When it was deleted, microseconds since 1970-01-01 UTC; 0 where it was not.
    """

    name: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()
    baseline: bool = False
    deleted_at: int = 0


NOTHING = RunNotes()
"""What is said of a run of which nobody has said anything."""


def fold(notes: RunNotes, event: Event) -> RunNotes:
    """The notes after an event about the run; the same after an event of another kind."""
    if isinstance(event, RunDeleted):
        return replace(notes, deleted_at=notes.deleted_at or event.occurred_at)
    if not isinstance(event, RunAnnotated):
        return notes
    if event.change == "TAGGED":
        tags = {*notes.tags, *event.added} - set(event.removed)
        return replace(notes, tags=tuple(sorted(tags)))
    if event.change == "NOTED":
        return replace(notes, note=event.text)
    if event.change == "RENAMED":
        return replace(notes, name=event.text)
    return replace(notes, baseline=event.on)


def notes_of(events: Iterable[Event]) -> dict[str, RunNotes]:
    """The notes of each run of which `events`, of each run in order, say something."""
    notes: dict[str, RunNotes] = {}
    for event in events:
        notes[event.run_id] = fold(notes.get(event.run_id, NOTHING), event)
    return notes
