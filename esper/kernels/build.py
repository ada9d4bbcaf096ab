"""From a blueprint to an `nn.Module`: a small interpreter over the graph.

Foundry and trainer use the same one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from esper.karn.ir import INPUT, BlueprintIR, Node
from esper.karn.operators import AddChannel, Norm
from esper.kernels.operator_modules import as_laid_out, layer_of


class KernelModule(nn.Module):
    """A blueprint that can run: [batch, *ir.reads.shape] to [batch, *ir.writes.shape].

    Convolution and sequence kernels run on any number of positions, not only those that the
    blueprint names; kernels of features on any leading dimensions, so at each position of a
    sequence. The result has the memory format of the input (channels_last or contiguous).

    Each node is a child module of the node's name, so a parameter is named `node.parameter`, as in
    `BlueprintIR.parameter_shapes`. `torch.fx.symbolic_trace` turns it into a plain module that
    holds nothing of Esper.
    """

    def __init__(self, ir: BlueprintIR, device: torch.device | str) -> None:
        super().__init__()
        self.ir = ir
        for node in ir.nodes:
            self.add_module(
                node.name,
                layer_of(node.operator, tuple(ir.values[source] for source in node.inputs), device),
            )
        self._steps = tuple((node.name, node.inputs) for node in ir.nodes)
        # AddChannel counts dimensions from the front: leading ones have to become one batch
        self._in_rows = ir.geometry.kind == "features" and any(
            isinstance(node.operator, AddChannel) for node in ir.nodes
        )
        self._planar = ir.geometry.layout == "conv2d"
        self.casts = False
        """Whether it computes in the type of its parameters, and gives that of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *ir.reads.shape] to [batch, *ir.writes.shape]."""
        if self.casts and (own := next(self.parameters(), None)) is not None:
            cast: Tensor = self._laid(x.to(own.dtype)).to(x.dtype)
            return cast
        return self._laid(x)

    def _laid(self, x: Tensor) -> Tensor:
        if self._in_rows:
            written: Tensor = self._run(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
            return written
        return as_laid_out(self._run(x), x) if self._planar else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        values = {INPUT: x}
        for name, inputs in self._steps:
            x = getattr(self, name)(*[values[source] for source in inputs])
            values[name] = x
        return x


def module_of(
    ir: BlueprintIR, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> KernelModule:
    """The module of a blueprint, with the initial weights that its seed gives.

    Weights are drawn on the CPU in float32 from an own generator, in the order of the nodes, and
    then moved: the same on every device, and the global random stream is not touched. On the "meta"
    device there are shapes only.
    """
    if torch.device(device).type == "meta":
        return KernelModule(ir, device).to(dtype=dtype)
    # never drawn on the GPU: its generator gives other numbers for the same seed
    module = KernelModule(ir, "cpu")
    _initialise(module)
    return module.to(device=device, dtype=dtype)


def weights_of(module: KernelModule) -> dict[str, np.ndarray]:
    """Copies of a kernel's parameters by name, on the CPU."""
    return {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in module.named_parameters()
    }


@torch.no_grad()
def _initialise(module: KernelModule) -> None:
    """PyTorch's defaults (linear maps and convolutions uniform within 1/sqrt(fan in), weight before
    bias; norms 1 and 0), or zero.
    """
    generator = torch.Generator().manual_seed(module.ir.seed)
    for node in module.ir.nodes:
        parameters = dict(module.get_submodule(node.name).named_parameters())
        # one generator for all: the order of drawing is part of what a seed means
        for name, parameter in parameters.items():
            if _starts_at_zero(node, name):
                parameter.zero_()
            elif isinstance(node.operator, Norm):
                parameter.fill_(1.0)
            else:
                # what torch's kaiming_uniform with a = sqrt(5) comes to (He et al. 2015, arXiv
                # 1502.01852). Fan in as torch counts it, also for transposed convolutions: all
                # dimensions but the first.
                bound = 1 / math.sqrt(math.prod(parameters["weight"].shape[1:]))
                parameter.uniform_(-bound, bound, generator=generator)


def _starts_at_zero(node: Node, name: str) -> bool:
    return getattr(node.operator, "initialisation", "default") == "zero" or (
        isinstance(node.operator, Norm) and name == "bias"
    )
