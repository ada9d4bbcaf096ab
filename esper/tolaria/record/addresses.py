"""Which states of a run there are, by its journal, and from where each can be reached again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken, RunCompleted, RunFailed, RunForked, RunRolledBack
from esper.tolaria.record.journal import derived, in_step


@dataclass(frozen=True, slots=True)
class Address:
    """A state of a run: `step` optimizer steps completed in `timeline`, after the first `sequence`
    events of the journal.

    Several states may share timeline and step: a command that is applied between two steps changes
    the state without a step.
    """

    timeline: int
    step: int
    sequence: int

    def __str__(self) -> str:
        return f"step {self.step} of timeline {self.timeline}"


@dataclass(frozen=True, slots=True)
class TimelineSpan:
    """One timeline in the journal: its events are those from `begin` to before `end`, its steps
    those from `first` to `last`.

    `opened` is the rollback, or in the first timeline the fork, that it goes on from; None when it
    begins with nothing.
    """

    timeline: int
    begin: int
    end: int
    first: int
    last: int
    opened: RunRolledBack | RunForked | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """A state from which others are reached, and its snapshot in the store: key and SHA-256 of the
    manifest.

    The snapshot is of `source`; `at` is where the run stands once it is restored: the same, or the
    beginning of a timeline that goes on from it. `source` is None where the snapshot is of another
    run.
    """

    at: Address
    source: Address | None
    name: str
    key: str
    sha256: str

    @property
    def opens(self) -> bool:
        """Whether a timeline begins here."""
        return self.at != self.source


def lines(events: Sequence[JournalEvent]) -> list[TimelineSpan]:
    """Every timeline of a journal, in their order.

    A run that has not ended may have done more steps than its journal can tell.
    """
    begins = [
        number
        for number, event in enumerate(events)
        if number == 0 or event.timeline != events[number - 1].timeline
    ]
    spans = []
    for begin, end in zip(begins, [*begins[1:], len(events)], strict=True):
        opened = next(
            (
                event
                # a rollback opens a timeline with its first event, a fork with its second
                for event in events[begin : begin + 2]
                if isinstance(event, RunRolledBack | RunForked)
            ),
            None,
        )
        after = events[end] if end < len(events) else None
        # steps behind the last event show only in the rollback that left them
        last = after.from_step if isinstance(after, RunRolledBack) else events[end - 1].step
        # a fork's RunStarted stands at step 0, its first state at the parent's step
        first = opened.parent_step if isinstance(opened, RunForked) else events[begin].step
        spans.append(TimelineSpan(events[begin].timeline, begin, end, first, last, opened))
    return spans


def line_of(events: Sequence[JournalEvent], timeline: int) -> TimelineSpan:
    """The line of a timeline.

    Raises:
        UsageError: the run has no such timeline.
    """
    spans = lines(events)
    span = next((line for line in spans if line.timeline == timeline), None)
    if span is None:
        raise UsageError(
            f"Run {events[0].run_id} has no timeline {timeline}; its timelines are "
            f"{spans[0].timeline} to {spans[-1].timeline}."
        )
    return span


def address_of(
    events: Sequence[JournalEvent],
    step: int | None,
    *,
    timeline: int | None = None,
    sequence: int | None = None,
) -> Address:
    """The state after `step` optimizer steps, with everything that the journal has between that
    step and the next but the run's end.

    With `sequence`, which has to fit the step, it is the one after so many events.

    Without a step it is the last that the journal knows of. Without a timeline it is the present
    one, or the one that it goes on from where it begins later than at `step`.

    Raises:
        UsageError: there is no such state.
    """
    line = line_of(events, events[-1].timeline if timeline is None else timeline)
    step = line.last if step is None else step
    # a step before the rollback lies in the timeline that was left
    while timeline is None and isinstance(line.opened, RunRolledBack) and step < line.first:
        line = line_of(events, _source(events, line.opened).at_timeline)
    if not line.first <= step <= line.last:
        within = f" in timeline {line.timeline}" if line.timeline or line.end < len(events) else ""
        raise UsageError(
            f"Run {events[0].run_id} has no step {step}{within}: its steps there are "
            f"{line.first} to {line.last}."
        )
    most = next(
        (event.sequence for event in events[line.begin : line.end] if _later(event, step)), line.end
    )
    # what the trainer derives at this step belongs to reaching it: no state lies before it
    before = [
        event.sequence for event in events[line.begin : most] if event.step < step or derived(event)
    ]
    # a command between two steps leaves the step as it is: several states may share it
    least = max(_opening(events, line), before[-1] + 1 if before else 0)
    if sequence is not None and not least <= sequence <= most:
        raise UsageError(
            f"At step {step} of timeline {line.timeline}, run {events[0].run_id} has had "
            f"{least} to {most} events, not {sequence}."
        )
    return Address(line.timeline, step, most if sequence is None else sequence)


def anchors(events: Sequence[JournalEvent], address: Address) -> Iterator[Anchor]:
    """From where the state at `address` can be reached, the nearest first: snapshots of its
    timeline, then what opened the timeline.

    None of them is left when the timeline began with nothing: then it is the first step.
    """
    line = line_of(events, address.timeline)
    snapshots = [
        event
        for event in events
        if isinstance(event, CheckpointTaken)
        and event.at_timeline == address.timeline
        and event.at_step <= address.step
        # the step alone is not enough: a snapshot of the same step may hold a later command
        and event.at_sequence <= address.sequence
    ]
    for event in sorted(
        snapshots, key=lambda snapshot: (snapshot.at_step, snapshot.at_sequence), reverse=True
    ):
        at = _address(event)
        yield Anchor(at, at, event.snapshot_id, event.address, event.sha256)
    opened = line.opened
    if opened is None:
        return
    at = Address(line.timeline, line.first, _opening(events, line))
    if isinstance(opened, RunForked):
        yield Anchor(
            at,
            None,
            f"of run {opened.parent_run_id} at step {opened.parent_step}",
            opened.address,
            opened.sha256,
        )
    else:
        source = _source(events, opened)
        yield Anchor(at, _address(source), source.snapshot_id, source.address, source.sha256)


def _later(event: JournalEvent, step: int) -> bool:
    """Whether an event comes after what lies between step number `step` and the one before it."""
    return event.step > step or (
        event.step == step and (in_step(event) or isinstance(event, RunCompleted | RunFailed))
    )


def _opening(events: Sequence[JournalEvent], line: TimelineSpan) -> int:
    """The number of events after which a timeline has been opened, with all that its opening
    caused.
    """
    if line.opened is None:
        return line.begin
    follow = line.opened.sequence + 1
    # the resets that a rollback causes are part of it: no state lies between them
    while follow < line.end and events[follow].causation_id == line.opened.event_id:
        follow += 1
    return follow


def _source(events: Sequence[JournalEvent], rolled: RunRolledBack) -> CheckpointTaken:
    """The snapshot that a rollback restored."""
    return next(
        event
        for event in reversed(events[: rolled.sequence])
        if isinstance(event, CheckpointTaken) and event.snapshot_id == rolled.snapshot_id
    )


def _address(snapshot: CheckpointTaken) -> Address:
    return Address(snapshot.at_timeline, snapshot.at_step, snapshot.at_sequence)
