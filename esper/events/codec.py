"""Events to Kafka messages and back: Confluent's framing (magic 0, 4-byte schema id, Avro datum), CloudEvents headers, traceparent.

Sources: Confluent wire format; CloudEvents 1.0 Kafka binding, binary mode; W3C Trace Context.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from esper.errors import PoisonError
from esper.events.envelope import Event
from esper.events.registry import WireSchema, current, wire_schema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD = 5  # magic byte and schema id


@dataclass(frozen=True, slots=True)
class Message:
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
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_type", b"esper.events." + event.NAME.encode()),
        ("ce_source", b"/esper/" + event.sender_id.encode()),
        ("ce_id", event.event_id.encode()),
        ("ce_time", (_EPOCH + timedelta(microseconds=event.occurred_at)).isoformat().encode()),
        ("ce_dataschema", b"sha-256:" + wire.fingerprint.encode()),
        ("content-type", b"application/avro"),
        ("traceparent", f"00-{event.trace_id}-{event.event_id.replace('-', '')[:16]}-01".encode()),
    )
    key: str = getattr(event, event.KEY)
    return Message(event.TOPIC, key.encode(), frame(event.to_avro(), wire), headers)


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
