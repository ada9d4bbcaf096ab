"""Which messages under a run's key are its journal: those that its trainer signed, each after the
one before. All others are set aside, with why.

Whoever may write to the topic can add messages to it, but none that counts, and cannot take any
away: what a trainer wrote and is missing, changed or out of its place is named as damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, repeat
from typing import Final

from esper.errors import CorruptError, PoisonError, UsageError
from esper.events.codec import decode
from esper.events.envelope import JournalEvent
from esper.events.records import RunCompleted
from esper.events.seals import TRAINER, Trust, digest, fault, fingerprint, is_sealed
from esper.oona.bus.port import Received

JOURNAL: Final = RunCompleted.TOPIC
BATCH: Final = 512
"""Messages that are proven by one signature: the last of them.

512 digests take as long as 5 signatures.
"""
_REMEMBERED: Final = 1_000
_OWN: Final = "of this installation"
_STRANGE: Final = "which this installation does not know"


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that is not by whom its topic and key say; `why` in half a sentence."""

    received: Received
    why: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.received.topic}/{self.received.partition}/{self.received.offset}"

    def sentence(self) -> str:
        """What was found, for people."""
        what = (
            "part of the journal of"
            if self.received.topic == JOURNAL
            else "a decision of Tamiyo for"
        )
        return (
            f"A message at {self.place} is not {what} run {_key(self.received)}: {self.why}. It "
            "is set aside."
        )


class Judge:
    """Follows the messages under one run's key.

    Attributes:
        head: digest of the journal's last event; empty before the first.
        events: how many events the journal has so far.
        signed: whether the journal is signed; None before its first event. Of a run that an earlier
            Esper began, from where it was resumed.
        signers: the public keys that signed it, in order.
        aside: the first 1,000 messages that were set aside; `set_aside` counts all.
        faults: what is damaged, where `tolerant` goes on with the next event.
        own: keys that `seal_sentence` calls this installation's.
    """

    def __init__(
        self,
        run_id: str,
        trust: Trust,
        *,
        strict: bool = False,
        tolerant: bool = False,
        asides: Callable[[Aside], None] = lambda _: None,
    ) -> None:
        """Begin before the first message.

        `strict`: nothing is set aside, since nobody but a forger adds to a file; the first such
        message is an error.

        `asides` hears each message that is set aside, also those that are only counted.
        """
        self.run_id = run_id
        self.trust = trust
        self.events = 0
        self.signed: bool | None = None
        self.signers: list[str] = []
        self.aside: list[Aside] = []
        self.set_aside = 0
        self.faults: list[str] = []
        self.own = trust.keys(TRAINER)
        self._strict = strict
        self._tolerant = tolerant
        self._asides = asides
        self._next = 0
        self._head = ""
        self._last: tuple[str, bytes] | None = (
            None  # of an unsigned event, whose digest only a signed one asks for
        )

    @property
    def head(self) -> str:
        """The digest that the next event has to name."""
        if self._last is not None:
            # computed only when asked for: an unsigned journal never needs its digests
            self._head, self._last = digest(*self._last), None
        return self._head

    @property
    def keys(self) -> frozenset[str]:
        """The keys that the next event may be signed with.

        Where none is known, the first that signs is taken at its word.
        """
        # without a known key one signer is still held to: nobody else can go on with its journal
        return self.trust.keys(TRAINER, self.run_id) or frozenset(self.signers)

    def take(self, batch: Sequence[Received]) -> list[tuple[JournalEvent, Received]]:
        """The events among the next messages, in order.

        Raises:
            CorruptError: an event is missing, changed or out of its place; the sentence names it.
            UsageError: strict, and the messages are another run's.
        """
        taken: list[tuple[JournalEvent, Received]] = []
        at = 0
        while at < len(batch):
            if self.signed is False:
                at += self._unsigned(batch, at, taken)
            proven, looked = self._proven(batch, at)
            taken += proven
            # at least one, or a message that proves nothing would be looked at forever
            alone = batch[at + len(proven) : max(looked, at + len(proven) + 1)]
            for received in alone:
                self._one(received, taken)
            at += len(proven) + len(alone)
        return taken

    def _unsigned(
        self, batch: Sequence[Received], first: int, taken: list[tuple[JournalEvent, Received]]
    ) -> int:
        """Add to `taken` what stands from `first` on and plainly belongs to a journal without
        signatures; gives how many messages that were.
        """
        run_id, until, before = (
            self.run_id,
            self.trust.unsigned_until(TRAINER, self.run_id),
            len(taken),
        )
        try:
            for received in islice(batch, first, None):
                event = decode(received.value, received.headers)
                if (
                    not isinstance(event, JournalEvent)
                    or event.run_id != run_id
                    or event.signer
                    or event.signature
                    # by the broker's time: the event's own time is the sender's choice
                    or received.timestamp_us >= until
                ):
                    break
                taken.append((event, received))
        except PoisonError:
            pass
        added = len(taken) - before
        if added:
            last, message = taken[-1]
            self._last, self._next, self.events = (
                (last.NAME, message.value),
                last.sequence + 1,
                self.events + added,
            )
        return added

    def _proven(
        self, batch: Sequence[Received], first: int
    ) -> tuple[list[tuple[JournalEvent, Received]], int]:
        """As many messages from `first` on as follow each other, proven by the signature of the
        last; and the place of the one that does not follow.

        Where that signature is none, nothing is proven, and those before that place have to be
        judged one by one.
        """
        taken: list[tuple[JournalEvent, Received]] = []
        if not self.signed:
            return taken, first
        head, run_id, keys = self._head, self.run_id, self.keys
        at = first
        try:
            for at in range(first, len(batch)):
                received = batch[at]
                value = received.value
                event = decode(value, received.headers)
                if (
                    not isinstance(event, JournalEvent)
                    # digests are cheap beside signatures, so the chain is walked first and one
                    # signature proves it
                    or event.previous != head
                    or event.signer not in keys
                    or event.run_id != run_id
                ):
                    break
                head = digest(event.NAME, value)
                taken.append((event, received))
            else:
                at = len(batch)
        except PoisonError:
            pass
        if not taken:
            return taken, at
        last, message = taken[-1]
        # one bad signature says nothing of those before it: each is judged by itself
        if not is_sealed(last, message.value):
            return [], at
        self._head, self._next, self.events = head, last.sequence + 1, self.events + len(taken)
        # with one key all of them have the same signer, and the loop over the batch is saved
        if self.signers[-1] != last.signer or len(keys) > 1:
            self._note_signers(event for event, _ in taken)
        return taken, at

    def _one(self, received: Received, taken: list[tuple[JournalEvent, Received]]) -> None:
        """Judge one message by itself."""
        try:
            event = decode(received.value, received.headers)
        except PoisonError as error:
            self._refuse(
                received,
                f"it cannot be decoded ({error})",
                undecodable=f"cannot be decoded: {error}",
            )
            return
        if not isinstance(event, JournalEvent):
            self._refuse(received, f"{event.NAME} belongs to no journal", other=event.NAME)
            return
        if event.run_id != self.run_id:
            if self._strict:
                raise UsageError(
                    f"This is the journal of run {event.run_id}, not of run {self.run_id}."
                )
            self._set_aside(received, f"it belongs to run {event.run_id}")
            return
        if not event.signer and not event.signature:
            if self.signed or not self._believed(received):
                self._foreign(event, received, "it is not signed")
                return
            self.signed, self._last = False, (event.NAME, received.value)
        elif why := fault(event, received.value, self.keys or frozenset((event.signer,))):
            self._foreign(event, received, why)
            return
        elif not self._follows(event, received):
            return
        else:
            self.signed, self._head, self._last = True, digest(event.NAME, received.value), None
            self._note_signers((event,))
        self._next, self.events = event.sequence + 1, self.events + 1
        taken.append((event, received))

    def _follows(self, event: JournalEvent, received: Received) -> bool:
        """Whether an event that is the trainer's stands in its place."""
        if event.previous == self.head:
            return True
        where = f"The journal of run {self.run_id}"
        again = (
            f"has event {event.sequence} ({event.NAME}, {event.event_id}) again or too late, "
            f"where event {self._next} should come"
        )
        # anybody may append a copy to the topic, so it cannot be damage; only a forger adds to a
        # file
        if event.sequence < self._next and not self._strict:
            self._set_aside(received, f"it is a copy: the journal {again}")
            return False
        if event.sequence < self._next:
            sentence = f"{where} {again}."
        elif event.sequence == self._next:
            sentence = (
                f"{where} had another event {self._next - 1} than it has now: event "
                f"{event.sequence} ({event.NAME}, {event.event_id}) does "
                "not follow it; it was changed or replaced."
            )
        else:
            sentence = (
                f"{where} lacks event {self._next}: {event.NAME} with sequence "
                f"{event.sequence} ({event.event_id}) comes in its place."
            )
        # helps to tell a lost key from a lost event: the missing one may have been set aside
        if claims := [aside for aside in self.aside if _sequence(aside.received) == self._next]:
            sentence += (
                f" The message at {claims[0].place}, which claims to be event {self._next}, "
                f"was set aside: {claims[0].why}."
            )
        if not self._tolerant:
            raise CorruptError(sentence)
        self.faults.append(sentence)
        return True

    def _believed(self, received: Received) -> bool:
        return self.trust.unsigned(TRAINER, self.run_id, received.timestamp_us)

    def _refuse(
        self, received: Received, why: str, *, undecodable: str = "", other: str = ""
    ) -> None:
        """Something that is no journal event at all: in a journal without signatures nobody can
        tell whether it was one.
        """
        if self._strict or (not self.signed and self._believed(received) and not self._tolerant):
            if other:
                raise CorruptError(
                    f"Where event {self._next} of run {self.run_id} should be, there is a "
                    f"{other}, which belongs to no journal."
                )
            raise CorruptError(f"Event {self._next} of run {self.run_id} {undecodable}")
        self._set_aside(received, why)

    def _foreign(self, event: JournalEvent, received: Received, why: str) -> None:
        if self._strict:
            raise CorruptError(
                f"Event {event.sequence} ({event.NAME}, {event.event_id}) of run "
                f"{self.run_id} is not as its trainer wrote it: {why}."
            )
        self._set_aside(
            received, f"{why} ({event.NAME}, which claims to be event {event.sequence})"
        )

    def _set_aside(self, received: Received, why: str) -> None:
        self.set_aside += 1
        aside = Aside(received, why)
        # a flood of forgeries must not fill memory; all are counted, and handed to `asides`
        if len(self.aside) < _REMEMBERED:
            self.aside.append(aside)
        self._asides(aside)

    def _note_signers(self, events: Iterable[JournalEvent]) -> None:
        for event in events:
            if event.signer not in self.signers:
                self.signers.append(event.signer)

    def require_events(self) -> None:
        """That the journal has an event.

        Raises:
            UsageError: everything under the run's key was set aside.
        """
        if not self.events and self.aside:
            raise UsageError(
                f"Run {self.run_id} has no event that this installation believes: "
                f"{self.set_aside} message(s) were set aside, the first at "
                f"{self.aside[0].place} because {self.aside[0].why}. If another "
                "installation trained it, put the trainer.pub.pem of that one into "
                "keys/signing as trainer.NAME.pub.pem."
            )

    def warnings(self) -> list[str]:
        """What people should know of the messages that were set aside."""
        if not self.aside:
            return []
        more = f" So are {self.set_aside - 1} more." if self.set_aside > 1 else ""
        return [
            (
                f"{self.aside[0].sentence()}{more} The journal is complete without it; find "
                "out who may write to its topic."
            )
        ]

    def seal_sentence(self) -> str:
        """Who signed it, for people."""
        if not self.signed:
            return "It is not signed: an earlier Esper wrote it, or somebody else."
        keys = [
            (f"key {fingerprint(key)}, {_OWN if key in self.own else _STRANGE}")
            for key in self.signers
        ]
        return f"Every event is signed, by {' and '.join(keys)}."


def judged(messages: Iterable[Received], judge: Judge) -> Iterator[tuple[JournalEvent, Received]]:
    """The events among messages, as they are read. Raises as `Judge.take` does."""
    source = iter(messages)
    return chain.from_iterable(map(judge.take, iter(lambda: list(islice(source, BATCH)), [])))


class Journals:
    """Follows the journals of all runs.

    `asides` hears each message that is set aside; `faults` has by run what is damaged, and what
    follows counts on.
    """

    def __init__(
        self, trust: Callable[[], Trust], asides: Callable[[Aside], None] = lambda _: None
    ) -> None:
        self.faults: dict[str, str] = {}
        self._trust = trust
        self._asides = asides
        self._judges: dict[str, Judge] = {}

    def take(self, batch: Iterable[Received]) -> Iterator[tuple[JournalEvent, Received]]:
        """The events among messages of the journals' topic, of each run in order."""
        by_run: dict[str, list[Received]] = {}
        for received in batch:
            by_run.setdefault(_key(received), []).append(received)
        trust = self._trust()
        for run_id, messages in by_run.items():
            judge = self._judges.setdefault(
                run_id, Judge(run_id, trust, tolerant=True, asides=self._asides)
            )
            # keys come and go while Nissa or the history runs, and a judge lives as long as its run
            judge.trust = trust
            yield from judge.take(messages)
            if judge.faults:
                self.faults.setdefault(run_id, judge.faults[0])
            if (
                not judge.events
            ):  # nobody's run: its key costs no memory, but what was set aside is told once
                del self._judges[run_id]


def as_received(values: Iterable[bytes], run_id: str, *, source: str) -> Iterator[Received]:
    """Messages that come from elsewhere than Kafka; `source` names it."""
    key = run_id.encode()
    return map(
        Received._make,
        zip(
            repeat(source),
            repeat(0),
            count(),
            repeat(key),
            values,
            repeat(()),
            repeat(0),
            strict=False,
        ),
    )


def _key(received: Received) -> str:
    return (received.key or b"").decode(errors="replace")


def _sequence(received: Received) -> int:
    try:
        return int(getattr(decode(received.value), "sequence", -1))
    except PoisonError:
        return -1
