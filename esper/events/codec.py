"""Events to Kafka messages and back: Confluent's framing (magic 0, 4-byte schema id, Avro datum),
CloudEvents headers, traceparent.

Sources: Confluent wire format; CloudEvents 1.0 Kafka binding, binary mode; W3C Trace Context.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast

from fastavro import schemaless_reader, schemaless_writer

from esper.errors import PoisonError
from esper.events.envelope import Event, JournalEvent
from esper.events.ranges import LEAST_LIMIT, require
from esper.events.schemas import WireSchema, current, wire_schema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD = 5  # magic byte and schema id


class Message(NamedTuple):
    """A framed event: what goes to Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def frame(datum: dict[str, Any], wire: WireSchema) -> bytes:
    """The framed bytes of a datum."""
    buffer = io.BytesIO()
    buffer.write(_head(wire.id))
    schemaless_writer(buffer, wire.parsed, datum)
    return buffer.getvalue()


def encode(event: Event) -> Message:
    """The message of an event, with its topic, key and headers."""
    kind, schema, key, value_of = _form(event.SCHEMA_ID)
    event_id = event.event_id
    headers = (
        _SPECVERSION,
        kind,
        ("ce_source", _source(event.sender_id)),
        ("ce_id", event_id.encode()),
        ("ce_time", _time(event.occurred_at)),
        schema,
        _CONTENT_TYPE,
        (
            "traceparent",
            # the event is its own span: W3C wants 16 hexadecimal digits, here the first of the
            # event's id
            f"00-{event.trace_id}-{event_id[:8]}{event_id[9:13]}{event_id[14:18]}-01".encode(),
        ),
    )
    return Message(event.TOPIC, key(event).encode(), value_of(event), headers)


class _Form(NamedTuple):
    """What is the same in every message of a record: the headers of type and fingerprint, where its
    key stands, and how it is framed.
    """

    kind: tuple[str, bytes]
    schema: tuple[str, bytes]
    key: Callable[[Event], str]
    value_of: Callable[[Event], bytes]


@cache
def _form(schema_id: int) -> _Form:
    wire = wire_schema(schema_id)
    record = wire.record
    kind, schema = (
        ("ce_type", b"esper.events." + record.NAME.encode()),
        ("ce_dataschema", b"sha-256:" + wire.fingerprint.encode()),
    )
    # generated where every field is a plain value; walking the schema takes twice the time
    write: Callable[[Event, bytearray], None] | None = getattr(record, "write", None)
    if write is None:  # it has records inside
        return _Form(
            kind,
            schema,
            attrgetter(record.KEY),
            _guarded(record, lambda event: frame(event.to_avro(), wire)),
        )
    head = _head(wire.id)

    def value_of(event: Event) -> bytes:
        out = bytearray(head)
        write(event, out)
        return bytes(out)

    return _Form(kind, schema, attrgetter(record.KEY), _guarded(record, value_of))


def _guarded(record: type[Event], value_of: Callable[[Event], bytes]) -> Callable[[Event], bytes]:
    """How events of a record are framed.

    One of a journal that nobody could decode is refused now: it would end the recovery of its run.
    """
    if not issubclass(record, JournalEvent):
        return value_of

    def sound_value_of(event: Event) -> bytes:
        if event.unsound():
            require(event.NAME, event.BOUNDS, event.__dict__)
        value = value_of(event)
        if len(value) > record.MAX_BYTES:
            raise PoisonError(
                f"A {event.NAME} would have {len(value):,} bytes, and {record.MAX_BYTES:,} "
                "is the most; shorten its texts."
            )
        return value

    return sound_value_of


def _head(schema_id: int) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big")


UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""The texts that fields of the logical type uuid may have."""
_SPECVERSION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/avro")


@lru_cache(maxsize=256)
def _source(sender_id: str) -> bytes:
    return b"/esper/" + sender_id.encode()


def _time(at_us: int) -> bytes:
    """RFC 3339 of microseconds since 1970, as `datetime.isoformat` writes it."""
    seconds, us = divmod(at_us, 1_000_000)
    return b"%b.%06d+00:00" % (_second(seconds), us) if us else _second(seconds) + b"+00:00"


@lru_cache(maxsize=16)
def _second(seconds: int) -> bytes:
    # kept by the second, because the events of one step mostly share it
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[: len("1970-01-01T00:00:00")].encode()


def schema_id(value: bytes) -> int:
    """The schema id of a framed message.

    Raises:
        PoisonError: the bytes are not framed.
    """
    if len(value) < _HEAD or value[0] != 0:
        raise PoisonError(
            "A message has no Confluent frame (magic byte 0 and a 4-byte schema id); it "
            "was not written by Esper's codec."
        )
    return int.from_bytes(value[1:_HEAD], "big")


def body(value: bytes) -> bytes:
    """The Avro datum inside a framed message."""
    return value[_HEAD:]


def decode(value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Event:
    """The event in a framed message, of the current or an earlier schema version.

    Raises:
        PoisonError: unframed, of an unknown schema, cut off, longer than its schema says, or with a
            field outside its bounds.
    """
    stream = io.BytesIO(value)
    head = stream.read(_HEAD)
    read = _reader(head)
    size = len(value)
    # no schema allows less than LEAST_LIMIT, so the many small messages cost no look-up
    if size > LEAST_LIMIT and size > (most := wire_schema(schema_id(value)).record.MAX_BYTES):
        raise PoisonError(
            f"A message of {size:,} bytes is larger than its record may be: {most:,} is the most."
        )
    try:
        event = read(stream)
    # a bound that was broken names its field already
    except PoisonError:
        raise
    except Exception as error:
        wire = wire_schema(schema_id(value))
        kind = (dict(headers).get("ce_type") or wire.record.NAME.encode()).decode(errors="replace")
        raise PoisonError(
            f"A message of type {kind} does not match schema {wire.id}: "
            f"{type(error).__name__}: {error}."
        ) from error
    # bytes behind the datum would be outside of every check, and could differ between copies
    if stream.tell() != size:
        raise PoisonError(
            f"A {event.NAME} message has bytes after its datum; the sender wrote another "
            "schema than its frame says."
        )
    return event


def unreadable(values: Sequence[bytes]) -> dict[int, PoisonError]:
    """Which framed messages of known schemas hold no datum of theirs, by index, and why.

    Bounds are not looked at: what is out of them can be read.
    """
    faults: dict[int, PoisonError] = {}
    for index, value in enumerate(values):
        try:
            _read_plainly(value)
        except PoisonError as error:
            faults[index] = error
    return faults


def _read_plainly(value: bytes) -> None:
    """Read a datum with the schema that it was written with, and its UUIDs.

    Raises:
        PoisonError: there is none, something follows it, or a UUID is none.
    """
    wire, stream = wire_schema(schema_id(value)), io.BytesIO(value)
    stream.seek(_HEAD)
    try:
        datum = cast("dict[str, Any]", schemaless_reader(stream, wire.parsed, None))
    except Exception as error:  # fastavro raises what the bytes lead it to
        raise PoisonError(
            f"A message of type {wire.record.NAME} does not match schema {wire.id}: "
            f"{type(error).__name__}: {error}."
        ) from error
    if stream.tell() != len(value):
        raise PoisonError(
            f"A {wire.record.NAME} message has bytes after its datum; the sender wrote another "
            "schema than its frame says."
        )
    for name in wire.uuids:
        text = datum[name]
        if text is not None and not UUID.fullmatch(text):
            raise PoisonError(
                f"A {wire.record.NAME} has the {name} {text[:80]!r}, which is no UUID."
            )


@cache
def _reader(head: bytes) -> Callable[[io.BytesIO], Event]:
    """How the datum after these five bytes is read."""
    # an unknown id raises here, and a cache keeps no exceptions: senders cannot fill it
    wire = wire_schema(schema_id(head))
    record: Any = wire.record
    target = current(wire.record)
    if wire is target and hasattr(record, "read"):
        return cast("Callable[[io.BytesIO], Event]", record.read)
    # resolving one schema against another costs time at every field; most messages need none
    reader_schema = None if wire is target else target.parsed

    def read(stream: io.BytesIO) -> Event:
        event: Event = record.from_avro(schemaless_reader(stream, wire.parsed, reader_schema))
        if event.unsound():
            require(event.NAME, event.BOUNDS, event.__dict__)
        return event

    return read
