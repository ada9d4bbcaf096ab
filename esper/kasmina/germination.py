"""`germinate` gives a model dormant seeds; `harvest` gives back an ordinary module with the fossilised kernels, no Esper inside."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.kasmina.growth import seed_layers
from esper.kasmina.layers import SeededLinear, chunk_sizes, seeded_class
from esper.kasmina.slots import Slot


def germinate(model: nn.Module, *, seeds: int = 4, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> nn.Module:
    """Give the Linear layers of `model` dormant seeds, in place, and return it. Dormant seeds change nothing, bit for bit.

    Args:
        model: any module; its Linear layers are found by walking the module tree.
        seeds: seeds a layer; a layer with fewer outputs gets one an output.
        include: name patterns (fnmatch) of layers that get seeds.
        exclude: name patterns of layers that do not.

    Raises:
        UsageError: no layer matches, a layer has seeds already, or the number of seeds makes no sense.
    """
    found = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and any(fnmatch.fnmatch(name, pattern) for pattern in include)
        and not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)
    }
    if not found:
        linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        raise UsageError(f"No Linear layer matches {', '.join(include)}; the model has {', '.join(linear) or 'none'}.")
    if again := [name for name, layer in found.items() if isinstance(layer, SeededLinear)]:
        raise UsageError(f"Layer {again[0]} has seeds already; germinate a model once.")
    if seeds < 1:
        raise UsageError(f"A layer needs at least one seed, not {seeds}.")
    sizes = {name: chunk_sizes(layer.out_features, min(seeds, layer.out_features)) for name, layer in found.items()}
    seed_layers(model, sizes, lambda layer: seeded_class(type(layer)))
    return model


class _Grafted(nn.Module):
    """A host layer with its fossilised kernels, written so that torch.fx can trace it into a plain graph."""

    def __init__(self, host: nn.Linear, chunks: tuple[int, ...], slots: list[Slot | None]) -> None:
        super().__init__()
        self.host = host
        self.chunks = chunks
        self.kept = {index: (slot.blend, slot.tap, float(slot.alpha)) for index, slot in enumerate(slots) if slot is not None}
        for index, slot in enumerate(slots):
            if slot is not None:
                self.add_module(f"kernel_{index}", slot.kernel)

    def forward(self, inputs: Tensor) -> Tensor:
        """Layer inputs [B, I] to outputs [B, O]."""
        host = self.host(inputs)
        start, pieces = 0, []
        for index, width in enumerate(self.chunks):
            chunk = host[..., start : start + width]
            start += width
            if index in self.kept:
                blend, tap, alpha = self.kept[index]
                k = self.get_submodule(f"kernel_{index}")(inputs if tap == "LAYER_INPUT" else chunk)
                chunk = chunk + alpha * k if blend == "RESIDUAL" else (1 - alpha) * chunk + alpha * k
            pieces.append(chunk)
        return torch.cat(pieces, dim=-1)


def harvest(model: nn.Module) -> nn.Module:
    """A copy of `model` as an ordinary module: fossilised kernels are part of it, everything else of Esper is gone.

    Layers without a fossilised kernel are again of their host's class. Grafted layers become `torch.fx.GraphModule`s of plain torch layers.
    """
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if not isinstance(layer, SeededLinear):
            continue
        seeds = layer.seeds
        kept: list[Slot | None] = [slot if slot is not None and slot.fossilised else None for slot in seeds.slots]
        for index, slot in enumerate(seeds.slots):
            if slot is not None:
                delattr(layer, f"kernel_{index}")
        del layer.__dict__["seeds"]
        layer.__class__ = type(layer).__mro__[1] if type(layer) is SeededLinear else type(layer).__bases__[1]
        if any(slot is not None for slot in kept):
            traced = torch.fx.symbolic_trace(_Grafted(layer, seeds.chunks, kept))
            if not name:
                return traced
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, traced)
    return plain
