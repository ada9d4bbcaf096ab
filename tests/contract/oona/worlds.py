"""The implementations of the bus that have to pass one suite, and what a test needs beside the
port.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import count

from esper.clock import Clock, ManualClock, SystemClock
from esper.events.codec import Message
from esper.oona.bus.kafka import KafkaBus, KafkaJournalProducer
from esper.oona.bus.memory import MemoryBus, MemoryJournalProducer
from esper.oona.bus.port import Bus, JournalProducer

_names = count()


class World(ABC):
    """One implementation."""

    bus: Bus
    clock: Clock

    @abstractmethod
    def topic(self, partitions: int = 1) -> str:
        """A new topic."""

    @abstractmethod
    def without_broker(self) -> Bus:
        """A bus whose broker does not answer."""

    @abstractmethod
    def open(self, run_id: str, messages: Sequence[Message]) -> JournalProducer:
        """A writer that has put `messages` into a transaction, in the log, and has not ended it."""

    @abstractmethod
    def finish(self, writer: JournalProducer) -> int:
        """Commit what `open` left open."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Let the broker's clock move on."""


class KafkaWorld(World):
    """The real thing."""

    def __init__(self, bootstrap: str) -> None:
        self._kafka = KafkaBus(bootstrap)
        self.bus = self._kafka
        self.clock = SystemClock()

    def topic(self, partitions: int = 1) -> str:
        """A new topic."""
        name = f"contract.{next(_names)}"
        self._kafka.create_topics(
            {name: (partitions, {"max.message.bytes": "8388608"})}, replication=1
        )
        return name

    def without_broker(self) -> Bus:
        """A bus whose broker does not answer."""
        return KafkaBus("127.0.0.1:1", patience=0.5)

    def open(self, run_id: str, messages: Sequence[Message]) -> JournalProducer:
        """A writer with an open transaction."""
        writer = self.bus.journal_producer(run_id=run_id)
        writer.begin(10)
        assert isinstance(writer, KafkaJournalProducer)
        writer._open(messages)
        assert writer._client.flush(5) == 0
        return writer

    def finish(self, writer: JournalProducer) -> int:
        """Commit what `open` left open."""
        assert isinstance(writer, KafkaJournalProducer)
        return writer._finish()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.clock.sleep(seconds)


class MemoryWorld(World):
    """The twin in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._memory = MemoryBus(clock=self.clock)
        self.bus = self._memory

    def topic(self, partitions: int = 1) -> str:
        """A new topic."""
        name = f"contract.{next(_names)}"
        self._memory.logs |= {(name, number): [] for number in range(partitions)}
        return name

    def without_broker(self) -> Bus:
        """A bus whose broker does not answer."""
        bus = MemoryBus({"contract": 1}, clock=self.clock)
        bus.set_online(False)
        return bus

    def open(self, run_id: str, messages: Sequence[Message]) -> JournalProducer:
        """A writer with an open transaction."""
        writer = self.bus.journal_producer(run_id=run_id)
        writer.begin(10)
        assert isinstance(writer, MemoryJournalProducer)
        writer._open(messages)
        return writer

    def finish(self, writer: JournalProducer) -> int:
        """Commit what `open` left open."""
        assert isinstance(writer, MemoryJournalProducer)
        return writer._finish()

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.sleep(seconds)
