"""The trainer's pen: decide, write the frame durably, then evolve. Tensors follow the state that comes out."""

from __future__ import annotations

from collections.abc import Callable

from esper.events import JournalEvent, Origin, encode
from esper.lifecycle import Context, Guardrails, RunState, decide, evolve
from esper.lifecycle.commands import RunCommand, Source
from esper.oona.frames import Frame
from esper.oona.outbox import Outbox


class Journal:
    """One run's journal at its writer. `state` is the folded state of everything written."""

    def __init__(self, *, state: RunState, outbox: Outbox, origin: Origin, guardrails: Guardrails, notify: Callable[[], None]) -> None:
        self.state = state
        self._outbox = outbox
        self._origin = origin
        self._guardrails = guardrails
        self._notify = notify

    def do(self, command: RunCommand, step: int) -> tuple[JournalEvent, ...]:
        """Carry out a command at `step`: its events are on the disk before the state changes.

        Raises:
            RejectedError: the command does not fit the state.
            StorageFullError: the disk is full; nothing changed, the call may be repeated.
            FencedError: another writer has taken over this run.
        """
        events = decide(self.state, command, Context(self._origin, step, self._guardrails))
        if not events:
            return ()
        source: Source | None = getattr(command, "source", None)
        position = (source.topic, source.partition, source.offset) if source and source.topic else None
        frame = Frame(
            first_sequence=events[0].sequence,
            events=tuple(encode(event) for event in events),
            incarnation=self.state.incarnation,
            command_id=source.command_id if source else "",
            command_position=position,
        )
        self._outbox.append(frame)
        for event in events:
            self.state = evolve(self.state, event)
        self._notify()
        return events
