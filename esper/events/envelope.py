"""What every event begins with, and how its identity is made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

from esper.clock import Clock
from esper.events.avro import NAMED, OPTIONS, write_data
from esper.events.ranges import MAX_BYTES, Bound


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of whatever a schema describes. The datum is the record's namespace, without slots: reading and writing it copy nothing."""

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
    """Append the envelope's fields. Avro writes a record as its fields one after the other, so those that a sender repeats are kept as bytes."""
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
    """A UUID made from the hash of run, timeline and logical key (RFC 9562, version 8): executed again, a step emits the same id."""
    digest = bytearray(hashlib.sha256(f"{run_id}\x1f{timeline}\x1f{logical_key}".encode()).digest()[:16])
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

    def envelope(self, logical_key: str, *, timeline: int = 0, causation_id: str | None = None) -> dict[str, Any]:
        """Keyword arguments for a record's constructor. `logical_key` names the event uniquely within run and timeline."""
        return {
            "event_id": event_id(self.run_id, timeline, logical_key),
            "occurred_at": self.clock.now_us(),
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": causation_id,
        }
