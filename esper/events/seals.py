"""Seals: who wrote an event, and in a journal after which one (Ed25519, RFC 8032; SHA-256). Pure.

The signature covers the record's name and the datum's bytes up to itself; the four bytes of the
schema id are left out, so that a message that is framed anew with a registry's id stays signed. A
journal event names the digest of the whole event before it, that one's signature included: who
proves the last signature and every digest has proven every signature.
"""

from __future__ import annotations

import hashlib
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from esper.events.codec import Message, decode, encode, frame
from esper.events.envelope import JournalEvent, SignedEvent
from esper.events.schemas import WireSchema, wire_schemas

TRAINER: Final = "trainer"
"""Writer of journals."""
TAMIYO: Final = "tamiyo"
"""Writer of decisions and their outcomes."""
OPERATOR: Final = "cli"
"""Writer of what operators say of runs: the command line."""

_HEAD: Final = 5  # magic byte and schema id
# apart from all else that these keys may ever sign
_CONTEXT: Final = b"esper event 1\0"
_CHARACTERS: Final = 86  # of 64 bytes in base64url without padding
_LENGTH: Final = b"\xac\x01"  # 86 as Avro writes it before the characters
_TAIL: Final = len(_LENGTH) + _CHARACTERS


def text_of(key: Ed25519PublicKey) -> str:
    """A public key as events name it: its 32 bytes in base64url."""
    return urlsafe_b64encode(key.public_bytes_raw()).decode().rstrip("=")


def fingerprint(key: str) -> str:
    """A public key for people: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


class Signer:
    """Signs as one writer. `key` is its public key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = text_of(private.public_key())

    def seal(self, event: SignedEvent, previous: str = "") -> Message:
        """The signed message of an event.

        In a journal `previous` is the digest of the event before it, empty for the first.
        """
        values: dict[str, Any] = {"signer": self.key, "signature": ""}
        if isinstance(event, JournalEvent):
            values["previous"] = previous
        # which NaN it is gets lost on the way through the history's columns
        values |= {
            name: math.nan
            for name, value in vars(event).items()
            if isinstance(value, float) and math.isnan(value)
        }
        message = encode(replace(event, **values))
        begun = message.value[:-1]  # without the length of the empty signature
        signature = urlsafe_b64encode(self._private.sign(_covered(event.NAME, begun[_HEAD:])))[
            :_CHARACTERS
        ]
        return message._replace(value=begun + _LENGTH + signature)


class SealChain:
    """Seals the events of one journal, each after the one before.

    `head` is the digest of the last that is durable; empty before the first.
    """

    def __init__(self, signer: Signer, head: str = "") -> None:
        self.signer = signer
        self.head = head

    def sealed(self, events: Sequence[JournalEvent]) -> tuple[tuple[Message, ...], str]:
        """The messages of the next events, and the head once they are durable: until then the same
        events, or others, may be sealed again.
        """
        head, messages = self.head, []
        for event in events:
            messages.append(message := self.signer.seal(event, head))
            head = digest(event.NAME, message.value)
        return tuple(messages), head


def digest(name: str, value: bytes) -> str:
    """SHA-256, hexadecimal, over a record's name and the datum in a framed message: what the next
    event of the journal names.
    """
    hashed = _begun(name).copy()
    hashed.update(value[_HEAD:])
    return str(hashed.hexdigest())


@cache
def _begun(name: str) -> Any:
    """The hash after a record's name. To copy it takes half as long as to make a new one."""
    return hashlib.sha256(b"%b\0" % name.encode())


def is_sealed(event: SignedEvent, value: bytes) -> bool:
    """Whether the signature in the message `value` of `event` is that of the key that the event
    names.
    """
    # from the message's end, because the signature is the last field of every signed record
    text = value[-_CHARACTERS:]
    if (
        len(value) < _HEAD + _TAIL
        or value[-_TAIL:-_CHARACTERS] != _LENGTH
        # the decoded field and the bytes have to say the same, or a reader would show another
        # signature
        or text != event.signature.encode()
    ):
        return False
    try:
        signature = urlsafe_b64decode(text + b"==")
        if urlsafe_b64encode(signature)[:_CHARACTERS] != text:
            return False  # the last character has bits to spare: only one spelling counts
        key_in(event.signer).verify(signature, _covered(event.NAME, value[_HEAD:-_TAIL]))
    except (InvalidSignature, ValueError):
        return False
    return True


def fault(event: SignedEvent, value: bytes, keys: Container[str]) -> str:
    """Why an event is not by the holder of one of `keys`, in half a sentence; empty where it is."""
    if not event.signer and not event.signature:
        return "it is not signed"
    if event.signer not in keys:
        return f"it is signed by key {fingerprint(event.signer)}, which is not trusted for it"
    return "" if is_sealed(event, value) else "its signature does not fit its content"


def restored(event: SignedEvent) -> Message:
    """The message of an event whose own bytes are not at hand, of the schema version that it was
    signed under.

    An event under which no version's signature fits comes back as `encode` has it.
    """
    message, earlier = encode(event), _signed_before(event.NAME)
    if not event.signature or not earlier or is_sealed(event, message.value):
        return message
    for wire in earlier:
        value = frame(event.to_avro(), wire)
        # what this version has no field for must be what its absence means, or anybody could fill
        # it in
        if is_sealed(event, value) and encode(decode(value)).value == message.value:
            return message._replace(value=value)
    return message


@dataclass(frozen=True, slots=True)
class OfRun:
    """What is believed of one imported run beside the installation's own: keys, and unsigned events
    that came before a time (microseconds).
    """

    keys: frozenset[str] = frozenset()
    unsigned_until_us: int = 0


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures an installation believes.

    Attributes:
        writers: public keys by writer. A writer without any is unknown here: what it writes is
            believed as it is.
        since_us: when each writer's first key was made; an unsigned event that the broker got
            before is of an earlier Esper, and believed.
        runs: what is believed of single runs beside that.
    """

    writers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    since_us: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, OfRun] = field(default_factory=dict)

    def knows(self, writer: str, run_id: str = "") -> bool:
        """Whether there is any key to hold this writer's events against."""
        return bool(self.keys(writer, run_id))

    def keys(self, writer: str, run_id: str = "") -> frozenset[str]:
        """The keys of a writer, for a run those of its import too."""
        own = self.writers.get(writer, frozenset())
        # an imported run's keys count for that run alone: its trainer is a stranger to all others
        return own | self.runs[run_id].keys if run_id in self.runs else own

    def unsigned(self, writer: str, run_id: str, received_us: int) -> bool:
        """Whether an unsigned event that the broker got then is believed."""
        return received_us < self.unsigned_until(writer, run_id)

    def unsigned_until(self, writer: str, run_id: str) -> float:
        """The time, microseconds, before which the broker must have got an unsigned event that is
        believed; infinite where no key is known.
        """
        if not self.knows(writer, run_id):
            # nothing to hold a signature against, so being unsigned is no fault
            return math.inf
        until = self.runs[run_id].unsigned_until_us if run_id in self.runs else 0
        return max(self.since_us.get(writer, 0), until)

    def fault(self, writer: str, event: SignedEvent, value: bytes, received_us: int) -> str:
        """Why an event is not believed to be by `writer`, in half a sentence; empty where it is.

        For readers that see single events.
        """
        if not event.signer and not event.signature:
            if self.unsigned(writer, event.run_id, received_us):
                return ""
            return f"it is not signed, and {writer} signs"
        return (
            fault(event, value, self.keys(writer, event.run_id))
            if self.knows(writer, event.run_id)
            else ""
        )


@cache
def _signed_before(name: str) -> tuple[WireSchema, ...]:
    """Earlier versions of a record's schema whose events are signed."""
    return tuple(
        wire
        for wire in wire_schemas().values()
        if name == wire.record.NAME
        and wire.id != wire.record.SCHEMA_ID
        # before a record had this field nobody signed it
        and wire.schema["fields"][-1]["name"] == "signature"
    )


@lru_cache(maxsize=256)
def key_in(key: str) -> Ed25519PublicKey:
    """The public key that a text names. Raises ValueError: it is no key."""
    # events leave the padding out; Python's decoder insists on it
    return Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(key + "=" * (-len(key) % 4)))


def _covered(name: str, begun: bytes) -> bytes:
    return b"%b%b\0%b" % (_CONTEXT, name.encode(), begun)
