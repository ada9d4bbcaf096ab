"""Events to Kafka messages and back: Confluent's framing (magic 0, 4-byte schema id, Avro datum), CloudEvents headers, traceparent.

Sources: Confluent wire format; CloudEvents 1.0 Kafka binding, binary mode; W3C Trace Context.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from fastavro import schemaless_reader, schemaless_writer

from esper.errors import PoisonError
from esper.events.envelope import Event
from esper.events.registry import WireSchema, current, wire_schema

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
    buffer.write(b"\0" + wire.id.to_bytes(4, "big"))
    schemaless_writer(buffer, wire.parsed, datum)
    return buffer.getvalue()


def encode(event: Event) -> Message:
    """The message of an event, with its topic, key and headers."""
    wire = current(type(event))
    kind, schema = _of_schema(event.SCHEMA_ID)
    event_id = event.event_id
    headers = (
        _SPECVERSION,
        kind,
        ("ce_source", _source(event.sender_id)),
        ("ce_id", event_id.encode()),
        ("ce_time", _time(event.occurred_at).encode()),
        schema,
        _CONTENT_TYPE,
        ("traceparent", f"00-{event.trace_id}-{event_id[:8]}{event_id[9:13]}{event_id[14:18]}-01".encode()),
    )
    key: str = getattr(event, event.KEY)
    return Message(event.TOPIC, key.encode(), frame(event.to_avro(), wire), headers)


_SPECVERSION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/avro")


@cache
def _of_schema(schema_id: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """The headers that are the same in every event of a schema: record type and fingerprint."""
    wire = wire_schema(schema_id)
    return ("ce_type", b"esper.events." + wire.record.NAME.encode()), ("ce_dataschema", b"sha-256:" + wire.fingerprint.encode())


@lru_cache(maxsize=256)
def _source(sender_id: str) -> bytes:
    return b"/esper/" + sender_id.encode()


def _time(at_us: int) -> str:
    """RFC 3339 of microseconds since 1970, as `datetime.isoformat` writes it."""
    seconds, us = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{us:06d}+00:00" if us else f"{_second(seconds)}+00:00"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[: len("1970-01-01T00:00:00")]


def schema_id(value: bytes) -> int:
    """The schema id of a framed message.

    Raises:
        PoisonError: the bytes are not framed.
    """
    if len(value) < _HEAD or value[0] != 0:
        raise PoisonError("A message has no Confluent frame (magic byte 0 and a 4-byte schema id); it was not written by Esper's codec.")
    return int.from_bytes(value[1:_HEAD], "big")


def body(value: bytes) -> bytes:
    """The Avro datum inside a framed message."""
    return value[_HEAD:]


def decode(value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Event:
    """The event in a framed message, of the current or an earlier schema version.

    Raises:
        PoisonError: unframed, of an unknown schema, cut off, or longer than its schema says.
    """
    wire = wire_schema(schema_id(value))
    record: Any = wire.record
    buffer = io.BytesIO(value)
    buffer.seek(_HEAD)
    try:
        target = current(wire.record)
        datum = schemaless_reader(buffer, wire.parsed, None if target is wire else target.parsed)
        if buffer.read(1):
            raise PoisonError(f"A {record.NAME} message has bytes after its datum; the sender wrote another schema than its frame says.")
        event: Event = record.from_avro(datum)
    except PoisonError:
        raise
    except Exception as error:
        kind = dict(headers).get("ce_type", record.NAME.encode()).decode(errors="replace")
        raise PoisonError(f"A message of type {kind} does not match schema {wire.id}: {type(error).__name__}: {error}.") from error
    return event
