"""The one way in which consumers take messages.

A consumer hands each message that it received to an `Intake`, with what to do with the event in it.
Whatever goes wrong there, the message is refused: it is counted, logged, and put aside as a dead
letter, and the next message is taken. So one message never stops a consumer, whatever it holds and
whatever fault of ours it finds. Two kinds of failure are no message's fault and go to the caller:
errors in `RETRIABLE`, which say that a broker, a disk or a store is away, and what is no
`Exception` (an interrupt, an exit).

`apply` must leave its state as it was when it raises: compute first, then assign.
tests/attacks/test_poison_consumers.py holds that every consumer in the tree takes its messages
through here.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Final, TypeVar

from esper.errors import (
    BackpressureError,
    DeniedError,
    FencedError,
    PoisonError,
    StorageFullError,
    UnavailableError,
)
from esper.events.codec import UUID, decode
from esper.events.envelope import Event, JournalEvent, SignedEvent
from esper.events.records import AuditRecorded, RunAnnotated
from esper.events.seals import OPERATOR, TAMIYO, TRAINER, Trust
from esper.oona.bus.port import Received
from esper.oona.inbound.dead_letters import TOPIC, DeadLetters

RETRIABLE: Final = (UnavailableError, StorageFullError, BackpressureError, FencedError, DeniedError)
"""Errors that say nothing of the message: something that is needed is away, or a right is.

The caller tries again, or ends.
"""
OTHERS: Final = "(others)"
_KINDS: Final = 200
_LONGEST_TRACE: Final = 20_000

_log = logging.getLogger(__name__)
T = TypeVar("T")


def opened(received: Received) -> Event:
    """The event in a message.

    Raises:
        PoisonError: the message is empty, cannot be decoded, does not belong on its topic, has
            another key than its event says, or its event's id is no UUID: whatever answers it names
            that id, and the history would take no such answer.
    """
    if not received.value:
        raise PoisonError(
            f"A message of {received.topic} is empty; no topic of events is compacted, so "
            "an empty message says nothing."
        )
    event = decode(received.value, received.headers)
    if received.topic != event.TOPIC:
        raise PoisonError(f"{event.NAME} does not belong on {received.topic} but on {event.TOPIC}.")
    if not UUID.fullmatch(event.event_id):
        raise PoisonError(
            f"A {event.NAME} on {received.topic} has the event_id {event.event_id[:80]!r}, "
            "which is no UUID."
        )
    # surrogatepass: a key with half a character has to be compared, not to raise here
    if received.key != str(getattr(event, event.KEY)).encode(errors="surrogatepass"):
        raise PoisonError(
            f"A {event.NAME} on {received.topic} has the key "
            f"{(received.key or b'')[:80]!r}, and its {event.KEY} is "
            f"{str(getattr(event, event.KEY))[:80]!r}; they must be the same."
        )
    return event


def require_author(event: Event, received: Received, trust: Trust) -> None:
    """That a signed event is by whom it should be: of a journal the run's trainer, of decisions
    Tamiyo, of the audit trail its sender, of notes on runs the command line.

    Raises:
        PoisonError: it is somebody else's.
    """
    if not isinstance(event, SignedEvent):
        return
    writer = (
        TRAINER
        if isinstance(event, JournalEvent)
        else event.sender_id
        if isinstance(event, AuditRecorded)
        else OPERATOR
        if event.TOPIC == RunAnnotated.TOPIC
        else TAMIYO
    )
    if why := trust.fault(writer, event, received.value, received.timestamp_us):
        raise PoisonError(f"{event.NAME} of run {event.run_id} is not by its {writer}: {why}.")


@dataclass(slots=True)
class Refusals:
    """What a part has refused since it started, by topic and class of error.

    Safe to use from several threads.
    """

    part: str
    last: str = ""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, received: Received, error: Exception) -> None:
        """Count a refusal.

        The log has a line for the first, second, fourth and so on of a kind, and the traceback of a
        fault of ours.
        """
        kind, self.last = (received.topic, type(error).__name__), _whole(str(error)[:500])
        with self._lock:
            # topics and classes are few, but a package's errors may have any name
            if kind not in self.counts and len(self.counts) >= _KINDS:
                kind = (OTHERS, OTHERS)
            self.counts[kind] += 1
            count = self.counts[kind]
        # a power of two: the log grows with the logarithm of a flood
        if count & (count - 1):
            return
        place = f"{received.topic}/{received.partition}/{received.offset}"
        fault = not isinstance(error, PoisonError) and count == 1
        trace = "\n" + _whole("".join(format_exception(error))[-_LONGEST_TRACE:]) if fault else ""
        _log.warning(
            "%s refuses the message at %s (number %d of this kind): %s: %s%s",
            self.part,
            place,
            count,
            kind[1],
            self.last,
            trace,
        )

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.copy().values())


def _whole(text: str) -> str:
    """A text that any log, answer or report can hold: what a message brought may have halves of
    characters.
    """
    return text.encode(errors="backslashreplace").decode()


def letters_for(received: Received) -> bool:
    """Whether a refused message becomes a dead letter.

    Those on `dead.letters` are put aside already: letters about letters would never end.
    """
    return received.topic != TOPIC


@dataclass(frozen=True, slots=True)
class Intake:
    """The way in of a consumer that runs in a thread."""

    letters: DeadLetters
    refusals: Refusals
    trust: Callable[[], Trust] = Trust
    """Whose signatures are believed; with nobody's key, whatever is said is."""

    @classmethod
    def of(cls, letters: DeadLetters, trust: Callable[[], Trust] = Trust) -> Intake:
        """The way in of a consumer that is named as its letters are."""
        return cls(letters, Refusals(letters.consumer), trust)

    def opened(self, received: Received) -> Event:
        """The event in a message, by whom it should be.

        Raises PoisonError as `opened` and `require_author` do.
        """
        event = opened(received)
        require_author(event, received, self.trust())
        return event

    def take(self, received: Received, apply: Callable[[Event], T]) -> T | None:
        """What `apply` makes of the event in a message; None where the message is refused.

        Raises what is in `RETRIABLE`.
        """
        return self.handle(received, lambda: apply(self.opened(received)))

    def handle(self, received: Received, act: Callable[[], T]) -> T | None:
        """The same for whatever is done because of a message."""
        try:
            return act()
        except RETRIABLE:
            raise
        except Exception as error:  # noqa: BLE001  # poison is any exception: see the module's docstring
            self.refuse(received, error)
            return None

    def refuse(self, received: Received, error: Exception) -> None:
        """Put a message aside for a reason that the caller knows."""
        self.refusals.note(received, error)
        if letters_for(received):
            self.letters.put(received, error)
