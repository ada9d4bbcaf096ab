"""The operators that a blueprint may be made of. Each knows its output shape, its parameters and its cost; none can run anything.

Shapes are those of one sample, without the batch dimension: (features,) or (channels, length).
Costs are counted as `torch.utils.flop_counter` counts them: two operations a multiply-add of a matrix product or convolution,
nothing for elementwise operators.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from esper.errors import BuildError

Shape = tuple[int, ...]
Initialisation = Literal["default", "zero"]
"""default: uniform within 1/sqrt(fan in), which is PyTorch's; zero: weight and bias start at 0."""
Function = Literal["relu", "gelu", "sigmoid"]

MAX_SIZE = 1 << 20
"""Largest number of features, channels or positions."""


def _require_size(what: str, value: int, *, least: int = 1) -> None:
    if not least <= value <= MAX_SIZE:
        raise BuildError(f"{what} is {value}; it has to be from {least} to {MAX_SIZE}.")


class Operator(ABC):
    """One whitelisted operation: data that says what to compute."""

    OP: ClassVar[str]
    ARITY: ClassVar[int] = 1

    @abstractmethod
    def output(self, *inputs: Shape) -> Shape:
        """The shape of the result. Raises BuildError when the inputs or the attributes do not fit."""

    def parameters(self, *inputs: Shape) -> dict[str, Shape]:  # noqa: ARG002 -- most operators have none
        """Shapes of the trainable parameters, by name."""
        return {}

    def flops(self, *inputs: Shape) -> int:  # noqa: ARG002 -- most operators cost nothing by this count
        """Floating-point operations for one sample."""
        return 0


def _features(op: str, shape: Shape) -> int:
    if len(shape) != 1:
        raise BuildError(f"{op} reads (features,), not shape {shape}; flatten it first.")
    return shape[0]


def _channels(op: str, shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise BuildError(f"{op} reads (channels, length), not shape {shape}; add a channel first.")
    return shape[0], shape[1]


@dataclass(frozen=True, slots=True)
class Linear(Operator):
    """y = x W^T + b on (features,)."""

    OP: ClassVar[str] = "linear"

    out_features: int
    bias: bool = True
    initialisation: Initialisation = "default"

    def output(self, *inputs: Shape) -> Shape:
        """(out_features,)."""
        _features(self.OP, inputs[0])
        _require_size("out_features", self.out_features)
        if self.initialisation not in get_args(Initialisation):
            raise BuildError(f"initialisation {self.initialisation!r} is unknown; it is one of {', '.join(get_args(Initialisation))}.")
        return (self.out_features,)

    def parameters(self, *inputs: Shape) -> dict[str, Shape]:
        """Weight [out, in] and, if wanted, bias [out]."""
        shapes: dict[str, Shape] = {"weight": (self.out_features, inputs[0][0])}
        return {**shapes, "bias": (self.out_features,)} if self.bias else shapes

    def flops(self, *inputs: Shape) -> int:
        """2 * in * out."""
        return 2 * inputs[0][0] * self.out_features


@dataclass(frozen=True, slots=True)
class Conv1d(Operator):
    """Convolution with bias on (channels, length)."""

    OP: ClassVar[str] = "conv1d"

    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0

    def output(self, *inputs: Shape) -> Shape:
        """(out_channels, floor((length + 2 padding - kernel_size) / stride) + 1)."""
        _, length = _channels(self.OP, inputs[0])
        _require_size("out_channels", self.out_channels)
        _require_size("kernel_size", self.kernel_size)
        _require_size("stride", self.stride)
        _require_size("padding", self.padding, least=0)
        span = length + 2 * self.padding - self.kernel_size
        if span < 0:
            raise BuildError(f"a kernel_size of {self.kernel_size} is longer than the {length} positions with padding {self.padding}.")
        return (self.out_channels, span // self.stride + 1)

    def parameters(self, *inputs: Shape) -> dict[str, Shape]:
        """Weight [out, in, kernel_size] and bias [out]."""
        return {"weight": (self.out_channels, inputs[0][0], self.kernel_size), "bias": (self.out_channels,)}

    def flops(self, *inputs: Shape) -> int:
        """2 * positions * out * in * kernel_size."""
        return 2 * math.prod(self.output(*inputs)) * inputs[0][0] * self.kernel_size


@dataclass(frozen=True, slots=True)
class Activation(Operator):
    """An elementwise nonlinearity."""

    OP: ClassVar[str] = "activation"

    function: Function

    def output(self, *inputs: Shape) -> Shape:
        """As the input."""
        if self.function not in get_args(Function):
            raise BuildError(f"activation {self.function!r} is unknown; it is one of {', '.join(get_args(Function))}.")
        return inputs[0]


@dataclass(frozen=True, slots=True)
class AddChannel(Operator):
    """(features,) seen as one channel of that length."""

    OP: ClassVar[str] = "add_channel"

    def output(self, *inputs: Shape) -> Shape:
        """(1, features)."""
        return (1, _features(self.OP, inputs[0]))


@dataclass(frozen=True, slots=True)
class Flatten(Operator):
    """(channels, length) as one row of features, channel by channel."""

    OP: ClassVar[str] = "flatten"

    def output(self, *inputs: Shape) -> Shape:
        """(channels * length,)."""
        channels, length = _channels(self.OP, inputs[0])
        return (channels * length,)


@dataclass(frozen=True, slots=True)
class Scale(Operator):
    """The input times a constant."""

    OP: ClassVar[str] = "scale"

    factor: float

    def output(self, *inputs: Shape) -> Shape:
        """As the input."""
        if not math.isfinite(self.factor):
            raise BuildError(f"a scale of {self.factor} is not a finite number.")
        return inputs[0]


@dataclass(frozen=True, slots=True)
class Multiply(Operator):
    """Two inputs of one shape, element by element."""

    OP: ClassVar[str] = "multiply"
    ARITY: ClassVar[int] = 2

    def output(self, *inputs: Shape) -> Shape:
        """As the inputs."""
        if inputs[0] != inputs[1]:
            raise BuildError(f"multiply reads two equal shapes, not {inputs[0]} and {inputs[1]}.")
        return inputs[0]


OPERATORS: dict[str, type[Operator]] = {kind.OP: kind for kind in (Linear, Conv1d, Activation, AddChannel, Flatten, Scale, Multiply)}
"""The whitelist."""
