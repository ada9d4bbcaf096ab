"""The catalogue: what is published, as the fold of `compilation.kernels`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from esper.events import Event
from esper.events.geometry import fits
from esper.events.records import KernelPublished


@dataclass(frozen=True)
class Catalogue:
    """Published kernels by id. A kernel published again replaces its earlier entry."""

    kernels: Mapping[str, KernelPublished] = field(default_factory=lambda: MappingProxyType({}))

    def evolve(self, events: Iterable[Event]) -> Catalogue:
        """The catalogue after these events; others than KernelPublished change nothing."""
        published = {
            event.kernel_id: event for event in events if isinstance(event, KernelPublished)
        }
        # taken out and added at the end: `of_blueprint` reads the order as age
        kept = {
            kernel_id: entry
            for kernel_id, entry in self.kernels.items()
            if kernel_id not in published
        }
        return Catalogue(MappingProxyType(kept | published)) if published else self

    def __iter__(self) -> Iterator[KernelPublished]:
        return iter(self.kernels.values())

    def of_blueprint(self, blueprint_id: str) -> tuple[KernelPublished, ...]:
        """Kernels built from a blueprint, the latest first."""
        return tuple(entry for entry in reversed(tuple(self)) if entry.blueprint_id == blueprint_id)


def compatible(
    entries: Iterable[KernelPublished], *, in_features: int, chunk_width: int, geometry: str = ""
) -> tuple[KernelPublished, ...]:
    """Those that fit a chunk of a layer of that geometry.

    They write the chunk's width, read what their tap gives (the layer's `in_features`, or the
    chunk), and have its positions.
    """
    return tuple(
        entry
        for entry in entries
        if entry.out_features == chunk_width
        and entry.in_features == (in_features if entry.tap == "LAYER_INPUT" else chunk_width)
        and fits(entry.geometry, entry.tap, geometry)
    )


def rank(
    entries: Iterable[KernelPublished], scores: Mapping[str, float]
) -> tuple[KernelPublished, ...]:
    """Best score first, by kernel id; kernels without one count as 0.

    Equals in the order of cost, then of id.
    """
    return tuple(
        sorted(
            entries,
            key=lambda entry: (-scores.get(entry.kernel_id, 0.0), entry.flops, entry.kernel_id),
        )
    )
