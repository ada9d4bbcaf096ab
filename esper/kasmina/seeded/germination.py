"""`germinate` gives a model dormant seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from torch import nn

from esper.errors import UsageError
from esper.kasmina.seeded.fast_path import follow_loads
from esper.kasmina.seeded.hosts import channels, host_layers, known, matches, unsuited
from esper.kasmina.seeded.layers import SeededLayer, chunk_sizes, seed_layers

SEEDS: Final = 4
"""Seeds of a layer, where nobody says another number."""
CHUNK: Final = 16
"""The fewest output channels of a chunk by itself: a narrower kernel wins too little for its trial
(`docs/growth.md`).
"""


def germinate(
    model: nn.Module,
    *,
    seeds: int | None = None,
    chunk: int | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> nn.Module:
    """Give the layers of `model` that are of a known kind (`esper.kasmina.HostKind`) dormant seeds,
    in place, and return it.

    They change nothing, bit for bit.

    Layers whose forward is not what runs, such as the output projection of nn.MultiheadAttention,
    are left out.

    Args:
        model: any module; its layers are found by walking the module tree.
        seeds: seeds a layer, 4 by itself; a layer with fewer output channels gets one a channel.
        chunk: the fewest output channels of a seed's chunk; a layer that is too narrow for its
            seeds gets fewer. By itself 16, or 1 where `seeds` is given.
        include: name patterns (fnmatch) of layers that get seeds.
        exclude: name patterns of layers that do not.

    Raises:
        UsageError: no layer matches, one that is named in full cannot have seeds, a layer has seeds
            already, or the number of seeds makes no sense.
    """
    layers, reasons = host_layers(model), unsuited(model)
    for name in include:
        if name in reasons:
            raise UsageError(
                f"Layer {name} cannot have seeds: {reasons[name]}. Take it out of kasmina.include."
            )
    chosen = {
        name: (layer, kind)
        for name, (layer, kind) in layers.items()
        if matches(name, include) and not matches(name, exclude) and name not in reasons
    }
    if not chosen:
        there = ", ".join(name for name in layers if name not in reasons) or "none"
        raise UsageError(
            f"No {_either(known())} layer matches {', '.join(include)}; the model has {there}."
        )
    if again := [name for name, (layer, _) in chosen.items() if isinstance(layer, SeededLayer)]:
        raise UsageError(f"Layer {again[0]} has seeds already; germinate a model once.")
    if chunk is None:
        chunk = CHUNK if seeds is None else 1
    seeds = SEEDS if seeds is None else seeds
    if seeds < 1:
        raise UsageError(f"A layer needs at least one seed, not {seeds}.")
    if chunk < 1:
        raise UsageError(f"A chunk has at least one output channel, not {chunk}.")
    sizes = {}
    for name, (layer, kind) in chosen.items():
        width = channels(kind, layer)[1]
        sizes[name] = chunk_sizes(width, min(seeds, max(1, width // chunk)))
    seed_layers(model, sizes)
    follow_loads(model)
    return model


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
