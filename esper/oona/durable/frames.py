"""Frames: what one decide() led to, as bytes whose every damage is noticed.

A segment is 8 bytes of magic, then frames: length of the payload, CRC-32 of the payload, CRC-32 of
these eight bytes (each 4 bytes, little endian), payload. The second checksum tells a frame that was
cut off from one whose length was damaged.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import parse_schema

from esper.errors import CorruptError
from esper.events.codec import Message

MAGIC: Final = b"ESPEROB1"
_HEAD: Final = struct.Struct("<II")
_HEAD_BYTES: Final = _HEAD.size + 4
_SCHEMA: Final[Any] = parse_schema(
    {
        "type": "record",
        "name": "Frame",
        "fields": [
            {"name": "first_sequence", "type": "long"},
            {"name": "incarnation", "type": "long"},
            {"name": "command_id", "type": "string"},
            {"name": "command_topic", "type": ["null", "string"]},
            {"name": "command_partition", "type": "long"},
            {"name": "command_offset", "type": "long"},
            {
                "name": "events",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Message",
                        "fields": [
                            {"name": "topic", "type": "string"},
                            {"name": "key", "type": "bytes"},
                            {"name": "value", "type": "bytes"},
                            {
                                "name": "headers",
                                "type": {
                                    "type": "array",
                                    "items": {
                                        "type": "record",
                                        "name": "Header",
                                        "fields": [
                                            {"name": "name", "type": "string"},
                                            {"name": "value", "type": "bytes"},
                                        ],
                                    },
                                },
                            },
                        ],
                    },
                },
            },
        ],
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """The events of one decide(), which are committed together.

    The events have the sequences `first_sequence`, `first_sequence + 1`, ... `incarnation` counts
    the starts of the run; `command_position` is topic, partition and offset of the command that was
    decided on, if one was read from the bus.
    """

    first_sequence: int
    events: tuple[Message, ...]
    incarnation: int
    command_id: str
    command_position: tuple[str, int, int] | None

    @property
    def next_sequence(self) -> int:
        """The sequence after the last event."""
        return self.first_sequence + len(self.events)


def event_id_of(headers: tuple[tuple[str, bytes], ...]) -> str:
    """The event id that a message carries in its headers; empty where it has none."""
    return next((value.decode() for name, value in headers if name == "ce_id"), "")


def pack(frame: Frame) -> bytes:
    """The bytes of a frame in a segment."""
    topic, partition, offset = frame.command_position or (None, 0, 0)
    buffer = io.BytesIO()
    datum = {
        "first_sequence": frame.first_sequence,
        "incarnation": frame.incarnation,
        "command_id": frame.command_id,
        "command_topic": topic,
        "command_partition": partition,
        "command_offset": offset,
        "events": [
            {
                "topic": event.topic,
                "key": event.key,
                "value": event.value,
                "headers": [{"name": name, "value": value} for name, value in event.headers],
            }
            for event in frame.events
        ],
    }
    # Avro without the schema in the file: the version stands in MAGIC, which changes with the
    # format
    schemaless_writer(buffer, _SCHEMA, datum)
    payload = buffer.getvalue()
    head = _HEAD.pack(len(payload), zlib.crc32(payload))
    return head + zlib.crc32(head).to_bytes(4, "little") + payload


@dataclass(frozen=True, slots=True)
class Placed:
    """A frame and the bytes of its segment that hold it."""

    frame: Frame
    offset: int
    size: int


def scan(path: Path, content: bytes) -> Iterator[Placed]:
    """The frames of a segment, as far as they are whole.

    What follows the last one, if anything, is a torn tail: a write that never ended.

    Raises:
        CorruptError: damage that no interrupted write explains, by file and offset.
    """
    # zeros alone are room that the file system gave before a crash: torn, not foreign
    if any(content) and content[: len(MAGIC)] != MAGIC[: len(content)]:
        raise CorruptError(
            f"{path} is damaged at offset 0: it does not begin as an outbox segment does; "
            "restore the file from a backup."
        )
    at = len(MAGIC)
    while len(content) - at >= _HEAD_BYTES:
        head = content[at : at + _HEAD.size]
        length, checksum = _HEAD.unpack(head)
        begin = at + _HEAD_BYTES
        # without this checksum a damaged length would pass for a frame that was cut off, and lose
        # all frames behind it in silence
        if zlib.crc32(head) != int.from_bytes(content[at + _HEAD.size : begin], "little"):
            if not any(content[at:]):
                return  # room that the file system had given before the power went
            raise _damaged(path, at)
        payload = content[begin : begin + length]
        # the length is sound, so the write itself was cut short: a torn tail, not damage
        if len(payload) < length:
            return
        if zlib.crc32(payload) != checksum:
            raise _damaged(path, at)
        yield Placed(_unpack(payload), at, _HEAD_BYTES + length)
        at = begin + length


def unpack(path: Path, offset: int, content: bytes) -> Frame:
    """The frame that `pack` made `content` from.

    Raises CorruptError naming `path` and `offset` where it is another.
    """
    placed = None
    with suppress(CorruptError):  # which counts from the beginning of `content`
        placed = next(scan(path, MAGIC + content), None)
    # a shorter frame would mean that the file changed under the place that was noted
    if placed is None or placed.size != len(content):
        raise _damaged(path, offset)
    return placed.frame


def _unpack(payload: bytes) -> Frame:
    datum: Any = schemaless_reader(io.BytesIO(payload), _SCHEMA, None)
    topic = datum["command_topic"]
    return Frame(
        first_sequence=datum["first_sequence"],
        events=tuple(
            Message(
                event["topic"],
                event["key"],
                event["value"],
                tuple((header["name"], header["value"]) for header in event["headers"]),
            )
            for event in datum["events"]
        ),
        incarnation=datum["incarnation"],
        command_id=datum["command_id"],
        command_position=None
        if topic is None
        else (topic, datum["command_partition"], datum["command_offset"]),
    )


def _damaged(path: Path, offset: int) -> CorruptError:
    return CorruptError(
        f"{path} is damaged at offset {offset}: a checksum does not match, and no "
        "interrupted write explains it; restore the file from a "
        "backup, or move it away and resume from the events that Kafka has."
    )
