"""What Esper asks of a message bus.

`kafka` and `memory` implement it and pass one contract suite, tests/contract/oona/test_bus.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from esper.events.codec import Message, encode
from esper.events.envelope import Event

MAX_MESSAGE_BYTES = 8 << 20
"""The largest message that producers send and Esper's topics take, bytes."""

Positions = Mapping[tuple[str, int], int]
"""The next offset to read, for each (topic, partition)."""

Start = Literal["beginning", "end"] | Positions
"""Where a reader begins. A partition that the mapping leaves out is read from its beginning."""


class Received(NamedTuple):
    """A message as it stands in its partition.

    `timestamp_us` is the broker's, microseconds since 1970-01-01 UTC.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    timestamp_us: int

    def header(self, name: str) -> bytes | None:
        """The first header of this name."""
        return next((value for key, value in self.headers if key == name), None)


class _Closing(ABC):
    """Leaving the `with` block closes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give up connections and threads. What was not sent is counted as failed."""


class Producer(_Closing):
    """At least once, in order within a key, without duplicates of its own making.

    Safe to use from several threads.
    """

    def send(self, event: Event) -> None:
        """Queue an event. Never blocks.

        Raises:
            BackpressureError: the local queue is full; poll, then try again, or drop and count.
        """
        self.send_message(encode(event))

    @abstractmethod
    def send_message(self, message: Message) -> None:
        """Queue a message; raises as `send` does."""

    @abstractmethod
    def poll(self) -> None:
        """Take note of deliveries without waiting.

        Call it every now and then, or the local queue stays full.
        """

    @abstractmethod
    def flush(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for everything queued to be delivered.

        Gives how many messages are still unsent.
        """

    @abstractmethod
    def delivered(self) -> dict[str, int]:
        """Messages that the broker has acknowledged, by topic, since this producer was made."""

    @abstractmethod
    def failed(self) -> dict[str, int]:
        """Messages given up, by topic, since this producer was made."""


class JournalProducer(_Closing):
    """Writes a run's journal, one transaction a call. Whoever began last is the run's only writer.

    Once `begin` or `commit` has raised, this producer is spent: close it, make another, `begin`,
    and read the log before writing again, because the outcome of the last commit may be unknown.
    """

    @abstractmethod
    def begin(self, timeout: float) -> None:
        """Become the run's writer: fences an older one and ends its open transaction.

        Call it once, before the first commit.

        Raises:
            UnavailableError: no broker answered within `timeout` seconds.
            FencedError: another writer began at the same time.
        """

    @abstractmethod
    def commit(self, messages: Sequence[Message]) -> int:
        """Write all of `messages` or none; blocks until they are committed.

        Gives the offset after the last one in its partition.

        Raises:
            FencedError: another writer has begun, or the broker has ended our transaction because
                it took more than 5 s: the broker's answer is the same. Only the log can tell them
                apart.
            UnavailableError: the outcome is unknown, or nothing was written.
        """


class Reader(_Closing):
    """Reads whole topics: assigns all their partitions itself, belongs to no group, sees committed
    messages only. For one thread.
    """

    @abstractmethod
    def poll(self, max_messages: int, timeout: float) -> list[Received]:
        """Up to `max_messages`: as soon as there are some, or none after `timeout` seconds or when
        the end of a partition is reached.

        A broker that is away gives no messages, and no error: the reader goes on by itself once it
        is back.

        Raises:
            CorruptError: a position lies beyond the end of its partition, so the topic is not the
                one that it was taken from.
            UnavailableError: the topic is gone or may not be read.
        """

    @abstractmethod
    def position(self) -> dict[tuple[str, int], int]:
        """The next offset to read.

        Passes transaction markers too, so that at the end it equals `stable_end`.
        """

    @abstractmethod
    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on reading a partition at `offset`."""

    @abstractmethod
    def stable_end(self) -> dict[tuple[str, int], int]:
        """The offset after the last message that may be read: where the first open transaction
        begins, or the end.

        Raises:
            UnavailableError: no broker answers.
        """

    @abstractmethod
    def log_end(self) -> dict[tuple[str, int], int]:
        """The offset after the last message, committed or not. Raises as `stable_end` does."""


class Bus(ABC):
    """A message bus: one Kafka cluster."""

    @abstractmethod
    def producer(self, *, sender_id: str, queue_messages: int = 100_000) -> Producer:
        """A producer whose local queue holds up to `queue_messages`.

        Works without a broker until the queue is full.
        """

    @abstractmethod
    def journal_producer(self, *, run_id: str) -> JournalProducer:
        """A producer for the journal of `run_id`; `begin` it first."""

    @abstractmethod
    def reader(
        self,
        topics: Sequence[str],
        *,
        start: Start,
        headers: bool = True,
        partitions: Collection[int] | None = None,
        follow: bool = False,
    ) -> Reader:
        """A reader of every partition that `topics` have now, or of those in `partitions`.

        At "end", it sees everything that is committed after this call. Without `headers` they are
        left empty, which makes bulk reading faster. One that will `follow` its topics for hours
        asks the broker less often where nothing comes: it has messages as soon, and notices the end
        of a partition a quarter of a second later.

        Raises:
            UnavailableError: no broker answers, or a topic does not exist.
        """

    @abstractmethod
    def partition_of(self, topic: str, key: bytes) -> int:
        """The partition of a key, by murmur2 as in Java's client. Raises as `reader` does."""

    @abstractmethod
    def topic_ids(self) -> dict[str, str]:
        """Kafka's own id of each topic: a topic that is deleted and made again has another.

        Raises UnavailableError.
        """

    @abstractmethod
    def available(self, timeout: float) -> bool:
        """Whether a broker answers within `timeout` seconds."""
