"""The bus inside one process: for tests, and for trying things out without a broker.

Offsets, markers and fencing are Kafka's.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from esper.clock import Clock, SystemClock
from esper.errors import BackpressureError, CorruptError, FencedError, UnavailableError, UsageError
from esper.events.codec import Message
from esper.events.topics import TOPICS
from esper.oona.bus.partitioner import partition
from esper.oona.bus.port import (
    MAX_MESSAGE_BYTES,
    Bus,
    JournalProducer,
    Producer,
    Reader,
    Received,
    Start,
)

_TRANSACTION_S: Final = 5.0


@dataclass(slots=True)
class _Transaction:
    run_id: str
    began: float
    state: Literal["open", "committed", "aborted"] = "open"
    partitions: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One offset: a message, or the marker that ends a transaction there (`message` is None)."""

    message: Message | None
    transaction: _Transaction | None
    timestamp_us: int


class MemoryBus(Bus):
    """Topics of `partitions`, name to number; by default those of `esper.events.topics`.

    Safe to use from several threads.
    """

    def __init__(
        self, partitions: Mapping[str, int] | None = None, *, clock: Clock | None = None
    ) -> None:
        sizes = (
            {topic.name: topic.partitions for topic in TOPICS.values()}
            if partitions is None
            else partitions
        )
        self.clock = clock or SystemClock()
        # re-entrant: `append` and `end` lock, and are called by transactions that hold the lock
        self.changed = threading.Condition(threading.RLock())
        self.online = True
        self.logs: dict[tuple[str, int], list[_Entry]] = {
            (topic, number): [] for topic, count in sizes.items() for number in range(count)
        }
        self.epochs: Counter[str] = Counter()
        self.open: dict[str, _Transaction] = {}

    def set_online(self, online: bool) -> None:  # noqa: FBT001 - reads well as set_online(False)
        """Take the broker away, or bring it back."""
        with self.changed:
            self.online = online
            self.changed.notify_all()

    def producer(self, *, sender_id: str, queue_messages: int = 100_000) -> Producer:
        """As the port says."""
        del sender_id
        return MemoryProducer(self, queue_messages)

    def journal_producer(self, *, run_id: str) -> JournalProducer:
        """As the port says."""
        return MemoryJournalProducer(self, run_id)

    def reader(
        self,
        topics: Sequence[str],
        *,
        start: Start,
        headers: bool = True,
        partitions: Collection[int] | None = None,
        follow: bool = False,  # noqa: ARG002  # nothing is asked here
    ) -> Reader:
        """As the port says."""
        pairs = [pair for pair in self.pairs(topics) if partitions is None or pair[1] in partitions]
        return MemoryReader(self, pairs, start=start, headers=headers)

    def partition_of(self, topic: str, key: bytes) -> int:
        """As the port says."""
        return partition(key, len(self.pairs([topic])))

    def topic_ids(self) -> dict[str, str]:
        """As the port says."""
        self.require()
        return {topic: f"memory-{topic}" for topic, _ in self.logs}

    def available(self, timeout: float) -> bool:
        """As the port says."""
        with self.changed:
            return bool(self.changed.wait_for(lambda: self.online, timeout))

    def require(self) -> None:
        """Raises UnavailableError while the broker is away."""
        if not self.online:
            raise UnavailableError(
                "The bus in memory was taken offline; bring it back with set_online(True)."
            )

    def pairs(self, topics: Sequence[str]) -> list[tuple[str, int]]:
        """Every partition of `topics`."""
        self.require()
        if missing := sorted(set(topics) - {topic for topic, _ in self.logs}):
            raise UnavailableError(
                f"The bus in memory has no topic {', '.join(missing)}; name it when the "
                "bus is made."
            )
        return [pair for pair in self.logs if pair[0] in topics]

    def append(self, message: Message, transaction: _Transaction | None = None) -> int:
        """Write a message; gives its offset."""
        with self.changed:
            pair = (message.topic, self.partition_of(message.topic, message.key))
            if transaction is not None:
                transaction.partitions.add(pair)
            self.logs[pair].append(_Entry(message, transaction, self.clock.now_us()))
            self.changed.notify_all()
            return len(self.logs[pair]) - 1

    def end(self, transaction: _Transaction, state: Literal["committed", "aborted"]) -> None:
        """Decide a transaction: one marker in each of its partitions."""
        with self.changed:
            transaction.state = state
            self.open.pop(transaction.run_id, None)
            for pair in sorted(transaction.partitions):
                self.logs[pair].append(_Entry(None, transaction, self.clock.now_us()))
            self.changed.notify_all()

    def expire(self) -> None:
        """Abort transactions that took too long, and fence their writers, as the broker's
        coordinator does.
        """
        with self.changed:
            for transaction in list(self.open.values()):
                if self.clock.monotonic() - transaction.began > _TRANSACTION_S:
                    self.epochs[transaction.run_id] += 1
                    self.end(transaction, "aborted")

    def stable(self, pair: tuple[str, int]) -> int:
        """The last stable offset of a partition."""
        self.expire()
        log = self.logs[pair]
        opens = (
            offset
            for offset, entry in enumerate(log)
            if entry.transaction is not None and entry.transaction.state == "open"
        )
        return next(opens, len(log))


class MemoryProducer(Producer):
    """Delivers at once while the bus is online, queues while it is not."""

    def __init__(self, bus: MemoryBus, queue_messages: int) -> None:
        self._bus = bus
        self._limit = queue_messages
        self._queue: deque[Message] = deque()
        self._delivered: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def send_message(self, message: Message) -> None:
        """As the port says."""
        if len(message.value) > MAX_MESSAGE_BYTES:
            raise UsageError(
                f"A message of {len(message.value)} bytes for {message.topic} is larger "
                f"than {MAX_MESSAGE_BYTES}."
            )
        with self._bus.changed:
            self.poll()
            if len(self._queue) >= self._limit:
                raise BackpressureError("The queue to the bus is full: it is offline.")
            self._queue.append(message)
            self.poll()

    def poll(self) -> None:
        """As the port says."""
        with self._bus.changed:
            while self._queue and self._bus.online:
                message = self._queue.popleft()
                self._bus.append(message)
                self._delivered[message.topic] += 1

    def flush(self, timeout: float) -> int:
        """As the port says."""
        self._bus.available(timeout)
        self.poll()
        return len(self._queue)

    def delivered(self) -> dict[str, int]:
        """As the port says."""
        return dict(self._delivered)

    def failed(self) -> dict[str, int]:
        """As the port says."""
        return dict(self._failed)

    def close(self) -> None:
        """As the port says."""
        self._failed.update(message.topic for message in self._queue)
        self._queue.clear()


class MemoryJournalProducer(JournalProducer):
    """Transactions of one run."""

    def __init__(self, bus: MemoryBus, run_id: str) -> None:
        self._bus = bus
        self._run_id = run_id
        self._epoch = -1
        self._offset = 0
        self._transaction: _Transaction | None = None

    def begin(self, timeout: float) -> None:
        """As the port says."""
        if not self._bus.available(timeout):
            self._bus.require()
        with self._bus.changed:
            self._bus.epochs[self._run_id] += 1
            self._epoch = self._bus.epochs[self._run_id]
            if (older := self._bus.open.get(self._run_id)) is not None:
                self._bus.end(older, "aborted")

    def commit(self, messages: Sequence[Message]) -> int:
        """As the port says."""
        with self._bus.changed:
            self._open(messages)
            return self._finish()

    def close(self) -> None:
        """As the port says."""

    def _open(self, messages: Sequence[Message]) -> None:
        with self._bus.changed:
            self._check()
            self._transaction = _Transaction(self._run_id, self._bus.clock.monotonic())
            self._bus.open[self._run_id] = self._transaction
            for message in messages:
                self._offset = max(self._offset, self._bus.append(message, self._transaction) + 1)

    def _finish(self) -> int:
        with self._bus.changed:
            self._check()
            if self._transaction is not None:
                self._bus.end(self._transaction, "committed")
            return self._offset

    def _check(self) -> None:
        self._bus.require()
        self._bus.expire()
        if self._bus.epochs[self._run_id] != self._epoch:
            raise FencedError(
                f"Another writer has taken over run {self._run_id}; this one must stop."
            )


class MemoryReader(Reader):
    """Reads what is committed, partition after partition."""

    def __init__(
        self, bus: MemoryBus, pairs: Sequence[tuple[str, int]], *, start: Start, headers: bool
    ) -> None:
        self._bus = bus
        self._headers = headers
        with bus.changed:
            if start == "end":
                self._position = {pair: bus.stable(pair) for pair in pairs}
            else:
                self._position = {
                    pair: 0 if isinstance(start, str) else start.get(pair, 0) for pair in pairs
                }

    def poll(self, max_messages: int, timeout: float) -> list[Received]:
        """As the port says."""
        with self._bus.changed:
            received = self._take(max_messages)
            # one wait, not a loop: a change that brings nothing to read ends the poll, as Kafka's
            # EOF does
            if not received and self._bus.changed.wait(timeout):
                received = self._take(max_messages)
            return received

    def position(self) -> dict[tuple[str, int], int]:
        """As the port says."""
        return dict(self._position)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """As the port says."""
        self._position[topic, partition] = offset

    def stable_end(self) -> dict[tuple[str, int], int]:
        """As the port says."""
        with self._bus.changed:
            self._bus.require()
            return {pair: self._bus.stable(pair) for pair in self._position}

    def log_end(self) -> dict[tuple[str, int], int]:
        """As the port says."""
        with self._bus.changed:
            self._bus.require()
            return {pair: len(self._bus.logs[pair]) for pair in self._position}

    def close(self) -> None:
        """As the port says."""

    def _take(self, limit: int) -> list[Received]:
        received: list[Received] = []
        if self._bus.online:
            for pair in self._position:
                self._read(pair, limit, received)
        return received

    def _read(self, pair: tuple[str, int], limit: int, received: list[Received]) -> None:
        stable, log = self._bus.stable(pair), self._bus.logs[pair]
        if self._position[pair] > len(log):
            raise CorruptError(
                f"{pair[0]}, partition {pair[1]}, ends before offset "
                f"{self._position[pair]} that was read from it."
            )
        while self._position[pair] < stable and len(received) < limit:
            offset = self._position[pair]
            entry = log[offset]
            # passes markers and aborted messages too, as Kafka's positions do
            self._position[pair] = offset + 1
            if entry.message is None or (
                entry.transaction is not None and entry.transaction.state != "committed"
            ):
                continue
            message = entry.message
            headers = message.headers if self._headers else ()
            received.append(
                Received(*pair, offset, message.key, message.value, headers, entry.timestamp_us)
            )
