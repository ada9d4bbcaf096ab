"""What a journal proves of the states of its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from esper.errors import CorruptError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken, EpochEnded, RunCompleted, SeedTransitioned
from esper.tolaria.record.addresses import Address


def digests(events: Sequence[JournalEvent]) -> Iterator[tuple[Address, str]]:
    """States whose parameters' digest the journal has: at the end of each epoch, in each snapshot,
    and at the end of the run.
    """
    for event in events:
        if isinstance(event, EpochEnded):
            yield Address(event.timeline, event.step, event.sequence), event.parameters_digest
        elif isinstance(event, CheckpointTaken):
            yield (
                Address(event.at_timeline, event.at_step, event.at_sequence),
                event.parameters_digest,
            )
        elif isinstance(event, RunCompleted):
            yield Address(event.timeline, event.step, event.sequence), event.digest


def known_digest(events: Sequence[JournalEvent], address: Address) -> str | None:
    """The digest of the parameters at `address`, or None where the journal has none.

    Between two steps, parameters come and go only with the stages of seeds.
    """
    for at, digest in digests(events):
        first, last = sorted((at.sequence, address.sequence))
        moved = any(isinstance(event, SeedTransitioned) for event in events[first:last])
        if (at.timeline, at.step) == (address.timeline, address.step) and not moved:
            return digest
    return None


def require_proven(events: Sequence[JournalEvent], address: Address, found: str) -> bool:
    """Whether the journal has the digest of this state's parameters.

    Raises:
        CorruptError: it has another than `found`.
    """
    recorded = known_digest(events, address)
    if recorded is not None and recorded != found:
        raise CorruptError(
            f"Re-executed, run {events[0].run_id} has other parameters at {address} "
            f"(digest {found[:12]}) than its journal has ({recorded[:12]})."
        )
    return recorded is not None
