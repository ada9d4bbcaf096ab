"""`harvest` gives back an ordinary module with the fossilised kernels, no Esper inside."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from esper.kasmina.seeded.host_kind import HostKind, LinearMap
from esper.kasmina.seeded.hosts import channels, merge
from esper.kasmina.seeded.layers import SeededLayer, Seeds, unseed
from esper.kasmina.seeded.slots import Slot


class _Grafted(nn.Module):
    """A host layer with its fossilised kernels, written so that torch.fx can trace it into a plain
    graph.
    """

    def __init__(self, host: nn.Module, seeds: Seeds, slots: list[Slot | None]) -> None:
        super().__init__()
        self.host = host
        self.seeds = seeds
        self.kept = {index: slot for index, slot in enumerate(slots) if slot is not None}
        for index, slot in self.kept.items():
            self.add_module(f"kernel_{index}", slot.kernel)

    def forward(self, inputs: Tensor) -> Tensor:
        """Layer inputs [B, I, S] to outputs [B, O, S]."""
        host, dim = self.host(inputs), self.seeds.dim
        pieces = []
        for index, (start, width) in enumerate(
            zip(self.seeds.starts(), self.seeds.chunks, strict=True)
        ):
            chunk = host.narrow(dim, start, width)
            if index in self.kept:
                slot = self.kept[index]
                # by its registered name: torch.fx records calls of children alone
                source, kernel = (
                    inputs if slot.tap == "LAYER_INPUT" else chunk,
                    self.get_submodule(f"kernel_{index}"),
                )
                flat = dim == -1 and not slot.geometry  # features: at each position
                k = (
                    kernel(source.reshape(-1, source.shape[-1])).reshape_as(chunk)
                    if flat
                    else kernel(source)
                )
                # a number: the tracer writes it into the graph as a constant
                alpha = float(slot.alpha)
                chunk = (
                    # the operations of `Slot.blended` in their order: any other rounds differently
                    chunk + alpha * k
                    if slot.blend == "RESIDUAL"
                    else (1 - alpha) * chunk + alpha * k
                )
            pieces.append(chunk)
        return torch.cat(pieces, dim=dim)


class _Tracer(torch.fx.Tracer):
    """Traces through kernels, and leaves the host layer whole: its class may be the user's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == "host" or super().is_leaf_module(m, module_qualified_name)


def harvest(model: nn.Module) -> nn.Module:
    """A copy of `model` as an ordinary module: fossilised kernels are part of it, everything else
    of Esper is gone.

    Layers without a fossilised kernel are again of their host's class. A kernel that is a linear
    map is merged into the layer where its kind says how (`HostKind.merge`), as on a Linear layer.
    Layers with other kernels become `torch.fx.GraphModule`s of plain torch layers; hooks on such a
    layer stay with the part of it that is the host.
    """
    plain = copy.deepcopy(model)
    # modules() lists a shared layer once, so a count above 1 is a weight that layers share
    uses = Counter(
        id(parameter)
        for module in plain.modules()
        for parameter in module._parameters.values()  # noqa: SLF001
    )
    grafted: dict[int, nn.Module] = {}
    for layer in [layer for layer in plain.modules() if isinstance(layer, SeededLayer)]:
        seeds = layer.seeds
        kept: list[Slot | None] = [
            slot if slot is not None and slot.fossilised else None for slot in seeds.slots
        ]
        for index, slot in enumerate(seeds.slots):
            if slot is not None:
                delattr(layer, f"kernel_{index}")
        unseed(layer)
        host = cast("nn.Module", layer)
        if _can_merge(seeds.kind, host, uses):
            kept = [
                None if slot is not None and _merged(host, seeds, index, slot) else slot
                for index, slot in enumerate(kept)
            ]
        if any(slot is not None for slot in kept):
            root = _Grafted(layer, seeds, kept)
            grafted[id(layer)] = torch.fx.GraphModule(
                root, _Tracer().trace(root), type(layer).__name__
            )
    if id(plain) in grafted:
        return grafted[id(plain)]
    # every name of a shared layer: each parent holds a reference of its own
    for name, module in list(plain.named_modules(remove_duplicate=False)):
        if id(module) in grafted:
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, grafted[id(module)])
    return plain


def _can_merge(kind: HostKind, layer: nn.Module, uses: Mapping[int, int]) -> bool:
    """Whether a layer computes what its kind does, from parameters that are its alone."""
    return (
        kind.merge is not None
        # a subclass with a forward of its own may use the weight in another way
        and type(layer).forward is kind.layer.forward
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
    first, *calls, last = torch.fx.symbolic_trace(kernel).graph.nodes
    if [node.target for node in calls] != names or any(node.op != "call_module" for node in calls):
        return False
    return all(
        after.args == (before,)
        for before, after in zip([first, *calls], [*calls, last], strict=True)
    )
