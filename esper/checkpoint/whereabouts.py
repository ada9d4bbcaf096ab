"""Where the snapshots of a run are: hot, cold or gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from esper.checkpoint.chunks import chunks
from esper.checkpoint.manifest import chunks_in, manifest_at
from esper.checkpoint.retention import NamedSnapshot, Why
from esper.checkpoint.tensors import TensorStore
from esper.errors import CorruptError
from esper.events import Event
from esper.events.records import CheckpointTaken

Where = Literal["hot", "cold", "gone"]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """A snapshot as its event has it, where it lies (cold where any of it does, gone where any of
    it is missing), and what keeps it.
    """

    taken: CheckpointTaken
    where: Where
    why: Why


def whereabouts(
    events: Sequence[Event], held: Mapping[str, NamedSnapshot], tensors: TensorStore | None
) -> Iterator[Whereabouts]:
    """Each snapshot of a run, by its journal.

    Without `tensors`, whose key nobody has, all are gone. Nothing is read but manifests and
    listings.
    """
    there = (
        [
            {entry.key for entry in store.objects(chunks(tensors.family))}
            for store in tensors.stores.both
        ]
        if tensors
        else []
    )
    for event in events:
        if isinstance(event, CheckpointTaken):
            why = held[event.address].why if event.address in held else ""
            yield Whereabouts(event, _where(event, tensors, there), why)


def _where(event: CheckpointTaken, tensors: TensorStore | None, there: Sequence[set[str]]) -> Where:
    if tensors is None:
        return "gone"
    try:
        manifest = manifest_at(tensors.store, tensors.family, event.address, event.sha256)
        keys = {chunk.key(tensors.family) for chunk in chunks_in(manifest)}
    except CorruptError:
        return "gone"
    if keys <= there[0]:
        return "hot"
    return "cold" if keys <= set().union(*there) else "gone"
