"""The one way in which processors take messages: agents, followers and tables that one message
cannot stop.

Whatever goes wrong with a message, it is counted, logged and put aside as a dead letter, and the
next one is taken; see `esper.oona.inbound.intake`, whose rules these are, for Faust. While a broker
is away, the same message is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import faust
from aiokafka.errors import KafkaError, KafkaTimeoutError
from faust.types import EventT, StreamT

from esper.clock import Clock
from esper.errors import PoisonError
from esper.events import Event, Message
from esper.events.seals import Trust
from esper.oona.bus.port import MAX_MESSAGE_BYTES, Received
from esper.oona.bus.wire import SAME, FrameCodec
from esper.oona.inbound import dead_letters
from esper.oona.inbound.consumer_progress import ConsumerProgress
from esper.oona.inbound.intake import RETRIABLE, Refusals, letters_for, opened, require_author
from esper_processors import streams

RETRY_S: Final = 1.0
ROW_BYTES: Final = 4 << 20
"""Largest row of a table: the changelog has to take it."""
_FAUST: Final = b"__faust\0"
"""What the keys begin with that Faust keeps its own offsets under, beside a table's rows."""
_log = logging.getLogger(__name__)

_unreadable: set[int] = set()

Act = Callable[[], Awaitable[None]]
T = TypeVar("T")


async def at_once(act: Act) -> None:
    """Acknowledge a message as soon as it was taken."""
    await act()


async def _acknowledged(stream: Any, event: EventT[Any]) -> None:
    await stream.ack(event)


def retriable(error: BaseException) -> bool:
    """Whether an error says nothing of the message: a broker or a disk is away."""
    if isinstance(error, KafkaTimeoutError):
        # what waited in the client until its time was over: aiokafka does not call it retriable
        return True
    if isinstance(error, KafkaError):
        return bool(error.retriable)
    full = str(error).startswith("IO error")  # RocksDB has one class for all of its errors
    return isinstance(error, (*RETRIABLE, ConnectionError, TimeoutError)) or full


@dataclass(frozen=True, slots=True)
class RowGuard:
    """What the rows of a table may be: `check` raises for a key or value that its reader cannot
    read.
    """

    check: Callable[[bytes, bytes], None]

    def fault(self, key: Any, value: bytes | None) -> Exception | None:
        """Why a row of the changelog is refused.

        None for a good one, and for the end of a row (its value is None).
        """
        if not isinstance(key, bytes) or key.startswith(_FAUST):
            return PoisonError(
                "A row of a changelog has no key, or one that Faust keeps its offsets under."
            )
        if value is None:
            return None
        try:
            self.check(key, value)
        except Exception as error:  # noqa: BLE001  # poison is any exception
            return error
        return None


class Consumers:
    """Everything that one part consumes."""

    def __init__(
        self,
        app: faust.App,
        outbound: streams.FramedSender,
        *,
        part: str,
        clock: Clock,
        trust: Callable[[], Trust] = Trust,
    ) -> None:
        self.refusals = Refusals(part)
        self.progress = ConsumerProgress(clock)
        self._in_hand = 0
        self._app = app
        self._outbound = outbound
        self._part = part
        self._clock = clock
        self._trust = trust
        self._letters: set[asyncio.Task[bool]] = set()
        self._frames: FrameCodec = getattr(app, "frames", SAME)

    def agent(
        self,
        name: str,
        topics: Iterable[str],
        apply: Callable[[Event, Received], Awaitable[None]],
        *,
        acknowledge: Callable[[Act], Awaitable[None]] = at_once,
    ) -> None:
        """Have `apply` called with each event of these topics, one after the other.

        It leaves its state as it was when it raises.

        `acknowledge` is given what acknowledges a message that was taken, and calls it once what
        the message changed is safe; until then Kafka delivers it again after a kill.
        """

        async def consume(stream: StreamT[bytes]) -> None:
            # Faust acknowledges what it hands out, also when a stop interrupts it: the offset of a
            # message that was not taken would be committed, and the message lost
            unacknowledged: faust.Stream[bytes] = stream.noack()  # type: ignore[attr-defined]  # its interface's types lack the call
            async for event in unacknowledged.events():
                raw = received_of(event)
                # raises on no message: an exception that leaves this loop kills Faust's agent
                if await self.take(raw, partial(self._apply, apply, raw)):
                    await acknowledge(partial(_acknowledged, unacknowledged, event))

        self._app.agent(streams.raw_topic(self._app, *topics), name=name, concurrency=1)(consume)

    def opened(self, received: Received) -> Event:
        """The event in a message, by whom it should be.

        Raises PoisonError as `opened` and `require_author` of `esper.oona.inbound.intake` do.
        """
        event = opened(received)
        require_author(event, received, self._trust())
        return event

    async def _apply(
        self, apply: Callable[[Event, Received], Awaitable[None]], raw: Received
    ) -> None:
        """Apply what a message says in this installation's own frames, whatever registry its ids
        are of; a letter has the bytes as they came.
        """
        received = raw._replace(value=self._frames.incoming(raw.value))
        await apply(self.opened(received), received)

    async def take(self, received: Received, act: Act) -> bool:
        """Do `act` because of a message, and put the message aside where that fails.

        False when the worker stops before either is done: the message has to come again.
        """
        if not self._in_hand:
            self.progress.turn()
        # counted, because letters from tables are under way beside the message of an agent
        self._in_hand += 1
        try:
            return await self._until_done(received, act)
        finally:
            self._in_hand -= 1
            self.progress.turn()

    def well(self) -> bool:
        """Whether messages advance: none is in hand, or none for long."""
        if not self._in_hand:
            # nothing in hand: a quiet topic is no stall
            self.progress.turn(self._lag())
        return self.progress.well()

    def details(self) -> dict[str, Any]:
        """How messages advance, and what was refused, for people and for the supervisor."""
        return {**self.progress.details(), "dead_letters": self.refusals.total}

    def _lag(self) -> int:
        """Messages that were fetched and not taken, and those that the broker has and that were not
        fetched, as far as the client knows.
        """
        try:
            consumer: Any = self._app.consumer
            client = consumer._thread._consumer  # noqa: SLF001  # Faust asks its own thread, and waits for it
            assignment = client._subscription.subscription.assignment  # noqa: SLF001  # the same
            ends = (
                (client.highwater(place), assignment.state_value(place))
                for place in client.assignment()
            )
            ahead = sum(
                max((end or 0) - state.position, 0)
                for end, state in ends
                if state is not None and state.has_valid_position
            )
            return int(ahead) + len(consumer.unacked)
        except Exception:  # noqa: BLE001  # between two assignments, or another version of the client: a figure must not make a part unready
            return 0

    async def _until_done(self, received: Received, act: Act) -> bool:
        while not self._app.should_stop:
            try:
                await self._once(received, act)
            except Exception as error:  # noqa: BLE001  # what is left is retriable, or the letter itself could not be sent
                # tried again, it would fail forever, and stop every message behind it
                if not retriable(error):
                    _log.error(
                        "A dead letter about %s/%s/%s cannot be sent", *received[:3], exc_info=error
                    )
                    return True
                _log.warning("A message of %s waits: %s", received.topic, error)
                self.progress.wait(str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return True
        return False

    def refuse_soon(self, received: Received, error: Exception) -> None:
        """Put a message aside from where nothing can be awaited."""
        self.refusals.note(received, error)
        task = asyncio.get_running_loop().create_task(
            self.take(received, lambda: self._put_aside(received, error))
        )
        # asyncio holds tasks weakly: unreferenced, the letter could be collected before it is sent
        self._letters.add(task)
        task.add_done_callback(self._letters.discard)

    async def _once(self, received: Received, act: Act) -> None:
        try:
            await act()
        except Exception as error:  # poison is any exception
            if retriable(error):
                raise
            self.refusals.note(received, error)
            await self._put_aside(received, error)

    async def _put_aside(self, received: Received, error: Exception) -> None:
        if letters_for(received):
            await self._outbound.send(
                dead_letters.message(received, error, consumer=self._part, clock=self._clock)
            )


def received_of(event: EventT[Any]) -> Received:
    """What Faust received, as the rest of Esper knows it; no key and no value are empty ones."""
    source = event.message
    value = source.value if isinstance(source.value, bytes) else b""
    headers = tuple(
        (name, data) for name, data in (event.headers or {}).items() if isinstance(data, bytes)
    )
    return Received(
        source.topic,
        source.partition,
        source.offset,
        source.key,
        value,
        headers,
        round((source.timestamp or 0) * 1e6),
    )


class CheckedTable(streams.AcknowledgedTable):
    """A table that takes from its changelog only the rows that its reader can read: a poisoned one
    would end the recovery, or come back each time.
    """

    rows: RowGuard
    consumers: Consumers

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]]) -> None:
        """Apply what is sound, put the rest aside, and pass both."""
        events = list(batch)
        super().apply_changelog_batch([event for event in events if self._sound(event)])
        for place, offset in {event.message.tp: event.message.offset for event in events}.items():
            # refused rows are passed too, or each start would read and refuse them again
            self.data.set_persisted_offset(place, offset)

    def _sound(self, event: EventT[Any]) -> bool:
        key, value = event.message.key, event.message.value
        error = self.rows.fault(key, value)
        if error is not None:
            self.consumers.refuse_soon(received_of(event), error)
        return error is None


def checked_table(
    app: faust.App, name: str, *, partitions: int, rows: RowGuard, consumers: Consumers
) -> CheckedTable:
    """A table from bytes to bytes with as many changelog partitions as its source has."""
    table = CheckedTable(
        app,
        name=name,
        partitions=partitions,
        key_type=bytes,
        value_type=bytes,
        options=dict(streams.ROCKSDB),
    )
    table.rows, table.consumers = rows, consumers
    app.tables.add(table)
    return table


def fitting(row: bytes, what: str) -> bytes:
    """A row that the changelog takes.

    Raises:
        PoisonError: it is too large.
    """
    if len(row) > ROW_BYTES:
        raise PoisonError(
            f"The row of {what[:200]} would have {len(row):,} bytes; the most is {ROW_BYTES:,}."
        )
    return row


def require_sendable(messages: Iterable[Message]) -> None:
    """Make sure that the broker takes every one of these messages.

    Raises:
        PoisonError: one is too large.
    """
    largest = max((len(message.value) for message in messages), default=0)
    if largest > MAX_MESSAGE_BYTES:
        raise PoisonError(
            f"The answer to this message would have {largest:,} bytes; a message has at "
            f"most {MAX_MESSAGE_BYTES:,}."
        )


def readable(decode: Callable[[bytes], T], data: bytes | None, what: str) -> T | None:
    """A row of a table.

    None where there is none, or `decode` cannot read it, whatever is in it: one row must not stop
    those who read all.

    What cannot be read is logged with its traceback, once for each content.
    """
    if not data:
        return None
    try:
        return decode(data)
    except Exception:  # noqa: BLE001  # see above
        # rows are read at each scrape and request: the log would repeat a broken row forever
        if (content := hash(data)) not in _unreadable:
            _unreadable.add(content)
            _log.warning("%s cannot be read and is left out", what, exc_info=True)
        return None
