"""Comparing an outbox with the journal: what of it is there already, and whether somebody else has
written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esper.clock import Clock
from esper.errors import CorruptError, PoisonError
from esper.events.codec import Message, body, decode
from esper.events.envelope import JournalEvent
from esper.events.seals import TRAINER, Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.frames import Frame, event_id_of
from esper.oona.durable.journal_reader import read
from esper.oona.durable.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """An outbox beside the journal.

    `committed` frames of the outbox are in the journal, `rest` are not. `foreign` are the events
    after what the outbox knows of that did not come from it: another writer's. `events` counts what
    was read after the acknowledged offset. Messages that no trainer signed are nobody's: who may
    write to the topic is no writer of the run.
    """

    committed: tuple[Frame, ...]
    rest: tuple[Frame, ...]
    foreign: tuple[Received, ...]
    events: int
    next_offset: int


def compare(
    bus: Bus,
    outbox: Outbox,
    *,
    clock: Clock,
    trust: Trust,
    on_event: Callable[[Received], None] | None = None,
) -> Reconciliation:
    """Read the run's journal from the acknowledged offset, or from its beginning if `on_event`
    wants every message, and compare.

    The answer holds only as long as no other writer begins, and is worth something only after our
    own `begin`: before it, a transaction of ours may still be decided.

    Raises:
        UnavailableError: the journal cannot be read.
        CorruptError: the partition is another one than the one that was acknowledged, or holds half
            a frame.
    """
    ack = outbox.acknowledged()
    # one event before the end that was acknowledged: it is the witness that this is the same log
    start = 0 if on_event is not None else max(0, ack.offset - 1)
    witness = ack.offset == 0
    later: list[Received] = []
    for received in read(bus, outbox.run_id, clock=clock, start=start):
        if on_event is not None:
            on_event(received)
        witness |= received.offset == ack.offset - 1
        if received.offset >= ack.offset:
            later.append(received)
    # offsets begin anew in a topic that was made again: the outbox would skip what is not there
    if not witness:
        raise CorruptError(
            f"The journal of run {outbox.run_id} does not have the event at offset "
            f"{ack.offset - 1} that Kafka had acknowledged: the topic was "
            "made again or another cluster is in use; restore it, or choose another --run-id."
        )
    return _match(outbox, list(outbox.unacknowledged()), later, trust)


def _match(
    outbox: Outbox, frames: Sequence[Frame], later: Sequence[Received], trust: Trust
) -> Reconciliation:
    ours = [event for frame in frames for event in frame.events]
    # in order and from the first on: a transaction is all or nothing, so ours form a prefix
    matched, last, seen = 0, outbox.acknowledged().offset, set[str]()
    foreign: list[Received] = []
    for received in later:
        event_id = event_id_of(received.headers)
        if not foreign and matched < len(ours) and _is(received, ours[matched]):
            matched, last = matched + 1, received.offset + 1
            seen.add(event_id)
        # a copy of one of our own events proves no other writer: anybody may append it
        elif event_id not in seen and _counts(received, trust, outbox):
            foreign.append(received)
    ends = [frame.next_sequence for frame in frames]
    reached = (frames[0].first_sequence if frames else 0) + matched
    complete = sum(end <= reached for end in ends)
    # a frame is one transaction, so half of one cannot be committed: this log is not what it was
    if matched and ends[complete - 1 : complete] != [reached]:
        raise CorruptError(
            f"The journal of run {outbox.run_id} ends within the frame of sequence "
            f"{frames[complete].first_sequence}."
        )
    return Reconciliation(
        tuple(frames[:complete]), tuple(frames[complete:]), tuple(foreign), len(later), last
    )


def _is(received: Received, event: Message) -> bool:
    """Whether a message is this event of ours.

    An id can be known before the event is written, so its content counts.
    """
    return event_id_of(received.headers) == event_id_of(event.headers) and body(
        received.value
    ) == body(event.value)


def _counts(received: Received, trust: Trust, outbox: Outbox) -> bool:
    """Whether a message that is not in the outbox was written by a trainer of this run, after what
    Kafka has acknowledged.
    """
    # without keys nothing tells a writer from a vandal; stopping is safer than writing on
    if not trust.knows(TRAINER, outbox.run_id):
        return True
    try:
        event = decode(received.value, received.headers)
    except PoisonError:
        return False
    if (
        not isinstance(event, JournalEvent)
        or event.run_id != outbox.run_id
        # an old event that somebody appended again: the writer that it came from is long past
        or event.sequence < outbox.acknowledged().sequence
    ):
        return False
    return not trust.fault(TRAINER, event, received.value, received.timestamp_us)
