"""`harvest` gives back an ordinary module with the fossilised kernels, no Esper inside."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.kasmina.plain.grafts import add_kernels
from esper.kasmina.seeded.fast_path import follow_no_loads
from esper.kasmina.seeded.host_kind import HostKind, LinearMap
from esper.kasmina.seeded.hosts import channels, merge
from esper.kasmina.seeded.layers import SeededLayer, Seeds, unseed
from esper.kasmina.seeded.slots import Slot


class _Chained(torch.fx.Tracer):
    """Leaves linear layers whole, also those of Esper's own class that kernels are built of."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)


def harvest(model: nn.Module) -> nn.Module:
    """A copy of `model` as an ordinary module: fossilised kernels are part of it, everything else
    of Esper is gone.

    Every layer is again of its host's class, with its weights, attributes, hooks and
    parametrizations. A kernel that is a linear map is merged into the weight where the layer's kind
    says how (`HostKind.merge`). Other kernels are children of the layer in plain torch, and a
    forward hook blends them in, before the hooks that the layer had.

    A live kernel that is not fossilised is left out, with a warning.

    Raises:
        UsageError: a layer's `forward` was set on the instance, which a copy cannot have.
    """
    seeded = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, SeededLayer)
    }
    for name, layer in seeded.items():
        if "forward" in vars(layer):
            raise UsageError(
                f"The forward of layer {name} was set on the instance, and a copy would go on "
                f"calling the original's: take it off (del layer.forward), then harvest."
            )
    _warn_of_others(seeded)
    plain = _copied(model)
    follow_no_loads(plain)
    # modules() lists a shared layer once, so a count above 1 is a weight that layers share
    uses = Counter(
        id(parameter)
        for module in plain.modules()
        for parameter in module._parameters.values()  # noqa: SLF001
    )
    for layer in [layer for layer in plain.modules() if isinstance(layer, SeededLayer)]:
        seeds = layer.seeds
        kept = {
            index: slot
            for index, slot in enumerate(seeds.slots)
            if slot is not None and slot.fossilised
        }
        for index, slot in enumerate(seeds.slots):
            if slot is not None:
                delattr(layer, f"kernel_{index}")
        unseed(layer)
        host = cast("nn.Module", layer)
        if _can_merge(seeds.kind, host, uses):
            kept = {
                index: slot for index, slot in kept.items() if not _merged(host, seeds, index, slot)
            }
        if kept:
            add_kernels(host, seeds.argument, seeds.dim, seeds.chunks, kept)
    return plain


def _warn_of_others(seeded: Mapping[str, SeededLayer]) -> None:
    """Say which kernels take part in the model's output and are not kept."""
    others = [
        f"{slot.family} at {name}[{index}]"
        for name, layer in seeded.items()
        for index, slot in enumerate(layer.seeds.slots)
        if slot is not None and slot.live and not slot.fossilised
    ]
    if others:
        warnings.warn(
            f"Live kernels that are not fossilised are left out, so the harvested model computes "
            f"something else: {', '.join(others)}.",
            stacklevel=3,
        )


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where a hook computes a weight, as torch's old weight_norm does."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in (*vars(module).values(), *module._buffers.values())  # noqa: SLF001
        # torch copies leaves of autograd's graph alone; the hook computes the others anew
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)


def _can_merge(kind: HostKind, layer: nn.Module, uses: Mapping[int, int]) -> bool:
    """Whether a layer computes what its kind does, from parameters that are its alone and that
    nothing else computes or moves.
    """
    return (
        kind.merge is not None
        # a subclass with a forward of its own may use the weight in another way, and one with a
        # train of its own may add to it and take away again
        and type(layer).forward is kind.layer.forward
        and type(layer).train is kind.layer.train
        and not layer._forward_pre_hooks  # noqa: SLF001  # it may change the weight, as pruning does
        and not any(
            name not in layer._parameters and getattr(layer, name, None) is not None  # noqa: SLF001
            for name in ("weight", "bias")
        )
        and all(uses[id(parameter)] == 1 for parameter in layer.parameters(recurse=False))
    )


def _merged(layer: nn.Module, seeds: Seeds, index: int, slot: Slot) -> bool:
    """Make a kernel that is a linear map of the layer's input part of the layer; false when it is
    none, or the layer has no room for it.
    """
    linear_map = _linear_map(slot, channels(seeds.kind, layer)[0])
    if linear_map is None:
        return False
    start, alpha = seeds.starts()[index], float(slot.alpha)
    rest = 1.0 if slot.blend == "RESIDUAL" else 1 - alpha
    rows = slice(start, start + seeds.chunks[index])
    return merge(seeds.kind, layer, LinearMap(rows, rest, alpha, *linear_map))


@torch.no_grad()
def _linear_map(slot: Slot, reads: int) -> tuple[Tensor, Tensor | None] | None:
    """Weight [C, I] and bias [C] of a kernel that is a linear map of the layer's input, in float64;
    None when it is none.
    """
    parts = [
        part
        for part in slot.kernel.modules()
        if not list(part.children()) and part is not slot.kernel
    ]
    if (
        slot.tap != "LAYER_INPUT"
        or slot.geometry
        or not parts
        or not all(isinstance(part, nn.Linear) for part in parts)
    ):
        return None
    chain = [part for part in parts if isinstance(part, nn.Linear)]
    names = [name for name, part in slot.kernel.named_modules() if part in chain]
    # `modules` lists what a kernel has, not how it calls it: only a trace shows that
    if not _in_a_row(slot.kernel, names):
        return None
    device = chain[0].weight.device
    # float64: a product of factors in float32 would round once a factor
    weight = torch.eye(reads, dtype=torch.float64, device=device)
    bias: Tensor | None = None
    for part in chain:
        weight = part.weight.double() @ weight
        bias = None if bias is None else part.weight.double() @ bias
        if _biased(part):
            bias = part.bias.double() if bias is None else bias + part.bias.double()
    return weight, bias


def _biased(layer: nn.Linear) -> bool:
    return "bias" in dict(layer.named_parameters(recurse=False))


def _in_a_row(kernel: nn.Module, names: list[str]) -> bool:
    """Whether the kernel calls its layers one after the other and does nothing else."""
    first, *calls, last = _Chained().trace(kernel).nodes
    if [node.target for node in calls] != names or any(node.op != "call_module" for node in calls):
        return False
    return all(
        after.args == (before,)
        for before, after in zip([first, *calls], [*calls, last], strict=True)
    )
