"""The trainer's side of the journal: decide, write the frame durably, then evolve.

Tensors follow the state that comes out.

A resumed run re-executes what its journal has recorded after the snapshot. Until that record is
used up, `do` takes the events from there instead of writing them: what the trainer decides anew has
to be what stands there. Without an outbox there is nothing but the record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from esper.errors import CorruptError
from esper.events import JournalEvent, Origin, encode
from esper.events.records import (
    CheckpointTaken,
    EpochEnded,
    KernelFailed,
    RunCompleted,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
)
from esper.events.seals import SealChain
from esper.kasmina.growth import Place
from esper.lifecycle import Context, Guardrails, RunState, decide, evolve
from esper.lifecycle.commands import RunCommand, Source
from esper.oona.durable.frames import Frame


def derived(event: JournalEvent) -> bool:
    """Whether the trainer decides this event by itself from what it computes.

    All others came from outside, and are applied where they stand.
    """
    if isinstance(event, SeedTransitioned):
        # with a cause it follows from a command; TRAINING begins when a kernel happens to arrive
        return event.causation_id is None and event.to_stage != "TRAINING"
    return isinstance(event, RunStarted | EpochEnded | RunCompleted)


class Diverged(CorruptError):  # noqa: N818  # reads as what the run did
    """Re-executed, a run does something else than its journal has: `recorded` is the event that
    stands there, `decided` what came instead.
    """

    def __init__(
        self, sentence: str, recorded: JournalEvent | None, decided: JournalEvent | None
    ) -> None:
        super().__init__(sentence)
        self.recorded = recorded
        self.decided = decided

    def __reduce__(self) -> tuple[Any, ...]:
        # from a process that executes again: an exception is else made of its text alone
        return Diverged, (str(self), self.recorded, self.decided)


class FrameLog(Protocol):
    """Where frames are written: the outbox."""

    def append(self, frame: Frame) -> None:
        """Make a frame durable, or raise."""


class Journal:
    """One run's journal at its writer.

    `state` is the folded state of everything written, or re-executed so far.

    `used_up` is called when the last recorded event has been taken. `chain` seals what is written;
    what is only re-executed is not sealed.
    """

    def __init__(
        self,
        *,
        state: RunState,
        outbox: FrameLog | None,
        origin: Origin,
        guardrails: Guardrails,
        notify: Callable[[], None],
        chain: SealChain | None = None,
        recorded: Iterable[JournalEvent] = (),
    ) -> None:
        self.state = state
        self._outbox = outbox
        self._origin = origin
        self._guardrails = guardrails
        self._notify = notify
        self._chain = chain
        self._recorded = deque(recorded)
        self.used_up: Callable[[], None] = lambda: None

    @property
    def replaying(self) -> bool:
        """Whether recorded events are still to be re-executed; without an outbox, always."""
        return self._outbox is None or bool(self._recorded)

    @property
    def past_snapshots(self) -> bool:
        """Whether what is left of the record that a resumed run re-executes has no snapshot, and
        nothing that leaves snapshots behind.
        """
        return self._outbox is not None and not any(
            isinstance(event, CheckpointTaken | RunRolledBack) for event in self._recorded
        )

    def do(self, command: RunCommand, step: int) -> tuple[JournalEvent, ...]:
        """Carry out a command at `step`: its events are on the disk before the state changes.

        Raises:
            RejectedError: the command does not fit the state.
            StorageFullError: the disk is full; nothing changed, the call may be repeated.
            FencedError: another writer has taken over this run.
            Diverged: re-executed, the run does something else than its journal has recorded.
        """
        events = decide(self.state, command, Context(self._origin, step, self._guardrails))
        if not events:
            return ()
        if self._recorded or self._outbox is None:
            return tuple(self._again(event) for event in events)
        source: Source | None = getattr(command, "source", None)
        position = (
            (source.topic, source.partition, source.offset) if source and source.topic else None
        )
        messages, head = (
            self._chain.sealed(events)
            if self._chain is not None
            else (tuple(map(encode, events)), "")
        )
        # one frame: a crash leaves all events of a decision, or none
        frame = Frame(
            first_sequence=events[0].sequence,
            events=messages,
            incarnation=self.state.incarnation,
            command_id=source.command_id if source else "",
            command_position=position,
        )
        # durable first: a crash then leaves an event to fold, never a state that no event explains
        self._outbox.append(frame)
        if self._chain is not None:
            self._chain.head = head  # not sooner: a frame that found no room may be made anew
        for event in events:
            self.state = evolve(self.state, event)
        self._notify()
        return events

    def outside(self, step: int, *, after_step: bool) -> JournalEvent | None:
        """The next recorded event, if it came from outside at `step`; `accept` takes it.

        Failures of kernels that happened in step number `step` come only `after_step`.

        Raises:
            Diverged: the run has passed the step of the next recorded event.
        """
        if not self._recorded or derived(head := self._recorded[0]) or head.step > step:
            return None
        if head.step < step:
            raise Diverged(
                f"Re-executed, run {self.state.run_id} stands at step {step}, but event "
                f"{head.sequence} ({head.NAME}) of its journal belongs to "
                f"step {head.step}; the code or the settings differ from those it was "
                "trained with.",
                head,
                None,
            )
        return None if not after_step and in_step(head) else head

    def record(self, events: Iterable[JournalEvent]) -> None:
        """Have more events re-executed, after those that are left."""
        self._recorded.extend(events)

    def accept(self) -> JournalEvent:
        """Take the next recorded event."""
        event = self._recorded.popleft()
        self.state = evolve(self.state, event)
        if not self._recorded:
            self.used_up()
        return event

    def failures(self, step: int) -> frozenset[Place]:
        """Kernels that failed in step number `step` by the record: they ran on their fallback."""
        failed = []
        for event in self._recorded:
            if event.step != step or derived(event):
                # a derived event ends it: failures behind that one belong to a later moment
                break
            if isinstance(event, KernelFailed) and in_step(event):
                failed.append((event.layer, event.seed))
        return frozenset(failed)

    def _again(self, event: JournalEvent) -> JournalEvent:
        """The recorded event in the place of one that was decided anew."""
        head = self._recorded[0] if self._recorded else None
        # the id is made of timeline, sequence, kind, step and subject: one comparison covers them
        if head is None or head.event_id != event.event_id:
            recorded = (
                "nothing"
                if head is None
                else f"{head.NAME} at epoch {head.epoch}, step {head.step}"
            )
            raise Diverged(
                f"Re-executed, run {event.run_id} decides {event.NAME} at epoch "
                f"{event.epoch}, step {event.step}, where its journal has {recorded} "
                f"(event {event.sequence}); the code or the settings differ from those "
                "it was trained with.",
                head,
                event,
            )
        if (
            isinstance(head, EpochEnded)
            and isinstance(event, EpochEnded)
            # an id says nothing of tensors: here their bits are held against the record
            and head.parameters_digest != event.parameters_digest
        ):
            raise Diverged(
                f"Re-executed, epoch {head.epoch} of run {event.run_id} ends with other "
                f"parameters (digest {event.parameters_digest[:12]}) "
                f"than its journal has ({head.parameters_digest[:12]}); the code, the "
                "settings or the machine differ from those it was "
                "trained with.",
                head,
                event,
            )
        return self.accept()


def in_step(event: JournalEvent) -> bool:
    """Whether an event at step N happened within step number N, after all others at N."""
    return isinstance(event, KernelFailed) and event.phase != "LOAD"
