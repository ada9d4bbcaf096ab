"""The inbox of a run: what others say to the trainer, read in the background, taken
between steps.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from esper.clock import Clock
from esper.errors import DeniedError, EsperError, PoisonError
from esper.events.envelope import Event, JournalEvent
from esper.events.records import (
    EpochReviewed,
    FieldReport,
    KernelPublished,
    PauseRequested,
    SeedCommand,
)
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, Reader, Received, Start
from esper.oona.durable.authentic import JOURNAL
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import RETRIABLE, Intake

_log = logging.getLogger(__name__)
INBOX_TOPICS: Final = (
    EpochReviewed.TOPIC,
    SeedCommand.TOPIC,
    PauseRequested.TOPIC,
    KernelPublished.TOPIC,
    FieldReport.TOPIC,
)
"""What a trainer listens to."""
_FOR_ALL: Final = KernelPublished.TOPIC  # keyed by kernel: a kernel may serve any run
_BATCH: Final = 500
_POLL_S: Final = 0.25
_BACKOFF_S: Final = 0.5
_REMEMBERED: Final = 4_096
_SIGNED: Final = frozenset({JOURNAL, EpochReviewed.TOPIC})
_WARNINGS: Final = 5  # in sentences; what comes after them stands with its reason in dead.letters


@dataclass(frozen=True, slots=True)
class Delivered:
    """An event and where it stood: topic, partition, offset."""

    event: Event
    position: tuple[str, int, int]


class Inbox(threading.Thread):
    """Hands over the events that concern `run_id`: those keyed by it, and every event of
    `compilation.kernels`.

    It reads from `start` on, needs no broker to be made, and goes on by itself after an outage.
    Events are in order within a partition, and each comes once: ids in `known` (those of commands
    that the journal answers) and ids that came already are dropped, and so is what has expired.
    Messages that cannot be taken become dead letters. `dropped` counts all of these by reason.
    `error` is what ended the thread early, if anything did.

    With `trust` it takes decisions of Tamiyo alone, and watches the run's own journal: what
    somebody else says in either becomes a warning beside.
    """

    def __init__(
        self,
        bus: Bus,
        run_id: str,
        *,
        start: Start,
        clock: Clock,
        dead_letters: DeadLetters,
        known: Iterable[str] = (),
        topics: Sequence[str] = INBOX_TOPICS,
        trust: Trust | None = None,
    ) -> None:
        super().__init__(name=f"inbox-{run_id}", daemon=True)
        self.error: EsperError | None = None
        self.connected = False
        self.dropped: Counter[str] = Counter()
        self._bus = bus
        self._key = run_id.encode()
        self._start_at = start
        self._clock = clock
        self._intake = Intake.of(dead_letters, lambda: trust or Trust())
        self._seen: OrderedDict[str, None] = OrderedDict.fromkeys(known)
        self._topics = topics if trust is None else (*topics, JOURNAL)
        self._watching = trust is not None
        self._next_sequence = 0
        self._forged: list[str] = []
        self._lock = threading.Lock()
        self._queue: list[Delivered] = []
        self._ended = threading.Event()

    def take(self) -> list[Delivered]:
        """Everything that has come and was not taken yet, without waiting."""
        # without the lock, because the training thread asks between any two steps; next time will
        # do
        if not self._queue:
            return []
        with self._lock:
            taken, self._queue = self._queue, []
        return taken

    def take_warnings(self) -> list[str]:
        """What people should know of messages that somebody else wrote where the trainer or Tamiyo
        does, a sentence each; the first few of a flood.
        """
        if not self._forged:
            return []
        with self._lock:
            taken, self._forged = self._forged, []
        return taken

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        self._ended.set()
        if self.is_alive():
            self.join(timeout)

    def run(self) -> None:
        """The thread's life."""
        while not self._ended.is_set():
            try:
                with self._bus.reader(self._topics, start=self._start_at, follow=True) as reader:
                    self.connected = True
                    self._follow(reader)
            except DeniedError as error:  # a run that cannot hear is ended at once, and says why
                self._give_up(error)
            except RETRIABLE as error:
                _log.info("%s", error)
                self.connected = False
                self._ended.wait(_BACKOFF_S)
            except EsperError as error:
                self._give_up(error)
        self.connected = False

    def _give_up(self, error: EsperError) -> None:
        _log.error("%s", error)
        self.error = error
        self._ended.set()

    def _follow(self, reader: Reader) -> None:
        positions: Mapping[tuple[str, int], int] = reader.position()
        self._start_at = (
            positions  # "end" means the end at the first connection, not at a later one
        )
        while not self._ended.is_set():
            delivered = [
                delivery
                for received in reader.poll(_BATCH, _POLL_S)
                if (delivery := self._accept(received)) is not None
            ]
            self._start_at = reader.position()
            if delivered:
                with self._lock:
                    self._queue += delivered

    def _accept(self, received: Received) -> Delivered | None:
        if received.key != self._key and received.topic != _FOR_ALL:
            return None
        # `take` gives None for a known event too; only this count tells a refusal
        refused = self._intake.refusals.total
        delivered = self._intake.take(received, lambda event: self._fresh(event, received))
        if self._intake.refusals.total > refused:
            self.dropped["refused"] += 1
            if self._watching and received.topic in _SIGNED:
                self._warn(received)
        return delivered

    def _warn(self, received: Received) -> None:
        self.dropped["forged"] += 1
        # whoever may write to the topic chooses how many there are
        if self.dropped["forged"] > _WARNINGS:
            return
        more = (
            " Further ones are reported in dead.letters alone."
            if self.dropped["forged"] == _WARNINGS
            else ""
        )
        place = f"{received.topic}/{received.partition}/{received.offset}"
        sentence = (
            f"Another writer wrote at {place} under the key of this run: "
            f"{self._intake.refusals.last} It is set aside.{more}"
        )
        with self._lock:
            self._forged.append(sentence)

    def _fresh(self, event: Event, received: Received) -> Delivered | None:
        if isinstance(event, JournalEvent):
            self._watch(event)
            return None
        if event.event_id in self._seen:
            self.dropped["known"] += 1
            return None
        expires_at: int | None = getattr(event, "expires_at", None)
        if expires_at is not None and expires_at < self._clock.now_us():
            self.dropped["expired"] += 1
            return None
        delivered = Delivered(event, (received.topic, received.partition, received.offset))
        # after the checks, so that what was not handed over is not remembered as handed over
        self._seen[event.event_id] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return delivered

    def _watch(self, event: JournalEvent) -> None:
        """An event of the run's own journal, which its trainer signed: each comes once.

        Raises:
            PoisonError: it is a copy.
        """
        if event.sequence < self._next_sequence:
            raise PoisonError(
                f"{event.NAME} is a copy of event {event.sequence} of run {event.run_id}, "
                "which stands in its journal already."
            )
        self._next_sequence = event.sequence + 1
