"""What operators say of runs, and measure of them, on `control.runs`: made, signed, sent and
read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any, Final

from esper.clock import Clock
from esper.errors import PoisonError, UnavailableError, UsageError, printable
from esper.events import Origin
from esper.events.codec import decode
from esper.events.envelope import SignedEvent, trace_id
from esper.events.records import RunAnnotated, RunDeleted
from esper.events.seals import OPERATOR, Signer, Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.journal_reader import batches_of_topics

TOPIC: Final = RunAnnotated.TOPIC
LONGEST_NAME: Final = 120
LONGEST_NOTE: Final = 2_000
MOST_TAGS: Final = 32
"""Tags of one change."""
_TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SEND_S: Final = 20.0


def tagged(
    run_id: str, added: Collection[str], removed: Collection[str], *, actor: str, clock: Clock
) -> RunAnnotated:
    """A run gets and loses tags.

    Raises:
        UsageError: there is none, there are too many, one is both, or one is no tag.
    """
    if not added and not removed:
        raise UsageError("Name a tag to add as +tag, or one to take away as -tag.")
    if len(added) + len(removed) > MOST_TAGS:
        raise UsageError(f"At most {MOST_TAGS} tags change at once: give fewer.")
    for tag in (*added, *removed):
        if not _TAG.fullmatch(tag):
            raise UsageError(
                f"{printable(tag)[:80]!r} is no tag: take letters, digits, dots, dashes and "
                "underscores, 64 at most, and begin with a letter or a digit."
            )
    if both := sorted(set(added) & set(removed)):
        raise UsageError(f"{both[0]} is to be added and taken away: decide for one.")
    return RunAnnotated(
        **_envelope(run_id, "tag", actor, clock),
        change="TAGGED",
        added=tuple(sorted(set(added))),
        removed=tuple(sorted(set(removed))),
        actor=actor,
    )


def noted(run_id: str, text: str, *, actor: str, clock: Clock) -> RunAnnotated:
    """A run gets a note in the place of the one before; an empty text takes that away.

    Raises:
        UsageError: the text is too long, or has control characters.
    """
    _require_text("A note", text, LONGEST_NOTE)
    return RunAnnotated(
        **_envelope(run_id, "note", actor, clock), change="NOTED", text=text, actor=actor
    )


def renamed(run_id: str, name: str, *, actor: str, clock: Clock) -> RunAnnotated:
    """A run is shown by another name; its id stays. An empty name takes it away.

    Raises as `noted` does.
    """
    _require_text("A name", name, LONGEST_NAME)
    return RunAnnotated(
        **_envelope(run_id, "rename", actor, clock), change="RENAMED", text=name, actor=actor
    )


def baseline(run_id: str, *, on: bool, actor: str, clock: Clock) -> RunAnnotated:
    """A run is what others of its recipe are compared with, or is no longer."""
    return RunAnnotated(
        **_envelope(run_id, "baseline", actor, clock), change="BASELINE", on=on, actor=actor
    )


def deleted(
    run_id: str, *, snapshots: int, files: int, file_bytes: int, actor: str, clock: Clock
) -> RunDeleted:
    """A run is deleted: the same event however often it is asked for."""
    origin = Origin(run_id, OPERATOR, trace_id("request", run_id, "delete"), clock)
    return RunDeleted(
        **origin.envelope("deleted"),
        snapshots=snapshots,
        files=files,
        file_bytes=file_bytes,
        actor=actor,
    )


def send(bus: Bus, signer: Signer, event: SignedEvent) -> None:
    """Sign an event, send it, and return once the broker has it.

    Raises:
        UnavailableError: the broker has not taken it within 20 s.
    """
    with bus.producer(sender_id=OPERATOR) as producer:
        producer.send_message(signer.seal(event))
        if producer.flush(_SEND_S):
            raise UnavailableError(
                "The broker has not taken it; it may still arrive. Look with `esper runs`, then "
                "try again."
            )


def read_notes(
    bus: Bus,
    trust: Callable[[], Trust],
    *,
    clock: Clock,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[SignedEvent]:
    """What is believed on `control.runs`, of each run in order; `say` has what is set aside.

    Raises:
        UnavailableError: no broker, or no progress for half a minute.
    """
    believed = trust()
    for batch in batches_of_topics(bus, [TOPIC], clock=clock):
        for received in batch:
            # what cannot be decoded its consumers put aside as a dead letter
            with suppress(PoisonError):
                event = decode(received.value, received.headers)
                if why := fault_of(event, received, believed):
                    say(
                        f"A message at {received.topic}/{received.partition}/{received.offset} is "
                        f"left out: {why}."
                    )
                elif isinstance(event, SignedEvent):
                    yield event


def require_living(bus: Bus, run_id: str, trust: Callable[[], Trust], *, clock: Clock) -> None:
    """Refuse to go on with a run that was deleted.

    Raises:
        UsageError: it was.
        UnavailableError: no broker answers.
    """
    for event in read_notes(bus, trust, clock=clock):
        if isinstance(event, RunDeleted) and event.run_id == run_id:
            raise UsageError(
                f"Run {run_id} was deleted, and its snapshots with it: begin another; its journal "
                "is still there for `esper replay fold`."
            )


def fault_of(event: Any, received: Received, trust: Trust) -> str:
    """Why a message of `control.runs` is not believed, in half a sentence; empty where it is."""
    if not isinstance(event, SignedEvent) or event.TOPIC != TOPIC:
        return "it is of another kind"
    return trust.fault(OPERATOR, event, received.value, received.timestamp_us)


def _require_text(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise UsageError(f"{what} has {most:,} characters at most, and this has {len(text):,}.")
    if printable(text) != text or not text.isprintable():
        raise UsageError(
            f"{what} is one line of text: take out line breaks and control characters."
        )


def _envelope(run_id: str, what: str, actor: str, clock: Clock) -> dict[str, Any]:
    origin = Origin(run_id, OPERATOR, trace_id("request", run_id, actor), clock)
    return origin.envelope(f"{what}/{clock.now_us()}/{actor}")
