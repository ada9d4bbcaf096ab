"""Kafka into the raw tables: nothing lost, nothing doubled, nothing decoded in Python.

A block is what was polled in half a second. Its messages are inserted table by table in offset
order, cut at every change of schema id, each insert under its own token; the ledger's rows follow
all tables of the block. After a crash the sink resumes at the ledger and drops what a table already
has: its largest offset says so, because a table takes a partition's messages in offset order and an
insert is atomic.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from esper.clock import Clock
from esper.errors import PoisonError, UnavailableError
from esper.events import codec
from esper.events.schemas import wire_schema
from esper.events.topics import TOPICS
from esper.history.confined.engine import CLICKHOUSE_ERRORS
from esper.history.confined.refusal import QueryError
from esper.history.tables.container import container, layout
from esper.history.tables.read_positions import Pair, SinkLedger
from esper.oona.bus.port import Bus, Producer, Reader, Received
from esper.oona.inbound.consumer_progress import ConsumerProgress as Advance
from esper.oona.inbound.consumer_progress import lag
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import RETRIABLE, Intake, Refusals

BLOCK_MESSAGES: Final = 50_000
BLOCK_BYTES: Final = 32 << 20
LINGER_S: Final = 0.5
_HEAD: Final = 5  # magic byte and schema id
_POLL_S: Final = 0.1
_ANSWER_S: Final = (
    1.0  # shorter than a request's time, so that the sink ends soon after it is told to
)
_LETTERS: Final = 500  # letters, and
_LETTER_BYTES: Final = 4 << 20  # bytes in them, after which Kafka's answer is waited for
_PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_INSERT: Final = {
    "input_format_avro_allow_missing_fields": 1,
    "async_insert": 0,  # an insert that has returned is in the table
    "max_insert_block_size": 1 << 20,  # a container is one part, so an insert is atomic
    "min_insert_block_size_bytes": 1 << 30,
    "max_insert_threads": 1,
}
_ENVIRONMENT: Final = frozenset(
    {
        3,
        60,
        81,
        74,
        75,
        76,
        159,
        164,
        202,
        209,
        210,
        241,
        242,
        243,
        252,
        319,
        394,
        425,
        497,
        516,
        999,
        1002,
    }
)
"""ClickHouse's codes for what is not the message's fault: disk, memory, network, rights.

The insert is tried again.
"""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SinkProgress:
    """What the sink has done, for /health.

    `positions` are the next offsets of what is in the tables, markers passed.
    """

    ready: bool = False
    rows: int = 0
    dead_letters: int = 0
    positions: dict[Pair, int] = field(default_factory=dict)
    trouble: str = ""


class Sink:
    """Fills the raw tables from `topics` until told to stop.

    One thread runs it; `progress` may be read from any.
    """

    def __init__(
        self,
        client: Any,
        bus: Bus,
        clock: Clock,
        *,
        topics: Sequence[str] = tuple(TOPICS),
        block_messages: int = BLOCK_MESSAGES,
    ) -> None:
        self._client = client
        self._bus = bus
        self._clock = clock
        self._topics = tuple(topics)
        self._block_messages = block_messages
        self._ledger = SinkLedger(client, clock)
        self._topic_ids: dict[str, str] = {}
        self._largest: dict[tuple[str, Pair], int] = {}
        self._stop = threading.Event()
        self._unsure = False  # whether an insert may have gone in without an answer
        self.progress = SinkProgress()
        self.refusals = Refusals("history")
        self.advance = Advance(clock)

    def run(self, stop: threading.Event) -> None:
        """Take messages until `stop` is set, then put what was polled into the tables and note what
        remains.
        """
        self._stop = stop
        with ExitStack() as held:
            opened = self._persist(lambda: self._open(held))
            if opened is None:
                return
            reader, producer = opened
            self.progress.ready = True
            store = held.enter_context(
                ThreadPoolExecutor(1, "history-store")
            )  # the next block is polled while one is stored
            pending: Future[bool] | None = None
            while not stop.is_set() and (pending is None or not pending.done() or pending.result()):
                block, positions = self._fill(reader), reader.position()
                # One block is stored at a time, so positions never get ahead of a block that
                # failed.
                if pending is not None and not pending.result():
                    break
                self.advance.turn(lag(reader) if len(block) >= self._block_messages else 0)
                pending = store.submit(self._store, producer, block, positions)
            if pending is None or pending.result():
                self._end(reader)

    def _open(self, held: ExitStack) -> tuple[Reader, Producer]:
        if not self._bus.available(_ANSWER_S):
            raise UnavailableError(
                "Kafka does not answer; the history begins to read once it does."
            )
        ids = self._bus.topic_ids()
        if lacking := sorted(set(self._topics) - ids.keys()):
            raise UnavailableError(
                f"Kafka has no topic {', '.join(lacking)}; `esper up` creates what is missing."
            )
        self._topic_ids = ids
        positions = self._ledger.positions(ids)
        self._largest = self._ledger.largest(ids, positions)
        reader = held.enter_context(
            self._bus.reader(self._topics, start=positions, headers=False, follow=True)
        )
        producer = held.enter_context(self._bus.producer(sender_id="history"))
        self._ledger.note(None)
        return reader, producer

    def _fill(self, reader: Reader) -> list[Received]:
        """Poll until the block is full or its first message has waited long enough."""
        began, size = self._clock.monotonic(), 0
        block: list[Received] = []
        while True:
            polled = reader.poll(self._block_messages - len(block), _POLL_S)
            if not block:
                began = self._clock.monotonic()
            block += polled
            size += sum(len(message.value) for message in polled)
            if not block or self._stop.is_set() or self._clock.monotonic() - began >= LINGER_S:
                return block
            if len(block) >= self._block_messages or size >= BLOCK_BYTES:
                return block

    def _store(self, producer: Producer, block: list[Received], positions: dict[Pair, int]) -> bool:
        """Put a block into the tables, however often it takes.

        False if the sink was told to stop before it succeeded.
        """
        if block and self._persist(lambda: self._flush(producer, block)) is None:
            return False
        self.progress.positions = positions
        return True

    def _persist(self, action: Callable[[], _T]) -> _T | None:
        """Repeat `action` until it succeeds or the sink is told to stop.

        Tokens and largest offsets make repeating harmless.
        """
        attempt = 0
        while True:
            try:
                done = action()
            except (*RETRIABLE, QueryError, *CLICKHOUSE_ERRORS) as error:
                # The insert may have succeeded and its answer been lost.
                self._unsure = True
                # Once a cause: a broker that is down for an hour would fill the log.
                if self.progress.trouble != str(error):
                    self.progress.trouble = str(error)
                    _log.warning("waiting: %.500s", error)
                self.advance.wait(self.progress.trouble)
                if self._stop.wait(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]):
                    return None
                attempt += 1
            else:
                self.progress.trouble = ""
                return done

    def _flush(self, producer: Producer, block: Sequence[Received]) -> bool:
        """Put the block into the tables, then into the ledger."""
        if self._unsure:
            self._largest = self._ledger.largest(
                self._topic_ids, self._ledger.positions(self._topic_ids)
            )
            self._unsure = False
        ends: dict[Pair, int] = {}
        for messages in groups(block):
            self._insert(producer, messages)
            last = messages[-1]
            pair = (last.topic, last.partition)
            ends[pair] = max(ends.get(pair, 0), last.offset + 1)
        # last: after a crash a ledger ahead of its tables would lose rows
        self._ledger.write(self._topic_ids, ends)
        return True

    def _insert(self, producer: Producer, messages: list[Received]) -> None:
        first = messages[0]
        try:
            schema_id = codec.schema_id(first.value)
            record = wire_schema(schema_id).record
            if first.topic != record.TOPIC:
                raise PoisonError(
                    f"A {record.NAME} does not belong on {first.topic} but on {record.TOPIC}."
                )
        except PoisonError as error:
            self._give_up(producer, [(message, error) for message in messages])
            return
        table = layout(schema_id).table.name
        # after a crash blocks are cut elsewhere: part of one may be stored already
        held = self._largest.get((table, (first.topic, first.partition)), -1)
        new = (
            messages
            if first.offset > held
            else [message for message in messages if message.offset > held]
        )
        if new:
            self._insert_new(producer, schema_id, new)

    def _insert_new(
        self,
        producer: Producer,
        schema_id: int,
        messages: list[Received],
        *,
        readable: bool = False,
    ) -> None:
        """Insert. A block that is refused is halved until the messages at fault are found.

        First what cannot be read is taken out, unless all are `readable`: or each bad message would
        cost an insert for every halving, and whoever may write could hold the history up.
        """
        self.advance.turn()
        try:
            self._send(schema_id, messages)
        except RETRIABLE:
            raise
        except Exception as error:  # poison is any exception: see esper.oona.inbound.intake
            if (
                isinstance(error, QueryError)
                and error.code in _ENVIRONMENT
                and not _undecodable(messages)
            ):
                raise
            if len(messages) == 1:
                self._give_up(producer, [(messages[0], _undecodable(messages) or _refused(error))])
                return
            unreadable = {} if readable else codec.unreadable([one.value for one in messages])
            if unreadable:
                self._give_up(producer, [(messages[at], why) for at, why in unreadable.items()])
                rest = [one for at, one in enumerate(messages) if at not in unreadable]
                parts = [rest] if rest else []
            else:
                middle = len(messages) // 2
                parts = [messages[:middle], messages[middle:]]
            for part in parts:
                self._insert_new(producer, schema_id, part, readable=True)
        else:
            last = messages[-1]
            self._largest[layout(schema_id).table.name, (last.topic, last.partition)] = last.offset
            self.progress.rows += len(messages)

    def _send(self, schema_id: int, messages: list[Received]) -> None:
        first, last = messages[0], messages[-1]
        place = layout(schema_id)
        topic_id = self._topic_ids[first.topic]
        # the same block has the same token after a crash, and ClickHouse drops the second
        token = f"{topic_id}:{first.partition}:{schema_id}:{first.offset}-{last.offset}"
        try:
            self._client.raw_insert(
                place.table.name,
                column_names=list(place.columns),
                insert_block=container(schema_id, topic_id, messages),
                fmt="Avro",
                settings={**_INSERT, "insert_deduplication_token": token},
            )
        except CLICKHOUSE_ERRORS as error:
            raise QueryError.of(error) from error
        except OSError as error:
            raise UnavailableError(
                f"The history cannot write ({error}); free some space on its disk."
            ) from error

    def _give_up(self, producer: Producer, refused: Sequence[tuple[Received, Exception]]) -> None:
        """Dead-letter messages, each for its own reason.

        Only then may later rows go in, or a restart would take them for stored.
        """
        intake = Intake(DeadLetters(producer, "history", self._clock), self.refusals)
        size = 0
        for count, (message, error) in enumerate(refused, start=1):
            intake.refuse(message, error)
            size += len(message.value)
            # before the producer's queue is full: a letter that finds no room there is lost
            if count == len(refused) or not count % _LETTERS or size >= _LETTER_BYTES:
                self._sent(producer)
                self.advance.turn()
                size = 0
        self.progress.dead_letters += len(refused)

    def _sent(self, producer: Producer) -> None:
        """Wait until Kafka has every letter."""
        while producer.flush(1.0):
            if self._stop.is_set():
                raise UnavailableError(
                    "The history was told to end while Kafka did not take a dead letter; "
                    "the next start repeats it."
                )

    def _end(self, reader: Reader) -> None:
        try:
            if self._bus.available(_ANSWER_S):
                ends = reader.stable_end()
                self._ledger.note(
                    sum(
                        max(end - self.progress.positions.get(pair, 0), 0)
                        for pair, end in ends.items()
                    )
                )
        except (UnavailableError, *CLICKHOUSE_ERRORS) as error:
            _log.warning("ended without a count of what remains: %.300s", error)


def _refused(error: Exception) -> Exception:
    return (
        PoisonError(f"ClickHouse refuses the message: {error}")
        if isinstance(error, QueryError)
        else error
    )


def groups(block: Iterable[Received]) -> list[list[Received]]:
    """The inserts of a block: by partition and record type, in offset order, cut at every change of
    schema id.
    """
    grouped: list[list[Received]] = []
    growing: dict[tuple[str, int, str], tuple[bytes, list[Received]]] = {}
    tables: dict[bytes, str] = {}
    for message in block:
        head = message.value[:_HEAD]
        table = tables.get(head)
        if table is None:
            table = tables[head] = _table(message)
        key = (message.topic, message.partition, table)
        run = growing.get(key)
        if run is None or run[0] != head:
            run = growing[key] = (head, [])
            grouped.append(run[1])
        run[1].append(message)
    return grouped


def _table(message: Received) -> str:
    """Where a message goes; empty where nothing takes it."""
    try:
        return layout(codec.schema_id(message.value)).table.name
    except (PoisonError, KeyError):
        return ""


def _undecodable(messages: Sequence[Received]) -> PoisonError | None:
    """Why a message at fault cannot be decoded; asked only about messages that
    ClickHouse refused.
    """
    for message in messages:
        try:
            codec.decode(message.value)
        except PoisonError as error:
            return error
    return None
