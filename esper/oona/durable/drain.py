"""The drain: carries frames from the outbox to Kafka in the background, as long as this writer is
the run's only one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Final

from esper.clock import Clock
from esper.errors import EsperError, FencedError, UnavailableError
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, JournalProducer
from esper.oona.durable.frames import Frame
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.reconcile import compare

_log = logging.getLogger(__name__)
_BEGIN_S: Final = 3.0
_BACKOFF_S: Final = (0.1, 2.0)  # first and longest wait between attempts; doubled each time
# keeps a transaction well below 5 s, after which the broker aborts it and answers as if fenced
_BATCH_EVENTS: Final = 500


def batches(outbox: Outbox) -> Iterator[list[Frame]]:
    """The unacknowledged frames, in groups that one transaction takes: up to 500 events, and at
    least one frame.
    """
    batch: list[Frame] = []
    events = 0
    for frame in outbox.unacknowledged():
        # a frame is never split: its events are one decision, and readers see all of them or none
        if batch and events + len(frame.events) > _BATCH_EVENTS:
            yield batch
            batch, events = [], 0
        batch.append(frame)
        events += len(frame.events)
    if batch:
        yield batch


class Drain(threading.Thread):
    """Commits the frames of `outbox` to Kafka, in order.

    Without a broker it keeps trying, and the run goes on.

    Before the first commit after each connection it begins anew and reads what the journal has,
    because the outcome of the last commit may be unknown, and because the broker calls a
    transaction that took too long fenced, too. Events of another writer in the journal mean that
    this one is `fenced`: the outbox is sealed and never drained again. `error` is what else ended
    the drain, a corrupt outbox for one. Without `trust`, whatever stands under the run's key is
    another writer's.
    """

    def __init__(
        self,
        outbox: Outbox,
        bus: Bus,
        *,
        clock: Clock,
        trust: Trust | None = None,
        linger: float = 0.05,
    ) -> None:
        super().__init__(name=f"drain-{outbox.run_id}", daemon=True)
        self.fenced = False
        self.connected = False
        self.error: EsperError | None = None
        self._outbox = outbox
        self._bus = bus
        self._clock = clock
        self._trust = trust or Trust()
        self._linger = linger
        self._news = threading.Event()
        self._urgent = threading.Event()
        self._ended = threading.Event()
        self._progress = threading.Condition()

    def notify(self) -> None:
        """A frame was appended. Costs the caller one flag."""
        self._news.set()

    def wait_empty(self, timeout: float) -> bool:
        """Whether Kafka has committed everything within `timeout` seconds.

        False at once when the drain has ended.
        """
        self._urgent.set()
        self._news.set()
        try:
            with self._progress:
                self._progress.wait_for(
                    lambda: self._outbox.empty() or not self.is_alive() or self._ended.is_set(),
                    timeout,
                )
            return self._outbox.empty()
        finally:
            self._urgent.clear()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread; what is not committed stays in the outbox."""
        self._ended.set()
        self._news.set()
        self._urgent.set()
        if self.is_alive():
            self.join(timeout)

    def run(self) -> None:
        """The thread's life."""
        wait, longest = _BACKOFF_S
        while not self._ended.is_set():
            try:
                self._serve()
            except UnavailableError as error:
                _log.info("%s", error)
            except FencedError as error:
                self._heed(error)
            except EsperError as error:
                _log.error("%s", error)
                self.error = error
                self._ended.set()
            # an outage after hours of work begins with short waits again
            if self.connected:
                wait, _ = _BACKOFF_S
            self._set_connected(connected=False)
            self._ended.wait(wait)
            wait = min(2 * wait, longest)

    def _serve(self) -> None:
        """One connection: become the writer, see what is there, commit what is not, for as long as
        it goes well.
        """
        # a new producer for each connection: one that raised is spent, its last outcome unknown
        with self._bus.journal_producer(run_id=self._outbox.run_id) as producer:
            producer.begin(_BEGIN_S)
            # after `begin` and before the first commit: nobody can write in between without fencing
            # us
            if self._is_fenced():
                return
            self._set_connected(connected=True)
            self._news.set()  # for what an earlier connection left
            while True:
                self._news.wait()
                # lets frames gather into one transaction; whoever waits for the end cuts it short
                self._urgent.wait(self._linger)
                if self._ended.is_set():
                    return
                # before reading the outbox: cleared after it, a frame appended meanwhile would wait
                # for the next
                self._news.clear()
                self._send(producer)

    def _send(self, producer: JournalProducer) -> None:
        for batch in batches(self._outbox):
            offset = producer.commit([event for frame in batch for event in frame.events])
            self._acknowledge(batch[-1].next_sequence, offset)
            if self._ended.is_set():
                return

    def _heed(self, error: FencedError) -> None:
        """Somebody has begun after us, or the broker lost patience with a transaction: the journal
        says which.
        """
        _log.info("%s", error)
        try:
            self._is_fenced()
        except UnavailableError as unavailable:
            _log.info("%s", unavailable)

    def _is_fenced(self) -> bool:
        """Compare with the journal: acknowledge what is there.

        If another writer's events are, seal.
        """
        comparison = compare(self._bus, self._outbox, clock=self._clock, trust=self._trust)
        if comparison.committed:
            # a commit whose answer was lost: it is in the journal, and must not be sent again
            self._acknowledge(comparison.committed[-1].next_sequence, comparison.next_offset)
        if comparison.foreign:
            _log.warning(
                "run %s: another writer has taken over; this one ends", self._outbox.run_id
            )
            self.fenced = True  # before the outbox is sealed: whoever finds it sealed asks why
            self._outbox.seal(
                "another writer has taken over; its first event stands at offset "
                f"{comparison.foreign[0].offset} of the journal"
            )
            self._ended.set()
        return bool(comparison.foreign)

    def _acknowledge(self, sequence: int, offset: int) -> None:
        self._outbox.acknowledge(sequence, offset)
        with self._progress:
            self._progress.notify_all()

    def _set_connected(self, *, connected: bool) -> None:
        self.connected = connected
        with self._progress:
            self._progress.notify_all()
