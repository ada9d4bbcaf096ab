"""What comes to a run from outside: requests and decisions carried out, kernels put into their
slots.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.records import CheckpointRequested, RollbackRequested
from esper.lifecycle.commands import Source
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.exchange.command_intake import Vetting, commands_of
from esper.tolaria.session.recording import Recorder
from esper.tolaria.session.snapshotting import Snapshotting


@dataclass(slots=True)
class Mailbox:
    """Takes what was delivered to the run, in its order."""

    recorder: Recorder
    snapshots: Snapshotting

    def empty(self) -> None:
        """Carry out everything that has come."""
        for delivered in self.recorder.parts.consultation.take():
            self.handle(delivered)

    def handle(self, delivered: Delivered) -> None:
        """Carry out what a delivered message asks for."""
        recorder, event = self.recorder, delivered.event
        source = Source(event.event_id, *delivered.position)
        if isinstance(event, RollbackRequested):
            # here, too: a rollback begins before `decide` could drop a repeated command
            if source.command_id not in recorder.state.commands:
                self.snapshots.roll_back(
                    event.snapshot_id, event.reason, source, at_most_epoch=event.at_most_epoch
                )
        elif isinstance(event, CheckpointRequested):
            if source.command_id not in recorder.state.commands:
                self.snapshots.requested = source
        else:
            vetting = Vetting(
                recorder.parts.consultation.catalogue.kernels, recorder.parts.growing.shapes()
            )
            for command in commands_of(
                delivered, vetting=vetting, incarnation=recorder.state.incarnation
            ):
                recorder.do(command)

    def place_loaded(self) -> None:
        """Put the kernels that have arrived into their slots."""
        for command in self.recorder.parts.grafting.arrived(self.recorder.state):
            self.recorder.do(command)

    def stopping(self) -> bool:
        """Whether a person wants the run to end.

        A run that another trainer has taken over waits for nobody.
        """
        self.recorder.parts.require_pen()
        return self.recorder.standing.stop
