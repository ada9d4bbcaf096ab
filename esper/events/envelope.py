"""What every event begins with, and how its identity is made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from struct import Struct
from typing import Any, ClassVar, Final, Self

from esper.clock import Clock
from esper.events.avro import NAMED, OPTIONS, read_utf8, write_data
from esper.events.ranges import MAX_BYTES, Bound


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of whatever a schema describes.

    The datum is the record's namespace, without slots: reading and writing it copy nothing.
    """

    BOUNDS: ClassVar[tuple[Bound, ...]] = ()
    """What the fields may be."""

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds; generated for each record."""
        return False

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes. It is the record's own: not to be changed."""
        return self.__dict__

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read, which it takes over."""
        record = object.__new__(cls)
        # around the frozen dataclass: its constructor would copy every field of every event
        object.__setattr__(record, "__dict__", datum)
        return record


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """Base of every event: the envelope. Field meanings stand in the schemas."""

    NAME: ClassVar[str]
    TOPIC: ClassVar[str]
    KEY: ClassVar[str]
    SCHEMA_ID: ClassVar[int]
    MAX_BYTES: ClassVar[int] = MAX_BYTES
    """Largest message, framed."""

    event_id: str
    occurred_at: int
    run_id: str
    sender_id: str
    trace_id: str
    causation_id: str | None = None


def write_envelope(out: bytearray, event: Event) -> None:
    """Append the envelope's fields.

    Avro writes a record as its fields one after the other, so those that a sender repeats are kept
    as bytes.
    """
    write_data(out, event.event_id, "string", NAMED, "event_id", OPTIONS)
    write_data(out, event.occurred_at, "long", NAMED, "occurred_at", OPTIONS)
    out += _repeated(event.run_id, event.sender_id, event.trace_id, event.causation_id)


@lru_cache(maxsize=256)
def _repeated(run_id: str, sender_id: str, trace_id: str, causation_id: str | None) -> bytes:
    out = bytearray()
    write_data(out, run_id, "string", NAMED, "run_id", OPTIONS)
    write_data(out, sender_id, "string", NAMED, "sender_id", OPTIONS)
    write_data(out, trace_id, "string", NAMED, "trace_id", OPTIONS)
    write_data(out, causation_id, ["null", "string"], NAMED, "causation_id", OPTIONS)
    return bytes(out)


class _Sender:
    """The last `run_id`, `sender_id` and `trace_id` that were read, with their bytes: the events of
    a run mostly have the same.

    What is found equal is not decoded again, since the same bytes from the same place on say the
    same. Safe to use from several threads.
    """

    def __init__(self) -> None:
        # one tuple, replaced at once: another thread sees the old or the new, never half of each
        self._last: tuple[int, bytes, tuple[str, str, str]] = (0, b"\xff", ("", "", ""))

    def read(self, stream: BytesIO) -> tuple[str, str, str]:
        """The three that come next in the stream."""
        size, known, texts = self._last
        at = stream.tell()
        if stream.read(size) == known:
            return texts
        # the texts have other lengths than the last ones, so they are read one by one
        stream.seek(at)
        texts = (read_utf8(stream), read_utf8(stream), read_utf8(stream))
        size = stream.tell() - at
        stream.seek(at)
        self._last = (size, stream.read(size), texts)
        return texts


read_sender = _Sender().read

_UNSIGNED: Final = b"\0\0\0"  # three empty texts
_SEAL: Final = Struct("s43s 2s64s 2s86s")  # three texts of a fixed length, each after that length
# 43, 64 and 86 as Avro writes a length: zigzag, then seven bits a byte
_LENGTHS: Final = (b"\x56", b"\x80\x01", b"\xac\x01")


def read_seal(stream: BytesIO) -> tuple[str, str, str]:
    """The `signer`, `previous` and `signature` that end a journal event, which mostly are all there
    or all empty: then at once.
    """
    at = stream.tell()
    tail = stream.read()
    if tail == _UNSIGNED:
        return "", "", ""
    if len(tail) == _SEAL.size:
        signer_length, signer, previous_length, previous, signature_length, signature = (
            _SEAL.unpack(tail)
        )
        if (signer_length, previous_length, signature_length) == _LENGTHS:
            return signer.decode(), previous.decode(), signature.decode()
    stream.seek(at)
    return read_utf8(stream), read_utf8(stream), read_utf8(stream)


@dataclass(frozen=True, kw_only=True)
class SignedEvent(Event):
    """Base of records that their writer signs (`esper.events.seals`)."""

    signer: str = ""
    signature: str = ""


@dataclass(frozen=True, kw_only=True)
class JournalEvent(SignedEvent):
    """Base of the records of a run's journal."""

    previous: str = ""

    timeline: int
    sequence: int
    epoch: int
    step: int


def event_id(run_id: str, timeline: int, logical_key: str) -> str:
    """A UUID made from the hash of run, timeline and logical key (RFC 9562, version 8): executed
    again, a step emits the same id.
    """
    digest = bytearray(
        # the separator keeps (1, "2a") and (12, "a") apart
        hashlib.sha256(f"{run_id}\x1f{timeline}\x1f{logical_key}".encode()).digest()[:16]
    )
    # RFC 9562: version 8 in the seventh byte, the variant's two bits in the ninth
    digest[6] = (digest[6] & 0x0F) | 0x80
    digest[8] = (digest[8] & 0x3F) | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def trace_id(*parts: str) -> str:
    """A W3C trace id, 32 hexadecimal digits, made from the hash of `parts`."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who emits: fills the envelope of its events."""

    run_id: str
    sender_id: str
    trace_id: str
    clock: Clock

    def envelope(
        self, logical_key: str, *, timeline: int = 0, causation_id: str | None = None
    ) -> dict[str, Any]:
        """Keyword arguments for a record's constructor.

        `logical_key` names the event uniquely within run and timeline.
        """
        return {
            "event_id": event_id(self.run_id, timeline, logical_key),
            "occurred_at": self.clock.now_us(),
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": causation_id,
        }
