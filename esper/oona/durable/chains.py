"""Proving the audit trail: every sender's chain of records on `audit.events`, from its first record
to its last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.clock import Clock
from esper.errors import PoisonError, UnavailableError
from esper.events import decode
from esper.events.records import AuditRecorded
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.audit_trail import HEAD, TOPIC
from esper.service.checks.audit_entries import Link

_BATCH: Final = 5_000
_POLL_S: Final = 0.5
_PATIENCE_S: Final = 30.0
_MOST_FORGED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Broken:
    """The first record of a chain that does not fit: where it stands on the topic, and why, in a
    sentence. -1 where nothing stands.
    """

    partition: int
    offset: int
    event_id: str
    why: str


@dataclass(frozen=True, slots=True)
class SenderChain:
    """One sender's chain: how many of its records fit, one after the other, and the first that does
    not.

    `forged` are messages under its key that the sender did not sign: they are no part of the chain,
    and prove nothing.
    """

    sender: str
    proven: int
    head: str
    broken: Broken | None
    forged: tuple[Broken, ...] = ()


def verify(
    bus: Bus, *, clock: Clock, heads: Mapping[str, Link], trust: Trust | None = None
) -> tuple[SenderChain, ...]:
    """Every chain on the topic, by sender.

    `heads` says where senders of this machine remember having come to, `trust` who signs.

    Raises:
        UnavailableError: no broker, or the topic cannot be read to its end.
    """
    trusted = trust or Trust()
    # begun from what is remembered: a sender whose records were all deleted has a broken chain, too
    walks: dict[str, _Walk] = {
        sender: _Walk(sender, head, trusted) for sender, head in heads.items()
    }
    with bus.reader([TOPIC], start="beginning") as reader:
        # the log's end, so that an open transaction is waited for and not taken for missing records
        ends, deadline = reader.log_end(), clock.monotonic() + _PATIENCE_S
        while any(reader.position()[pair] < end for pair, end in ends.items()):
            before = reader.position()
            for received in reader.poll(_BATCH, _POLL_S):
                sender = (received.key or b"").decode(errors="replace")
                walks.setdefault(sender, _Walk(sender, Link(), trusted)).take(received)
            if reader.position() != before:
                deadline = clock.monotonic() + _PATIENCE_S
            elif clock.monotonic() > deadline:
                raise UnavailableError(
                    f"{TOPIC} could not be read to its end within {_PATIENCE_S:.0f} s; is "
                    "the broker up?"
                )
    return tuple(walks[sender].chain() for sender in sorted(walks))


def heads(folder: Path) -> dict[str, Link]:
    """Where the trails in `folder` remember having come to, by sender.

    One whose memory cannot be read is left out.
    """
    links: dict[str, Link] = {}
    for path in folder.glob(f"*/{HEAD}"):
        try:
            links[path.parent.name] = Link(**json.loads(path.read_bytes()))
        # without its memory a chain can still be proven, only not that its end is there
        except (OSError, ValueError, TypeError):
            continue
    return links


class _Walk:
    """Follows one sender's records in their order."""

    def __init__(self, sender: str, remembered: Link, trust: Trust) -> None:
        self._sender = sender
        self._remembered = remembered
        self._trust = trust
        self._forged: list[Broken] = []
        self._link = Link()
        self._broken: Broken | None = None

    def take(self, received: Received) -> None:
        """The next message under this sender's key."""
        if self._broken is not None:
            return
        if self._signs():
            self._take_signed(received)
            return
        try:
            event = decode(received.value, received.headers)
        except PoisonError as error:
            self._broken = Broken(
                received.partition, received.offset, "", f"a message that is not a record: {error}"
            )
            return
        if not isinstance(event, AuditRecorded):
            self._broken = Broken(
                received.partition,
                received.offset,
                event.event_id,
                f"a message of another kind, {event.NAME}",
            )
            return
        if event.sender_id != self._sender:
            why = f"a record of sender {event.sender_id!r} under the key of {self._sender!r}"
            self._broken = Broken(received.partition, received.offset, event.event_id, why)
        else:
            self._next(event, received)

    def _signs(self) -> bool:
        """Whether forged records can be told from real ones here.

        Where there is any key, a sender without one is nobody's.
        """
        return bool(self._trust.writers)

    def _take_signed(self, received: Received) -> None:
        event_id, why = "", ""
        try:
            event = decode(received.value, received.headers)
        except PoisonError as error:
            why = f"a message that is not a record: {error}"
        else:
            event_id = event.event_id
            if not isinstance(event, AuditRecorded):
                why = f"a message of another kind, {event.NAME}"
            elif event.sender_id != self._sender:
                why = f"a record of sender {event.sender_id!r} under the key of {self._sender!r}"
            elif not self._trust.knows(self._sender):
                # an unsigned record from before the first key is an earlier Esper's; later ones
                # must be signed
                if event.signer or received.timestamp_us >= min(
                    self._trust.since_us.values(), default=0
                ):
                    why = f"a record of {self._sender!r}, which has no key here"
            elif unsigned := self._trust.fault(
                self._sender, event, received.value, received.timestamp_us
            ):
                why = f"record {event.chain} was not written by {self._sender}: {unsigned}"
            elif event.signer and event.chain <= self._link.chain:
                why = f"record {event.chain} a second time: a copy"
            if not why and isinstance(event, AuditRecorded):
                self._next(event, received)
        # anybody who may write to the topic chooses how many forgeries there are
        if why and len(self._forged) < _MOST_FORGED:
            self._forged.append(Broken(received.partition, received.offset, event_id, why))

    def _next(self, event: AuditRecorded, received: Received) -> None:
        if why := self._link.fault(event) or self._differs(event):
            self._broken = Broken(received.partition, received.offset, event.event_id, why)
        else:
            self._link = self._link.after(event)

    def _differs(self, record: AuditRecorded) -> str:
        # who holds the key could write a whole new chain that fits; only our own memory shows that
        if record.chain == self._remembered.chain and record.hash != self._remembered.hash:
            return (
                f"record {record.chain} is not the one that this machine wrote: the chain was "
                "rewritten"
            )
        return ""

    def chain(self) -> SenderChain:
        """What was found."""
        broken = self._broken
        if broken is None and self._link.chain < self._remembered.chain:
            why = (
                f"record {self._link.chain + 1} is missing: the chain ends there, and this "
                f"machine wrote {self._remembered.chain + 1} records"
            )
            broken = Broken(-1, -1, "", why)
        return SenderChain(
            self._sender, self._link.chain + 1, self._link.hash, broken, tuple(self._forged)
        )
