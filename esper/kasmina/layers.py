"""Seeded layers: a subclass of the host's class that takes its place, so a dormant one costs one branch and changes no bit.

A layer's output channels are split into chunks, one a seed. The host transform runs once; each live seed then replaces or adds to its chunk.
Shape legend: B batch (and any leading dimensions), I input features, O output features, C chunk width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.kasmina.slots import Slot
from esper.kasmina.statistics import LayerStatistics


@dataclass(slots=True)
class Switches:
    """Flags that all seeded layers of a model share, so that one assignment reaches every layer.

    `shadow` is the (layer, seed) whose kernel stands in for its chunk in this pass; `without` the one that is left out.
    """

    sampling: bool = False
    shadow: tuple[str, int] | None = None
    without: tuple[str, int] | None = None


def chunk_sizes(features: int, seeds: int) -> tuple[int, ...]:
    """Widths of the chunks of `features` channels over `seeds` seeds: as even as can be, the wider ones first.

    Raises:
        UsageError: no seeds, or more than channels.
    """
    if not 1 <= seeds <= features:
        raise UsageError(f"A layer with {features} outputs takes 1 to {features} seeds, not {seeds}; set kasmina.seeds accordingly.")
    width, rest = divmod(features, seeds)
    return tuple(width + (index < rest) for index in range(seeds))


@dataclass(slots=True)
class Seeds:
    """The seeds of one layer. `busy` is false while every seed is dormant: the fast path."""

    name: str
    chunks: tuple[int, ...]
    switches: Switches
    slots: list[Slot | None] = field(default_factory=list)
    statistics: LayerStatistics | None = None
    busy: bool = False

    def __post_init__(self) -> None:
        """Begin with empty slots."""
        self.slots = [None] * len(self.chunks)

    def starts(self) -> tuple[int, ...]:
        """First channel of each chunk."""
        return tuple(sum(self.chunks[:index]) for index in range(len(self.chunks)))

    def refresh(self) -> None:
        """Find out whether any slot holds a kernel."""
        self.busy = any(slot is not None for slot in self.slots)

    def mixed(self, inputs: Tensor, host: Tensor) -> Tensor:
        """Output [B, O] of the layer: the host's, with the chunks of live and shadowed seeds blended in."""
        switches, pieces, changed = self.switches, [], False
        for index, (slot, chunk) in enumerate(zip(self.slots, host.split(self.chunks, dim=-1), strict=True)):
            place = (self.name, index)
            if slot is None or place == switches.without:
                pieces.append(chunk)
            elif place == switches.shadow:
                pieces.append(slot.shadow(inputs, chunk))
                changed = True
            elif slot.live:
                pieces.append(slot.blended(inputs, chunk, timed=switches.sampling))
                changed = True
            else:
                pieces.append(chunk)
        return torch.cat(pieces, dim=-1) if changed else host


class SeededLinear(nn.Linear):
    """An `nn.Linear` with seeds. Made by `germinate`, which swaps the class of a layer in place: parameters, hooks and names stay."""

    seeds: Seeds

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the host's own argument name
        """Layer inputs [B, I] to outputs [B, O]."""
        output = super().forward(input)
        seeds = self.seeds
        if seeds.busy:
            output = seeds.mixed(input, output)
        if seeds.switches.sampling and seeds.statistics is not None:
            seeds.statistics.observe(output)
        return output


_CLASSES: dict[type[nn.Linear], type[SeededLinear]] = {nn.Linear: SeededLinear}


def seeded_class(host: type[nn.Linear]) -> type[SeededLinear]:
    """The seeded subclass of a host class, the same at each call; a user's own subclass of Linear keeps its forward."""
    if host not in _CLASSES:
        _CLASSES[host] = type(f"Seeded{host.__name__}", (SeededLinear, host), {"__module__": __name__, "__doc__": SeededLinear.__doc__})
    return _CLASSES[host]
