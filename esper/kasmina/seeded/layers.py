"""Seeded layers: a subclass of the host's class that takes its place, so a dormant one costs one
branch and changes no bit.

A layer's output channels are split into chunks, one a seed. The host transform runs once; each live
seed then replaces or adds to its chunk. Shape legend: B batch (and any leading dimensions), I input
channels, O output channels, C chunk width, S positions of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.kasmina.seeded.faults import Notes, Place
from esper.kasmina.seeded.host_kind import HostKind, Seeded
from esper.kasmina.seeded.hosts import channels, kind_of
from esper.kasmina.seeded.side_streams import side_by_side
from esper.kasmina.seeded.slots import Slot
from esper.kasmina.seeded.statistics import LayerStatistics


@dataclass(slots=True)
class Switches:
    """Flags that all seeded layers of a model share, so that one assignment reaches every layer.

    `shadow` is the (layer, seed) whose kernel stands in for its chunk in this pass; `without` the
    one that is left out; those in `fallback` give the host's chunk. `notes` says what kernels did
    wrong.
    """

    sampling: bool = False
    shadow: Place | None = None
    without: Place | None = None
    fallback: frozenset[Place] = frozenset()
    notes: Notes = field(default_factory=Notes)

    @contextmanager
    def live_pass(self, *, watching: bool, sampling: bool) -> Iterator[None]:
        """Within: outputs of live kernels are checked if `watching`, and statistics of seeds taken
        if `sampling`; neither after it, whatever the pass raised.
        """
        self.notes.watching, self.sampling = watching, sampling
        try:
            yield
        finally:
            self.notes.watching = self.sampling = False

    @contextmanager
    def set_aside(self, places: frozenset[Place]) -> Iterator[None]:
        """Within: the seeds at `places` give the host's chunk, and what kernels do wrong is noted
        anew; after it, those aside are the ones from before.
        """
        before, self.fallback = self.fallback, places
        self.notes.clear(watching=False)
        try:
            yield
        finally:
            self.fallback = before


def chunk_sizes(features: int, seeds: int) -> tuple[int, ...]:
    """Widths of the chunks of `features` channels over `seeds` seeds: as even as can be, the wider
    ones first.

    Raises:
        UsageError: no seeds, or more than channels.
    """
    if not 1 <= seeds <= features:
        raise UsageError(
            f"A layer with {features} outputs takes 1 to {features} seeds, not {seeds}; "
            "set kasmina.seeds accordingly."
        )
    width, rest = divmod(features, seeds)
    return tuple(width + (index < rest) for index in range(seeds))


@dataclass(slots=True)
class Seeds:
    """The seeds of one layer. `busy` is false while every seed is dormant: the fast path."""

    name: str
    kind: HostKind
    chunks: tuple[int, ...]
    switches: Switches
    slots: list[Slot | None] = field(default_factory=list)
    statistics: LayerStatistics | None = None
    busy: bool = False
    geometry: str | None = (
        None  # as esper.events.geometry writes it; None before a probe has seen it
    )

    def __post_init__(self) -> None:
        """Begin with empty slots."""
        self.slots = [None] * len(self.chunks)

    @property
    def dim(self) -> int:
        """Dimension of the channels."""
        return self.kind.channel_dim

    def starts(self) -> tuple[int, ...]:
        """First channel of each chunk."""
        return tuple(sum(self.chunks[:index]) for index in range(len(self.chunks)))

    def refresh(self) -> None:
        """Find out whether any slot holds a kernel."""
        self.busy = any(slot is not None for slot in self.slots)

    def mixed(self, inputs: Tensor, host: Tensor) -> Tensor:
        """Output [B, O, S] of the layer for inputs [B, I, S]: the host's, with the chunks of live
        and shadowed seeds blended in.
        """
        running = [
            (index, slot)
            for index, slot in enumerate(self.slots)
            if slot is not None and self._runs(index, slot)
        ]
        if not running:
            return host
        # pieces and cat: autograd keeps the host's output, so writing into it would fail in
        # backward
        pieces = list(host.split(self.chunks, dim=self.dim))
        calls = [
            partial(self._piece, (self.name, index), slot, inputs, pieces[index])
            for index, slot in running
        ]
        for (index, _), piece in zip(running, side_by_side(calls, (inputs, host)), strict=True):
            pieces[index] = piece
        output = torch.cat(pieces, dim=self.dim)
        # one contiguous piece makes cat's result contiguous, and each later layer would convert it
        laid = self.kind.memory_format
        if (
            laid is not None
            and host.dim() == 1 - self.dim  # with a batch dimension
            and host.is_contiguous(memory_format=laid)
        ):
            output = output.contiguous(memory_format=laid)
        return output

    def _runs(self, index: int, slot: Slot) -> bool:
        switches, place = self.switches, (self.name, index)
        if place in switches.fallback or place == switches.without:
            return False
        return slot.live or place == switches.shadow

    def _piece(self, place: Place, slot: Slot, inputs: Tensor, chunk: Tensor) -> Tensor:
        """The chunk of one seed with its kernel; the host's own, and a note, when the
        kernel fails.
        """
        switches = self.switches
        shadowed = place == switches.shadow
        if shadowed:
            # gradients end at the kernel: what lies below it does not learn in this pass
            inputs, chunk = inputs.detach(), chunk.detach()
        try:
            k = slot.output(inputs, chunk, self.dim, timed=switches.sampling)
            if switches.notes.watching:
                switches.notes.check(place, k)
            return slot.shadow(chunk, k) if shadowed else slot.blended(chunk, k)
        except Exception as error:  # noqa: BLE001  # whatever a kernel does, the step goes on without it
            switches.notes.failed(place, error)
            return chunk


class SeededLayer(Seeded):
    """What makes a host layer a seeded one.

    `germinate` swaps a layer's class for one that has this before the host's own class.
    """

    seeds: Seeds

    def forward(self, input: Tensor, *rest: Any, **named: Any) -> Any:  # noqa: A002  # the host's own argument name
        """Layer inputs [B, I, S] to outputs [B, O, S].

        What else the host's forward takes goes to it as it is.
        """
        output = super().forward(input, *rest, **named)
        seeds = self.seeds
        if seeds.busy:
            output = seeds.mixed(input, output)
        if seeds.switches.sampling and seeds.statistics is not None:
            seeds.statistics.observe(output)
        return output


_CLASSES: dict[type[nn.Module], type[SeededLayer]] = {}


def seeded_class(host: type[nn.Module]) -> type[SeededLayer]:
    """The seeded subclass of a host class, the same at each call.

    A user's own subclass of a host keeps its forward.
    """
    if host not in _CLASSES:
        _CLASSES[host] = type(
            f"Seeded{host.__name__}",
            (SeededLayer, host),
            {"__module__": __name__, "__doc__": SeededLayer.__doc__},
        )
    return _CLASSES[host]


def seed_layers(module: nn.Module, chunks: Mapping[str, tuple[int, ...]]) -> None:
    """Swap the class of each named layer for its seeded subclass and give it dormant seeds."""
    switches = Switches()
    modules = dict(module.named_modules())
    for name, sizes in chunks.items():
        layer: Any = modules[name]
        kind = kind_of(layer)
        assert kind is not None  # noqa: S101  # the caller found it so
        # the class is swapped, the layer not wrapped: names, hooks and optimizers stay as they are
        layer.__class__ = seeded_class(type(layer))
        layer.seeds = Seeds(name, kind, sizes, switches)


def unseed(layer: SeededLayer) -> None:
    """Give a layer its host's class back; its slots have to be empty."""
    del layer.__dict__["seeds"]
    layer.__class__ = type(layer).__bases__[1]  # the host's class, from `seeded_class`


def host_parameters(layer: SeededLayer) -> int:
    """Number of parameters of the host layer itself."""
    return sum(parameter.numel() for parameter in layer.parameters(recurse=False))


def reads_and_writes(layer: SeededLayer) -> tuple[int, int]:
    """Channels that the layer reads and writes."""
    return channels(layer.seeds.kind, layer)
