"""Message bodies as an Avro object container: one Avro block a message, parsed by ClickHouse in
C++, never decoded in Python.

Source: Apache Avro specification 1.12, "Object container files".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from esper.events.schemas import wire_schemas
from esper.history.tables.ddl import END, HEAD, TAIL, RecordTable, record_tables
from esper.oona.bus.port import Received

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
_ONE_ROW: Final = varint(1)  # what a block begins with


@dataclass(frozen=True, slots=True)
class Layout:
    """How messages of one schema go into their table: the columns, and the Avro schema of a row
    without the topic's id.
    """

    table: RecordTable
    columns: tuple[str, ...]
    fields: tuple[dict[str, Any], ...]


@cache
def layout(schema_id: int) -> Layout:
    """The layout of a schema id of the registry."""
    wire = wire_schemas()[schema_id]
    table = record_tables()[wire.record.NAME]
    places = dict(table.placement[schema_id])
    fields = tuple(
        {"name": places[field["name"]], "type": field["type"]} for field in wire.schema["fields"]
    )
    columns = (*(name for name, _, _ in HEAD), *(field["name"] for field in fields), TAIL[0])
    return Layout(table, columns, fields)


@cache
def header(schema_id: int, topic_id: str) -> bytes:
    """What a container begins with.

    The topic's id is the only symbol of an enum, so that it costs one byte a row.
    """
    wire = wire_schemas()[schema_id].schema
    topic = {"type": "enum", "name": "TopicId", "symbols": [topic_id]}
    head = [
        {"name": name, "type": avro}
        for (name, _, _), avro in zip(HEAD, (topic, "int", "long"), strict=True)
    ]
    row = {
        "type": "record",
        "name": wire["name"],
        "namespace": wire["namespace"],
        "fields": [*head, *layout(schema_id).fields, {"name": TAIL[0], "type": "int"}],
    }
    meta = {b"avro.schema": json.dumps(row).encode(), b"avro.codec": b"null"}
    pairs = b"".join(
        varint(len(key)) + key + varint(len(value)) + value for key, value in meta.items()
    )
    return b"Obj\x01" + varint(len(meta)) + pairs + b"\0" + _SYNC


def container(schema_id: int, topic_id: str, messages: Sequence[Received]) -> bytes:
    """The container of framed messages of one schema and one partition, in the order given."""
    partition = b"\0" + varint(messages[0].partition)  # \0: the enum's first symbol
    offsets, width = _offsets(messages)
    overhead = len(partition) + width + len(_END) - _FRAME
    tail = _END + _SYNC + _ONE_ROW
    leads: dict[int, bytes] = {}
    out = [header(schema_id, topic_id), _ONE_ROW]
    at = 0
    for message in messages:
        value = message.value
        size = len(value) + overhead
        # messages of one record have few lengths: most rows need no varint of their own
        lead = leads.get(size)
        if lead is None:
            lead = leads[size] = varint(size) + partition
        out += (lead, offsets[at : at + width], value[_FRAME:], tail)
        at += width
    # behind the last row no other block begins
    out[-1] = _END + _SYNC
    return b"".join(out)


def _offsets(messages: Sequence[Received]) -> tuple[bytes, int]:
    """The offsets as Avro longs of one width, that of the largest: a leading zero group is as valid
    as none.
    """
    numbers = np.fromiter(
        (message.offset for message in messages), dtype=np.uint64, count=len(messages)
    ) << np.uint64(1)
    width = len(varint(max(messages[0].offset, messages[-1].offset)))
    groups = (numbers[:, None] >> (np.arange(width, dtype=np.uint64) * np.uint64(7))).astype(
        np.uint8
    ) | np.uint8(0x80)
    groups[:, -1] &= 0x7F
    return groups.tobytes(), width
