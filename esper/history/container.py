"""Message bodies as an Avro object container: one Avro block a message, parsed by ClickHouse in C++, never decoded in Python.

Source: Apache Avro specification 1.12, "Object container files".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from esper.events.registry import wire_schemas
from esper.history.ddl import END, HEAD, TAIL, RecordTable, record_tables
from esper.oona.port import Received

_SYNC: Final = b"esper.history.v1"  # 16 bytes between blocks; lengths, not this, find their ends
_FRAME: Final = 5  # magic byte and schema id before a body


def varint(number: int) -> bytes:
    """A number as Avro writes int and long: zig-zag, seven bits a byte."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_END: Final = varint(END)


@dataclass(frozen=True, slots=True)
class Layout:
    """How messages of one schema go into their table: the columns, and the Avro schema of a row without the topic's id."""

    table: RecordTable
    columns: tuple[str, ...]
    fields: tuple[dict[str, Any], ...]


@cache
def layout(schema_id: int) -> Layout:
    """The layout of a schema id of the registry."""
    wire = wire_schemas()[schema_id]
    table = record_tables()[wire.record.NAME]
    places = dict(table.placement[schema_id])
    fields = tuple({"name": places[field["name"]], "type": field["type"]} for field in wire.schema["fields"])
    columns = (*(name for name, _, _ in HEAD), *(field["name"] for field in fields), TAIL[0])
    return Layout(table, columns, fields)


@cache
def header(schema_id: int, topic_id: str) -> bytes:
    """What a container begins with. The topic's id is the only symbol of an enum, so that it costs one byte a row."""
    wire = wire_schemas()[schema_id].schema
    topic = {"type": "enum", "name": "TopicId", "symbols": [topic_id]}
    head = [{"name": name, "type": avro} for (name, _, _), avro in zip(HEAD, (topic, "int", "long"), strict=True)]
    row = {
        "type": "record",
        "name": wire["name"],
        "namespace": wire["namespace"],
        "fields": [*head, *layout(schema_id).fields, {"name": TAIL[0], "type": "int"}],
    }
    meta = {b"avro.schema": json.dumps(row).encode(), b"avro.codec": b"null"}
    pairs = b"".join(varint(len(key)) + key + varint(len(value)) + value for key, value in meta.items())
    return b"Obj\x01" + varint(len(meta)) + pairs + b"\0" + _SYNC


def container(schema_id: int, topic_id: str, messages: Iterable[Received]) -> bytes:
    """The container of framed messages of one schema and one topic, in the order given."""
    out = [header(schema_id, topic_id)]
    partitions: dict[int, bytes] = {}
    for message in messages:
        partition = partitions.get(message.partition)
        if partition is None:
            partition = partitions[message.partition] = b"\0" + varint(message.partition)  # \0: the enum's first symbol
        row = b"%b%b%b%b" % (partition, varint(message.offset), message.value[_FRAME:], _END)
        out.append(b"\x02%b%b%b" % (varint(len(row)), row, _SYNC))  # \x02: one row in the block
    return b"".join(out)
