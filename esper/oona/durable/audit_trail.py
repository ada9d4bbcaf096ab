"""A part's audit trail: from requests that would change something to the sender's chain of records
on `audit.events`.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from esper.clock import Clock
from esper.disk import make_folder, write_file
from esper.errors import (
    BackpressureError,
    CorruptError,
    DeniedError,
    FencedError,
    PoisonError,
    UnavailableError,
)
from esper.events import Event, decode, encode
from esper.events.records import AuditRecorded
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, JournalProducer, Received
from esper.oona.durable.journal_reader import read_key
from esper.oona.durable.lock import Lock
from esper.service.checks.audit_entries import PENDING, AuditEntry, Link, chained, record_id
from esper.service.transport import signing

TOPIC: Final = AuditRecorded.TOPIC
HEAD: Final = "head"
"""File in a trail's folder that remembers where its chain has come to, so that a chain cut short is
noticed too.
"""

_BEGIN_S: Final = 5.0
_ANSWER_S: Final = 2.0
_QUIET_S: Final = (
    2.0  # after Kafka did not answer, what only has to be kept does not ask it again for so long
)
_CLOSE_S: Final = 0.5
_ATTEMPTS: Final = 3
_MOST_WAITING: Final = 1_000

_log = logging.getLogger(__name__)


class AuditTrail:
    """Called with each `AuditEntry`, before and after it is handled.

    Safe to use from several threads.

    An entry is on disk in `folder` before its request is handled, and again with its outcome before
    the client has the answer; it leaves the disk once Kafka has committed its record. So whatever
    is killed, each request gets exactly one record: one that was under way gets the status
    `PENDING`, for nobody knows what became of it. Records are written in transactions of the
    sender's own id: of two processes that send under one name, the later one takes over, reads the
    chain to its end and goes on with it; the chain never forks. With the folder of the
    installation's `keys` each record is signed by the sender, and what others have put into its
    chain is passed over.

    Raises:
        UsageError: another process of this machine writes the trail in `folder`.
        UnavailableError, StorageFullError: the folder cannot be written.
    """

    def __init__(
        self, bus: Bus, *, sender_id: str, clock: Clock, folder: Path, keys: Path | None = None
    ) -> None:
        self._bus = bus
        self._sender = sender_id
        self._clock = clock
        self._signer = None if keys is None else signing.ensure(keys, sender_id, clock)
        self._trust = Trust() if keys is None else signing.trust(keys)
        self._folder = folder / sender_id
        try:
            make_folder(self._folder)
        except OSError as error:
            raise UnavailableError(
                f"The audit trail cannot be kept in {folder} ({error.strerror}): make "
                "ESPER_HOME writable."
            ) from error
        self._held = Lock(
            self._folder / "lock",
            what=f"The audit trail of {sender_id}",
            remedy="stop it, or give this part another ESPER_HOME",
        )
        self._turn = threading.Lock()
        self._numbers = itertools.count()
        self._producer: JournalProducer | None = None
        self._quiet_until = clock.monotonic()
        self._head = Link()
        self._written: set[str] = set()
        self._waiting: dict[str, dict[str, Any]] = self._left()

    def __call__(self, entry: AuditEntry) -> None:
        """Take note of a request before it is handled (`PENDING`), or of its outcome.

        Raises:
            UnavailableError: Kafka does not answer, so the request must not be handled.
            BackpressureError: too many outcomes wait for Kafka.
        """
        name = record_id(self._sender, entry)
        with self._turn:
            if entry.status == PENDING:
                # before the note: a request that is refused here was never handled, and leaves no
                # record
                self._require()
                self._note(name, entry)
                return
            if len(self._waiting) >= _MOST_WAITING:
                raise BackpressureError(
                    f"{_MOST_WAITING} records of the audit trail wait for Kafka: try again "
                    "once it answers."
                )
            # under the same name as its PENDING note: the file is replaced, so each request has one
            # record
            self._waiting[name] = self._note(name, entry)
            # the request is done, so its client shall not wait for a broker that was just found
            # away
            if self._clock.monotonic() < self._quiet_until:
                return
            try:
                self._deliver()
            except UnavailableError as error:
                # it is on disk: what has happened is told truly, and nothing more happens until
                # Kafka has it
                _log.warning(
                    "%d records of %s wait for Kafka: %s", len(self._waiting), self._sender, error
                )

    def start(self) -> None:
        """Deliver what an earlier life of this part has left, in the background.

        Where Kafka does not answer, with the next request.
        """
        threading.Thread(target=self._recover, name="audit", daemon=True).start()

    def close(self) -> None:
        """Let go of the trail, at once, whatever it is doing.

        What waits stays on disk for the next life.
        """
        # a delivery may hang in a broker that is away; ending must not wait for it
        if self._turn.acquire(timeout=_CLOSE_S):
            self._drop()
            self._turn.release()
        self._held.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _recover(self) -> None:
        with self._turn, suppress(UnavailableError):
            self._deliver()

    def _left(self) -> dict[str, dict[str, Any]]:
        """What an earlier life has left, in the order in which it was asked for."""
        notes: dict[str, dict[str, Any]] = {}
        for path in self._folder.glob("*.json"):
            try:
                notes[path.stem] = json.loads(path.read_bytes())
            except ValueError as error:
                raise CorruptError(
                    f"{path} of the audit trail is damaged: keep a copy for whoever "
                    "audits, and move it away."
                ) from error
        # the chain keeps the order of requests; file names are hashes, and two may share a
        # microsecond
        return dict(sorted(notes.items(), key=lambda item: (item[1]["at"], item[1]["number"])))

    def _note(self, name: str, entry: AuditEntry) -> dict[str, Any]:
        noted = {"at": self._clock.now_us(), "number": next(self._numbers), "entry": asdict(entry)}
        write_file(self._folder / f"{name}.json", json.dumps(noted).encode())
        return noted

    def _require(self) -> None:
        """Make sure that a record would be written now."""
        self._deliver()
        self._connect()
        self._answered()

    def _deliver(self) -> None:
        """Bring everything that waits to Kafka.

        Raises:
            UnavailableError: Kafka does not take it; it waits on.
        """
        for attempt in range(_ATTEMPTS):
            if not self._waiting:
                return
            try:
                self._commit(self._connect())
            except FencedError as error:
                self._drop()
                if attempt + 1 == _ATTEMPTS:
                    raise UnavailableError(
                        f"Another process writes the audit trail of {self._sender}: stop "
                        "it, or try again."
                    ) from error
            except (UnavailableError, DeniedError) as error:
                self._drop()
                self._quiet_until = self._clock.monotonic() + _QUIET_S
                raise UnavailableError(str(error)) from error

    def _commit(self, producer: JournalProducer) -> None:
        head, messages = self._head, []
        for name, noted in self._waiting.items():
            # the life before committed it and died before it deleted the file
            if name in self._written:
                continue
            record = chained(
                AuditEntry(**noted["entry"]),
                head,
                sender_id=self._sender,
                occurred_at=int(noted["at"]),
            )
            head = head.after(record)
            messages.append(encode(record) if self._signer is None else self._signer.seal(record))
        if messages:
            # one transaction: all of these records or none, so the chain has no gap
            producer.commit(messages)
        # only after the commit: a failed one leaves the chain where Kafka has it
        self._head = head
        for name in self._waiting:
            # after the commit: a crash in between finds the record by its id when the chain is read
            (self._folder / f"{name}.json").unlink(missing_ok=True)
        self._waiting.clear()
        self._written.clear()
        if messages:
            # last: a memory ahead of Kafka would accuse the topic of having lost records
            write_file(self._folder / HEAD, json.dumps(asdict(head)).encode())

    def _connect(self) -> JournalProducer:
        """Be the only writer of the sender's chain, and know its end."""
        if self._producer is None:
            self._answered()
            producer = self._bus.journal_producer(run_id=f"audit-{self._sender}")
            try:
                # fences another process of this sender before the chain is read, so that it cannot
                # fork
                producer.begin(_BEGIN_S)
                self._head, self._written = Link(), set()
                for received in read_key(
                    self._bus,
                    TOPIC,
                    self._sender,
                    what=f"The audit trail of {self._sender}",
                    clock=self._clock,
                ):
                    with suppress(PoisonError):  # not ours: `esper audit-log verify` names it
                        self._read(decode(received.value, received.headers), received)
            except BaseException:
                producer.close()
                raise
            self._producer = producer
        return self._producer

    def _read(self, event: Event, received: Received) -> None:
        if (
            not isinstance(event, AuditRecorded)
            or event.sender_id != self._sender
            # a copy, or what a fenced writer left: the first of a number counts
            or event.chain <= self._head.chain
        ):
            return
        if not self._trust.fault(self._sender, event, received.value, received.timestamp_us):
            self._head = self._head.after(event)
            if event.event_id in self._waiting:
                self._written.add(event.event_id)

    def _answered(self) -> None:
        if not self._bus.available(_ANSWER_S):
            self._quiet_until = self._clock.monotonic() + _QUIET_S
            raise UnavailableError(
                "Kafka does not answer, and nothing is changed without a record of it: try "
                "again once it does."
            )

    def _drop(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None
