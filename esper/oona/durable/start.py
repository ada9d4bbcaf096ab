"""The start sequence: what has to be true before a run that was interrupted may go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.clock import Clock
from esper.errors import FencedError, UnavailableError
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.drain import batches
from esper.oona.durable.journal_reader import read, sequence_of
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.reconcile import compare


@dataclass(frozen=True, slots=True)
class StartReport:
    """How outbox and journal were brought together. Nothing is unsent any more.

    `next_sequence` is that of the next event. Frames that Kafka had already were `skipped`, the
    others `sent` or, because the journal went another way without them, `quarantined`. `elsewhere`
    counts events that another outbox than this one wrote. `notes` says all that a person should
    know, a sentence each.
    """

    run_id: str
    next_sequence: int
    skipped: int
    sent: int
    quarantined: tuple[Path, ...]
    elsewhere: int
    notes: tuple[str, ...]


def start(
    outbox: Outbox,
    bus: Bus,
    *,
    clock: Clock,
    trust: Trust | None = None,
    on_event: Callable[[Received], None] | None = None,
    patience: float = 10.0,
) -> StartReport:
    """Bring the outbox and the journal together; the outbox is open, so its lock is held.

    `on_event`, if given, hears every message under the run's key in order, from the first: for the
    fold. The broker has `patience` seconds to answer. Without `trust`, whatever stands under the
    run's key is believed.

    Raises:
        UnavailableError: no broker answers: a run is not resumed without one.
        FencedError: another writer of this run is alive.
        CorruptError: the journal is not the one that the outbox belongs to.
        StorageFullError: no room to quarantine a frame.
    """
    notes = (
        [f"{outbox.torn_bytes} bytes of a write that never ended were cut off the outbox."]
        if outbox.torn_bytes
        else []
    )
    with bus.journal_producer(run_id=outbox.run_id) as producer:
        try:
            # before any reading: it fences an older writer, and ends its open transaction, so what
            # is read stays true
            producer.begin(patience)
        except UnavailableError as error:
            raise UnavailableError(
                f"Run {outbox.run_id} cannot be resumed without a broker. {error}"
            ) from error
        comparison = compare(bus, outbox, clock=clock, trust=trust or Trust(), on_event=on_event)
        before = outbox.acknowledged()
        # the crash came after the commit and before its acknowledgement: sending again would double
        # them
        if comparison.committed:
            outbox.acknowledge(comparison.committed[-1].next_sequence, comparison.next_offset)
        reason = outbox.sealed or (
            "another writer's events stand at its sequences in the journal"
            if comparison.foreign
            else ""
        )
        quarantined = (
            tuple(outbox.quarantine(frame, reason) for frame in comparison.rest) if reason else ()
        )
        if quarantined:
            notes.append(
                f"{len(quarantined)} frame(s) were not sent but put into "
                f"{quarantined[0].parent}: {reason}."
            )
        if comparison.foreign:
            notes.append(
                f"{len(comparison.foreign)} event(s) of this run were written elsewhere; what "
                "that place had not sent is lost."
            )
            # on top of the other writer's events, because a journal cannot be taken back
            outbox.restart(
                sequence_of(comparison.foreign[-1]) + 1, comparison.foreign[-1].offset + 1
            )
        # sealed, but the other writer has written nothing: the run goes on where Kafka stands
        elif reason:
            outbox.restart(outbox.acknowledged().sequence, outbox.acknowledged().offset)
        sent = 0
        try:
            for batch in batches(outbox):
                # in this same producer epoch: a writer that began since the reading makes this
                # commit fail
                offset = producer.commit([event for frame in batch for event in frame.events])
                outbox.acknowledge(batch[-1].next_sequence, offset)
                sent += len(batch)
        except FencedError as error:
            raise FencedError(
                f"Another writer of run {outbox.run_id} is alive; stop it before you "
                "resume the run here."
            ) from error
    # what was just sent was not in the log when it was read, and the fold needs every event
    if on_event is not None and sent:
        for received in read(
            bus, outbox.run_id, clock=clock, start=max(before.offset, comparison.next_offset)
        ):
            on_event(received)
    return StartReport(
        outbox.run_id,
        outbox.next_sequence,
        len(comparison.committed),
        sent,
        quarantined,
        len(comparison.foreign),
        tuple(notes),
    )
