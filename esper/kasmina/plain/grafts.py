"""How a harvested layer keeps its kernels: as children in plain torch, and one forward hook that
blends them into the layer's output.

The layer stays what it was, with its class, weights, attributes, own hooks and arguments. The hook
is a generated `torch.fx.GraphModule`, so model and pickle hold nothing of Esper.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Proxy

from esper.kasmina.seeded.slots import Slot


def plain_kernel(kernel: nn.Module) -> GraphModule:
    """A kernel as plain torch layers: what Esper's own classes do stands in its graph."""
    return torch.fx.symbolic_trace(kernel)


def blending(
    argument: str, dim: int, chunks: Sequence[int], kept: Mapping[int, tuple[str, Slot]]
) -> GraphModule:
    """The forward hook of a layer, `(layer, args, named, output) -> output`.

    It does what `Slot.blended` does, without a branch, because its code is traced when it is
    unpickled.

    Args:
        argument: the name of the layer's input among its named arguments.
        dim: dimension of the channels, counted from the last.
        chunks: widths of the chunks.
        kept: child and slot of each kernel, by the number of its seed.
    """
    graph = Graph()
    layer: Any
    args: Any
    layer, args, named, output = (
        Proxy(graph.placeholder(name)) for name in ("layer", "args", "named", "output")
    )
    inputs = (args + (named.get(argument),))[0]  # noqa: RUF005  # a star would ask a proxy for its length
    pieces, start = [], 0
    for index, width in enumerate(chunks):
        chunk = output.narrow(dim, start, width)
        if index in kept:
            name, slot = kept[index]
            chunk = _blended(layer, name, slot, inputs, chunk, dim)
        pieces.append(chunk.node)
        start += width
    graph.output(graph.call_function(torch.cat, (pieces,), {"dim": dim}))
    return GraphModule(nn.Module(), graph, "Blending")


def _blended(layer: Any, name: str, slot: Slot, inputs: Any, chunk: Any, dim: int) -> Any:
    """The chunk with its kernel, recorded in the graph that these stand for."""
    source = inputs if slot.tap == "LAYER_INPUT" else chunk
    # dimensions of one sample: what stands before them is one batch for the kernel, or none
    sample = 2 if dim == -1 and slot.geometry else -dim
    shape = source.shape
    samples = source.reshape(-1, *(shape[place] for place in range(-sample, 0)))
    k = getattr(layer, name)(samples).to(chunk.dtype).reshape_as(chunk)
    # a number: it stands in the graph as a constant
    alpha = float(slot.alpha)
    return chunk + alpha * k if slot.blend == "RESIDUAL" else (1 - alpha) * chunk + alpha * k


def add_kernels(
    layer: nn.Module, argument: str, dim: int, chunks: Sequence[int], slots: Mapping[int, Slot]
) -> None:
    """Make kernels part of a plain layer: as children `kept_0`, `kept_1`, ..., and a hook before
    all others.
    """
    kept: dict[int, tuple[str, Slot]] = {}
    for (index, slot), name in zip(sorted(slots.items()), free_names(layer), strict=False):
        layer.add_module(name, plain_kernel(slot.kernel))
        kept[index] = name, slot
    # below torch's own numbers of hooks, which begin anew in the process that unpickles the model
    hooks: Any = layer._forward_hooks  # noqa: SLF001  # `register_forward_hook` takes no number
    number = min([0, *hooks]) - 1
    # the bound method, not the module: a hook that is a module is looked for among the layers
    hooks[number] = blending(argument, dim, chunks, kept).forward
    layer._forward_hooks_with_kwargs[number] = True  # noqa: SLF001
    # first: the user's hooks have always seen the output with its kernels
    hooks.move_to_end(number, last=False)


def free_names(layer: Any) -> Iterator[str]:
    """Names for kernels that a layer does not use yet: it may have been harvested before."""
    return (name for n in itertools.count() if not hasattr(layer, name := f"kept_{n}"))
