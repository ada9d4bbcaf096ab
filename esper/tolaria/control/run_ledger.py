"""What the process knows of all runs: their journals, the requests to them and what operators say
of them, read from the beginning and followed, in a thread.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from functools import partial
from typing import Any, Final

from esper.errors import CorruptError, PoisonError
from esper.events import Event, JournalEvent
from esper.events.records import PauseRequested, RunAnnotated, RunStarted
from esper.lifecycle.annotations import NOTHING, RunNotes
from esper.lifecycle.annotations import fold as fold_notes
from esper.oona.bus.port import Bus, Start
from esper.oona.durable.authentic import Aside, Journals
from esper.oona.inbound.consumer_progress import ConsumerProgress, lag
from esper.oona.inbound.intake import RETRIABLE, Intake
from esper.tolaria.control.run_status import RunStatus, fold

_log = logging.getLogger(__name__)
JOURNALS: Final = RunStarted.TOPIC
REQUESTS: Final = PauseRequested.TOPIC
NOTES: Final = RunAnnotated.TOPIC
_BATCH: Final = 2_000
_POLL_S: Final = 0.25
_PAUSE_S: Final = 1.0
_KEPT_REQUESTS: Final = 10_000


class RunLedger(threading.Thread):
    """Every run by id with its notes, and the requests of the last days by theirs.

    Other threads may read at any time; what they get never changes.

    It needs no broker to be made, and goes on by itself after an outage. `caught_up` says whether
    everything was read that was there at the start. Messages that cannot be taken, also those of a
    newer Esper's schemas, become dead letters: people are told of what is known. So does what
    stands in a journal and its trainer did not write, by what `intake` trusts.
    """

    def __init__(self, bus: Bus, intake: Intake) -> None:
        super().__init__(name="ledger", daemon=True)
        self.caught_up = False
        self._bus = bus
        self.progress = ConsumerProgress(intake.letters.clock)
        self._intake = intake
        self._journals = Journals(intake.trust, self._set_aside)
        self._runs: dict[str, RunStatus] = {}
        self._requests: OrderedDict[str, Event] = OrderedDict()
        self._notes: dict[str, RunNotes] = {}
        self._at: Start = "beginning"
        self._over = threading.Event()

    def runs(self) -> list[RunStatus]:
        """Every run, those that were heard of last first."""
        return sorted(self._runs.values(), key=lambda run: run.updated_at, reverse=True)

    def run_of(self, run_id: str) -> RunStatus | None:
        """One run."""
        return self._runs.get(run_id)

    def notes_of(self, run_id: str) -> RunNotes:
        """What operators have said of a run."""
        return self._notes.get(run_id, NOTHING)

    def request(self, command_id: str) -> Event | None:
        """A request of the last days."""
        return self._requests.get(command_id)

    def note(self, request: Event) -> None:
        """A request that was just sent, before it is read back."""
        self._requests[request.event_id] = request
        while len(self._requests) > _KEPT_REQUESTS:
            self._requests.popitem(last=False)

    def details(self) -> dict[str, Any]:
        """How it advances, and what it refused."""
        return {**self.progress.details(), "dead_letters": self._intake.refusals.total}

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """The thread's life."""
        while not self._over.is_set():
            try:
                self._follow()
            except CorruptError as error:
                _log.warning("The topics have changed; reading them from the beginning: %s", error)
                self._runs, self._notes, self._at, self._journals = (
                    {},
                    {},
                    "beginning",
                    Journals(self._intake.trust, self._set_aside),
                )
            except RETRIABLE as error:
                _log.warning(
                    "Reading the journals was interrupted; trying again in a second: %s", error
                )
            self.progress.turn()
            self._over.wait(0 if self._over.is_set() else _PAUSE_S)

    def _follow(self) -> None:
        with self._bus.reader(
            [JOURNALS, REQUESTS, NOTES], start=self._at, headers=False, follow=True
        ) as reader:
            ends = reader.stable_end()
            while not self._over.is_set():
                polled = reader.poll(_BATCH, _POLL_S)
                for event, received in self._journals.take(
                    received for received in polled if received.topic == JOURNALS
                ):
                    self._intake.handle(received, partial(self._absorb, event))
                for received in polled:
                    if received.topic != JOURNALS:
                        self._intake.take(received, self._absorb)
                # once the batch is folded: an interruption reads it again, and the fold knows it
                self._at = position = reader.position()
                # only a full batch leaves a rest: asking after each would cost a request
                self.progress.turn(lag(reader) if len(polled) == _BATCH else 0)
                self.caught_up = self.caught_up or all(
                    position[place] >= end for place, end in ends.items()
                )

    def _absorb(self, event: Event) -> None:
        if event.TOPIC == REQUESTS:
            self.note(event)
        elif event.TOPIC == NOTES:
            self._notes[event.run_id] = fold_notes(self.notes_of(event.run_id), event)
        elif isinstance(event, JournalEvent):
            status = self._runs.get(event.run_id) or RunStatus(run_id=event.run_id)
            self._runs[event.run_id] = fold(status, event)

    def _set_aside(self, aside: Aside) -> None:
        self._intake.refuse(aside.received, PoisonError(aside.sentence()))
