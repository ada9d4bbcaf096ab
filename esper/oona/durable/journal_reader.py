"""Reading a run's journal out of the partition that it shares with other runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from esper.clock import Clock
from esper.errors import CorruptError, PoisonError, UnavailableError, UsageError
from esper.events.codec import decode
from esper.events.envelope import Event, JournalEvent
from esper.events.records import RunCompleted, RunFailed
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.authentic import JOURNAL, Journals, Judge, judged

__all__ = [
    "JOURNAL",
    "JournalSummary",
    "batches_of_topics",
    "journal_exists",
    "read",
    "read_journals",
    "read_key",
    "read_topics",
    "require_known",
    "require_new",
    "sequence_of",
]

_BATCH: Final = 5_000
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """What is known of a journal without folding it.

    `ended` is RunCompleted or RunFailed, or empty while the run has not ended.
    """

    run_id: str
    events: int
    next_sequence: int
    ended: str


def read(
    bus: Bus, run_id: str, *, clock: Clock, start: int = 0, patience: float = 30.0
) -> Iterator[Received]:
    """Every committed message under the run's key, whoever wrote it, from offset `start` of its
    partition on, up to what is in the log when this is called.

    An open transaction of another run may hide what our own writer has committed behind it: this
    waits until every transaction that had begun is decided (a dead writer's takes up to 6 s), so
    that what it does not give is not there.

    Raises:
        UnavailableError: no broker, or no progress for `patience` seconds.
        CorruptError: the partition ends before `start`, so it is another one than before.
    """
    yield from read_key(
        bus,
        JOURNAL,
        run_id,
        what=f"The journal of run {run_id}",
        clock=clock,
        start=start,
        patience=patience,
    )


def read_key(
    bus: Bus,
    topic: str,
    key: str,
    *,
    what: str,
    clock: Clock,
    start: int = 0,
    patience: float = 30.0,
) -> Iterator[Received]:
    """The same for every committed message with a key on any topic; `what` names it in
    sentences.
    """
    key_bytes = key.encode()
    pair = (topic, bus.partition_of(topic, key_bytes))
    with bus.reader([topic], start={pair: start}, partitions=[pair[1]]) as reader:
        # not the last stable offset: behind a neighbour's open transaction our own commits look
        # absent
        end = reader.log_end()[pair]
        if end < start:
            raise CorruptError(
                f"{what} reached offset {start} of {topic}, and that topic now ends at "
                f"{end}: it was deleted or made "
                "again; restore it, or choose another --run-id."
            )
        at, deadline = start, clock.monotonic() + patience
        while at < end:
            for received in reader.poll(_BATCH, _POLL_S):
                if received.key == key_bytes:
                    yield received
            # the position and not the messages: markers, aborted frames and other runs' events are
            # progress too
            if reader.position()[pair] > at:
                at, deadline = reader.position()[pair], clock.monotonic() + patience
            elif clock.monotonic() > deadline:
                stable = reader.stable_end()[pair]
                why = (
                    f"a transaction is open in {topic}, partition {pair[1]}, since offset "
                    f"{stable}: its writer is at work, or Kafka has "
                    "decided it and left it open; `esper topics apply` ends it then"
                    if at >= stable
                    else "is the broker up?"
                )
                raise UnavailableError(
                    f"{what} could not be read to its end within {patience:.0f} s; {why}"
                )


def read_journals(
    bus: Bus, journals: Journals, *, clock: Clock, patience: float = 30.0
) -> Iterator[JournalEvent]:
    """The journals of all runs as they are committed now, of each run in order, without what others
    have put among them.

    Raises:
        UnavailableError: no broker, or no progress for `patience` seconds.
    """
    for batch in batches_of_topics(bus, [JOURNAL], clock=clock, patience=patience):
        for event, _ in journals.take(batch):
            yield event


def read_topics(
    bus: Bus, topics: Sequence[str], *, clock: Clock, patience: float = 30.0
) -> Iterator[Event]:
    """Every event of these topics that is committed now.

    What cannot be decoded is left out: its consumers put it aside as a dead letter.

    Raises:
        UnavailableError: no broker, or no progress for `patience` seconds.
    """
    for batch in batches_of_topics(bus, topics, clock=clock, patience=patience):
        for received in batch:
            with suppress(PoisonError):
                yield decode(received.value, received.headers)


def batches_of_topics(
    bus: Bus, topics: Sequence[str], *, clock: Clock, patience: float = 30.0
) -> Iterator[list[Received]]:
    """Every message of these topics that is committed now, as they come.

    Raises:
        UnavailableError: no broker, or no progress for `patience` seconds.
    """
    with bus.reader(topics, start="beginning") as reader:
        # a reader of all runs does not wait for open transactions: they belong to runs that go on
        end = reader.stable_end()
        deadline = clock.monotonic() + patience
        while any(reader.position()[pair] < offset for pair, offset in end.items()):
            batch = reader.poll(_BATCH, _POLL_S)
            yield batch
            if batch:
                deadline = clock.monotonic() + patience
            elif clock.monotonic() > deadline:
                raise UnavailableError(
                    f"{', '.join(topics)} could not be read to their ends within "
                    f"{patience:.0f} s; is the broker up?"
                )


def journal_exists(bus: Bus, run_id: str, *, clock: Clock, trust: Trust) -> JournalSummary | None:
    """The journal of `run_id`, or None where there is none that is believed.

    Reads the whole partition. Raises as `read` does.
    """
    judge, last = Judge(run_id, trust, tolerant=True), None
    for event, _ in judged(read(bus, run_id, clock=clock), judge):
        last = event
    if last is None:
        return None
    return JournalSummary(
        run_id,
        judge.events,
        last.sequence + 1,
        last.NAME if isinstance(last, RunCompleted | RunFailed) else "",
    )


def require_new(bus: Bus, run_id: str, *, clock: Clock, trust: Trust) -> None:
    """Refuse a new run whose id is taken; messages that nobody believes do not take it.

    Raises:
        UsageError: the run has a journal.
        UnavailableError: no broker answers.
    """
    if (summary := journal_exists(bus, run_id, clock=clock, trust=trust)) is not None:
        state = {"RunCompleted": "ended in order", "RunFailed": "ended by a failure"}.get(
            summary.ended, "not ended"
        )
        raise UsageError(
            f"Run {run_id} already has a journal ({summary.events} events, {state}); choose "
            "another --run-id or resume it."
        )


def require_known(bus: Bus, run_id: str, *, clock: Clock, trust: Trust) -> None:
    """Refuse to resume a run that nobody has begun.

    Raises:
        UsageError: the run has no journal, or none that is believed; the sentence says whose key is
            lacking.
        UnavailableError: no broker answers.
    """
    judge = Judge(run_id, trust, tolerant=True)
    if not list(judged(read(bus, run_id, clock=clock), judge)):
        judge.require_events()
        raise UsageError(
            f"Run {run_id} has no journal on this Kafka, so there is nothing to resume; "
            "start it without --resume."
        )


def sequence_of(received: Received) -> int:
    """The sequence of a journal event.

    Raises:
        CorruptError: the message is none.
        PoisonError: it cannot be decoded.
    """
    event = decode(received.value, received.headers)
    if not isinstance(event, JournalEvent):
        raise CorruptError(
            f"{JOURNAL}, partition {received.partition}, offset {received.offset} holds "
            f"{event.NAME}, which is not a journal event."
        )
    return event.sequence
