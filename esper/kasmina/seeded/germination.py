"""`germinate` gives a model dormant seeds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from esper.errors import UsageError
from esper.kasmina.seeded.hosts import channels, found, matches, unsuited
from esper.kasmina.seeded.layers import SeededLayer, chunk_sizes, seed_layers


def germinate(
    model: nn.Module,
    *,
    seeds: int = 4,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> nn.Module:
    """Give the Linear, Conv1d and Conv2d layers of `model` dormant seeds, in place, and return it.

    They change nothing, bit for bit.

    Layers whose forward is not what runs, such as the output projection of nn.MultiheadAttention,
    are left out.

    Args:
        model: any module; its layers are found by walking the module tree.
        seeds: seeds a layer; a layer with fewer output channels gets one a channel.
        include: name patterns (fnmatch) of layers that get seeds.
        exclude: name patterns of layers that do not.

    Raises:
        UsageError: no layer matches, one that is named in full cannot have seeds, a layer has seeds
            already, or the number of seeds makes no sense.
    """
    layers, reasons = found(model), unsuited(model)
    for name in include:
        if name in reasons:
            raise UsageError(
                f"Layer {name} cannot have seeds: {reasons[name]}. Take it out of kasmina.include."
            )
    chosen = {
        name: layer
        for name, layer in layers.items()
        if matches(name, include) and not matches(name, exclude) and name not in reasons
    }
    if not chosen:
        there = ", ".join(name for name in layers if name not in reasons) or "none"
        raise UsageError(
            f"No Linear, Conv1d or Conv2d layer matches {', '.join(include)}; the model "
            f"has {there}."
        )
    if again := [name for name, layer in chosen.items() if isinstance(layer, SeededLayer)]:
        raise UsageError(f"Layer {again[0]} has seeds already; germinate a model once.")
    if seeds < 1:
        raise UsageError(f"A layer needs at least one seed, not {seeds}.")
    sizes = {}
    for name, layer in chosen.items():
        width = channels(layer)[1]
        sizes[name] = chunk_sizes(width, min(seeds, width))
    seed_layers(model, sizes)
    return model
