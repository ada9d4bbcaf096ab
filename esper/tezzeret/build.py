"""From a blueprint to an `nn.Module`: a small interpreter over the graph. Foundry and trainer use the same one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from esper.errors import BuildError
from esper.karn.ir import INPUT, BlueprintIR
from esper.karn.operators import Activation, AddChannel, Conv1d, Flatten, Linear, Multiply, Operator, Scale, Shape

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the weights unset: torch's own would draw from the global stream, or on the meta device import its compiler (4 s)."""


class _Conv1d(nn.Conv1d):
    def reset_parameters(self) -> None:
        """Leave the weights unset, as `_Linear`."""


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _Multiply(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class KernelModule(nn.Module):
    """A blueprint that can run: [batch, in_features] to [batch, out_features].

    Each node is a child module of the node's name, so a parameter is named `node.parameter`, as in `BlueprintIR.parameter_shapes`.
    `torch.fx.symbolic_trace` turns it into a plain module that holds nothing of Esper.
    """

    def __init__(self, ir: BlueprintIR, device: torch.device | str) -> None:
        super().__init__()
        self.ir = ir
        for node in ir.nodes:
            self.add_module(node.name, _layer(node.operator, ir.shapes[node.inputs[0]], device))
        self._steps = tuple((node.name, node.inputs) for node in ir.nodes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_features] to [batch, out_features]."""
        values = {INPUT: x}
        for name, inputs in self._steps:
            x = getattr(self, name)(*[values[source] for source in inputs])
            values[name] = x
        return x


def module_of(ir: BlueprintIR, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> KernelModule:
    """The module of a blueprint, with the initial weights that its seed gives.

    Weights are drawn on the CPU in float32 from an own generator, in the order of the nodes, and then moved: the same on every device,
    and the global random stream is not touched. On the "meta" device there are shapes only.
    """
    if torch.device(device).type == "meta":
        return KernelModule(ir, device).to(dtype=dtype)
    module = KernelModule(ir, "cpu")
    _initialise(module)
    return module.to(device=device, dtype=dtype)


def weights_of(module: KernelModule) -> dict[str, np.ndarray]:
    """Copies of a kernel's parameters by name, on the CPU."""
    return {name: parameter.detach().cpu().numpy().copy() for name, parameter in module.named_parameters()}


def load_weights(module: KernelModule, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights into a module's parameters, in place.

    Raises:
        BuildError: names or shapes are not the module's.
    """
    parameters = dict(module.named_parameters())
    if set(parameters) != set(weights):
        raise BuildError(f"The weights are for {', '.join(sorted(weights))}, but the kernel has {', '.join(sorted(parameters))}.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tuple(parameter.shape) != weights[name].shape:
                raise BuildError(f"The weights {name} have shape {weights[name].shape}, but the kernel's have {tuple(parameter.shape)}.")
            parameter.copy_(torch.tensor(weights[name]))


def _layer(operator: Operator, shape: Shape, device: torch.device | str) -> nn.Module:
    """The torch module of a node whose first input has `shape`; its parameters are not initialised."""
    match operator:
        case Linear(width, bias):
            return _Linear(shape[0], width, bias=bias, device=device)
        case Conv1d(channels, kernel_size, stride, padding):
            return _Conv1d(shape[0], channels, kernel_size, stride=stride, padding=padding, device=device)
        case Activation():
            return _ACTIVATIONS[operator.function]()
        case AddChannel():
            return nn.Unflatten(1, (1, shape[0]))
        case Flatten():
            return nn.Flatten()
        case Scale():
            return _Scale(operator.factor)
        case Multiply():
            return _Multiply()
        case _:
            raise BuildError(f"Tezzeret cannot build the operator {operator.OP!r}.")


@torch.no_grad()
def _initialise(module: KernelModule) -> None:
    """PyTorch's defaults for Linear and Conv1d: uniform within 1/sqrt(fan in), weight before bias; or zero."""
    generator = torch.Generator().manual_seed(module.ir.seed)
    for node in module.ir.nodes:
        parameters = dict(module.get_submodule(node.name).named_parameters())
        zero = isinstance(node.operator, Linear) and node.operator.initialisation == "zero"
        for parameter in parameters.values():
            if zero:
                parameter.zero_()
            else:
                bound = 1 / math.sqrt(math.prod(parameters["weight"].shape[1:]))
                parameter.uniform_(-bound, bound, generator=generator)
