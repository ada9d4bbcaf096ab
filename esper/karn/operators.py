"""The operators that a blueprint may be made of.

Each knows what it writes, its parameters and its cost; none can run anything.

Costs are counted as `torch.utils.flop_counter` counts them: two operations a multiply-add of a
matrix product or convolution, nothing for elementwise operators and means. None of them mixes
samples: there are no statistics of a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Self, TypeVar, cast, get_args

from esper.errors import BuildError
from esper.events.geometry import FORMS, Geometry, Kind
from esper.karn.value import Value, require_size

Shape = tuple[int, ...]
"""Dimensions of a parameter."""
Pair = tuple[int, int]
"""Along height and width."""
Padding = int | Literal["same"]
"""Zeros on both sides; "same" as PyTorch understands it."""
PairPadding = Pair | Literal["same"]
Initialisation = Literal["default", "zero"]
"""default: PyTorch's (uniform within 1/sqrt(fan in); a norm's scale 1 and shift 0).

Zero: every parameter starts at 0.
"""
Function = Literal["relu", "gelu", "sigmoid"]
LATER = {"later": True}
"""Metadata of an attribute that blueprints did not always have: JSON leaves it out where it has its
default.
"""


class Operator(ABC):
    """One whitelisted operation: data that says what to compute."""

    OP: ClassVar[str]
    ARITY: ClassVar[int] = 1

    @abstractmethod
    def output(self, *inputs: Value) -> Value:
        """What it writes. Raises BuildError when the inputs or the attributes do not fit."""

    def parameters(self, *inputs: Value) -> dict[str, Shape]:  # noqa: ARG002 -- most operators have none
        """Shapes of the trainable parameters, by name."""
        return {}

    def flops(self, *inputs: Value) -> int:  # noqa: ARG002 -- most operators cost nothing by this count
        """Floating-point operations for one sample."""
        return 0


def _require_initialisation(initialisation: str) -> None:
    if initialisation not in get_args(Initialisation):
        raise BuildError(
            f"initialisation {initialisation!r} is unknown; it is one of "
            f"{', '.join(get_args(Initialisation))}."
        )


@dataclass(frozen=True, slots=True)
class Linear(Operator):
    """y = x W^T + b on features, at each position of a sequence."""

    OP: ClassVar[str] = "linear"

    out_features: int
    bias: bool = True
    initialisation: Initialisation = "default"

    def output(self, *inputs: Value) -> Value:
        """`out_features` at the same positions."""
        (value,) = inputs
        # a linear map works on the last dimension, where a convolution's positions are
        if value.kind not in ("features", "sequence"):
            raise BuildError(
                f"linear reads features or a sequence, not {value}; flatten it first, or "
                "take a convolution of one position."
            )
        require_size("out_features", self.out_features)
        _require_initialisation(self.initialisation)
        return Value(value.kind, self.out_features, value.size)

    def parameters(self, *inputs: Value) -> dict[str, Shape]:
        """Weight [out, in] and, if wanted, bias [out]."""
        shapes: dict[str, Shape] = {"weight": (self.out_features, inputs[0].channels)}
        return {**shapes, "bias": (self.out_features,)} if self.bias else shapes

    def flops(self, *inputs: Value) -> int:
        """2 * in * out at each position."""
        return 2 * inputs[0].channels * self.out_features * inputs[0].positions


class Convolution(Operator):
    """What operators with a window share: bias, groups, cost.

    `OP` names the kind of geometry that they compute. Attributes are those of the class `TORCH` of
    torch.nn that runs them, by its names.
    """

    TORCH: ClassVar[str]

    out_channels: int
    groups: int
    initialisation: Initialisation

    @abstractmethod
    def window(self, size: tuple[int, ...]) -> Geometry:
        """The geometry of the convolution on an input of `size`."""

    @classmethod
    @abstractmethod
    def of(
        cls,
        geometry: Geometry,
        channels: int,
        groups: int = 1,
        initialisation: Initialisation = "default",
    ) -> Self:
        """The one that writes `channels` at the positions that a geometry writes."""

    def output(self, *inputs: Value) -> Value:
        """`out_channels` at the positions of the window."""
        (value,) = inputs
        if value.kind != FORMS[cast("Kind", self.OP)].layout:
            raise BuildError(f"{self.OP} reads channels at positions, not {value}.")
        window = self.window(value.size)
        for what, numbers, least in (
            ("out_channels", (self.out_channels,), 1),
            ("kernel_size", window.kernel_size, 1),
            ("stride", window.stride, 1),
            ("padding", window.padding or (), 0),
            ("dilation", window.dilation, 1),
            ("groups", (self.groups,), 1),
        ):
            for number in numbers:
                require_size(what, number, least=least)
        _require_initialisation(self.initialisation)
        if value.channels % self.groups or self.out_channels % self.groups:
            raise BuildError(
                f"{value.channels} channels and {self.out_channels} out_channels cannot be "
                f"parted into {self.groups} groups."
            )
        return Value(value.kind, self.out_channels, window.output_size)

    def parameters(self, *inputs: Value) -> dict[str, Shape]:
        """Weight [out, in / groups, *kernel_size] and bias [out]."""
        (value,) = inputs
        weight = (
            self.out_channels,
            value.channels // self.groups,
            *self.window(value.size).kernel_size,
        )
        return {"weight": weight, "bias": (self.out_channels,)}

    def flops(self, *inputs: Value) -> int:
        """2 * positions * the weight's size."""
        # the weight's size counts groups already: each output reads in / groups channels
        return 2 * self.output(*inputs).positions * math.prod(self.parameters(*inputs)["weight"])


@dataclass(frozen=True, slots=True)
class Conv1d(Convolution):
    """Convolution with bias on (channels, length)."""

    OP: ClassVar[str] = "conv1d"
    TORCH: ClassVar[str] = "Conv1d"

    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    dilation: int = field(default=1, metadata=LATER)
    groups: int = field(default=1, metadata=LATER)
    initialisation: Initialisation = field(default="default", metadata=LATER)

    def window(self, size: tuple[int, ...]) -> Geometry:
        """The geometry of the convolution on an input of `size`."""
        # "same" stays a word: with an even window torch pads one side more, which no number says
        padding = None if self.padding == "same" else (_number(self.padding),)
        return Geometry(
            "conv1d",
            size,
            (self.kernel_size,),
            (self.stride,),
            padding,
            (self.dilation,),
            self.groups,
        )

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        channels: int,
        groups: int = 1,
        initialisation: Initialisation = "default",
    ) -> Self:
        """The one with the window of a geometry."""
        (kernel,), (stride,), (dilation,) = geometry.kernel_size, geometry.stride, geometry.dilation
        padding: Padding = "same" if geometry.padding is None else geometry.padding[0]
        return cls(channels, kernel, stride, padding, dilation, groups, initialisation)


@dataclass(frozen=True, slots=True)
class Conv2d(Convolution):
    """Convolution with bias on (channels, height, width)."""

    OP: ClassVar[str] = "conv2d"
    TORCH: ClassVar[str] = "Conv2d"

    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: PairPadding = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    initialisation: Initialisation = "default"

    def window(self, size: tuple[int, ...]) -> Geometry:
        """The geometry of the convolution on an input of `size`."""
        padding = None if self.padding == "same" else _number(self.padding)
        return Geometry(
            "conv2d", size, self.kernel_size, self.stride, padding, self.dilation, self.groups
        )

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        channels: int,
        groups: int = 1,
        initialisation: Initialisation = "default",
    ) -> Self:
        """The one with the window of a geometry."""
        kernel, stride, dilation = (
            cast("Pair", numbers)
            for numbers in (geometry.kernel_size, geometry.stride, geometry.dilation)
        )
        padding: PairPadding = (
            "same" if geometry.padding is None else cast("Pair", geometry.padding)
        )
        return cls(channels, kernel, stride, padding, dilation, groups, initialisation)


@dataclass(frozen=True, slots=True)
class ConvTranspose2d(Convolution):
    """Transposed convolution with bias on (channels, height, width): each position spreads a
    window, so that a stride writes more positions than it reads (Zeiler et al. 2010).
    """

    OP: ClassVar[str] = "conv_transpose2d"
    TORCH: ClassVar[str] = "ConvTranspose2d"

    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    initialisation: Initialisation = "default"

    def window(self, size: tuple[int, ...]) -> Geometry:
        """The geometry of the convolution on an input of `size`."""
        return Geometry(
            "conv_transpose2d",
            size,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.output_padding,
        )

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        channels: int,
        groups: int = 1,
        initialisation: Initialisation = "default",
    ) -> Self:
        """The one with the window of a geometry."""
        kernel, stride, padding, more, dilation = (
            cast("Pair", numbers)
            for numbers in (
                geometry.kernel_size,
                geometry.stride,
                geometry.padding,
                geometry.output_padding,
                geometry.dilation,
            )
        )
        return cls(channels, kernel, stride, padding, more, dilation, groups, initialisation)

    def parameters(self, *inputs: Value) -> dict[str, Shape]:
        """Weight [in, out / groups, *kernel_size] and bias [out]."""
        weight = (inputs[0].channels, self.out_channels // self.groups, *self.kernel_size)
        return {"weight": weight, "bias": (self.out_channels,)}

    def flops(self, *inputs: Value) -> int:
        """2 * positions that are read * the weight's size."""
        # each position that is read spreads one window: what is written depends on the stride too
        return 2 * inputs[0].positions * math.prod(self.parameters(*inputs)["weight"])


N = TypeVar("N", int, Pair)


def _number(padding: N | str) -> N:
    if isinstance(padding, str):
        raise BuildError(f"padding {padding!r} is unknown; it is a number of positions or 'same'.")
    return padding


@dataclass(frozen=True, slots=True)
class Norm(Operator):
    """Normalisation of each sample with a trainable scale and shift of each channel; epsilon 1e-5.

    Over the features of each position (LayerNorm, Ba et al. 2016, arXiv 1607.06450), or for
    convolutions over channels and positions together (GroupNorm with one group, Wu and He 2018,
    arXiv 1803.08494).
    """

    OP: ClassVar[str] = "norm"

    initialisation: Initialisation = "default"

    def output(self, *inputs: Value) -> Value:
        """As the input."""
        _require_initialisation(self.initialisation)
        return inputs[0]

    def parameters(self, *inputs: Value) -> dict[str, Shape]:
        """Weight [channels] and bias [channels]."""
        return {"weight": (inputs[0].channels,), "bias": (inputs[0].channels,)}


@dataclass(frozen=True, slots=True)
class Attention(Operator):
    """Self-attention over positions: softmax(q k^T / sqrt(d)) v in each head.

    Source: Vaswani et al. 2017, arXiv 1706.03762.

    It has no parameters: queries, keys and values stand one after the other in the channels of the
    input.
    """

    OP: ClassVar[str] = "attention"

    heads: int
    causal: bool = field(default=False, metadata=LATER)
    """Whether each position attends to itself and earlier ones alone."""

    def output(self, *inputs: Value) -> Value:
        """A third of the channels, at the same positions."""
        (value,) = inputs
        require_size("heads", self.heads)
        if value.kind == "features":
            raise BuildError("attention reads channels at positions, not features alone.")
        if self.causal and value.kind != "sequence":
            raise BuildError("causal attention reads a sequence: its positions have an order.")
        # one input for all three, so that one projection makes them and no operator reads three
        if value.channels % (3 * self.heads):
            raise BuildError(
                f"{value.channels} channels are not queries, keys and values of {self.heads} heads."
            )
        return Value(value.kind, value.channels // 3, value.size)

    def flops(self, *inputs: Value) -> int:
        """Two matrix products: 4 * positions^2 * channels of the output."""
        return 4 * inputs[0].positions ** 2 * (inputs[0].channels // 3)


@dataclass(frozen=True, slots=True)
class GlobalPool(Operator):
    """The mean over all positions."""

    OP: ClassVar[str] = "global_pool"

    def output(self, *inputs: Value) -> Value:
        """Channels as features."""
        if inputs[0].kind == "features":
            raise BuildError("global_pool reads channels at positions, not features alone.")
        return Value("features", inputs[0].channels)


@dataclass(frozen=True, slots=True)
class Activation(Operator):
    """An elementwise nonlinearity."""

    OP: ClassVar[str] = "activation"

    function: Function

    def output(self, *inputs: Value) -> Value:
        """As the input."""
        if self.function not in get_args(Function):
            raise BuildError(
                f"activation {self.function!r} is unknown; it is one of "
                f"{', '.join(get_args(Function))}."
            )
        return inputs[0]


@dataclass(frozen=True, slots=True)
class AddChannel(Operator):
    """Features seen as one channel of that length."""

    OP: ClassVar[str] = "add_channel"

    def output(self, *inputs: Value) -> Value:
        """(1, features)."""
        if inputs[0].kind != "features":
            raise BuildError(f"add_channel reads features, not {inputs[0]}.")
        return Value("conv1d", 1, (inputs[0].channels,))


@dataclass(frozen=True, slots=True)
class Flatten(Operator):
    """(channels, length) as one row of features, channel by channel."""

    OP: ClassVar[str] = "flatten"

    def output(self, *inputs: Value) -> Value:
        """(channels * length,)."""
        if inputs[0].kind != "conv1d":
            raise BuildError(
                f"flatten reads channels at the positions of a signal, not {inputs[0]}."
            )
        return Value("features", math.prod(inputs[0].shape))


@dataclass(frozen=True, slots=True)
class Scale(Operator):
    """The input times a constant."""

    OP: ClassVar[str] = "scale"

    factor: float

    def output(self, *inputs: Value) -> Value:
        """As the input."""
        if not math.isfinite(self.factor):
            raise BuildError(f"a scale of {self.factor} is not a finite number.")
        return inputs[0]


@dataclass(frozen=True, slots=True)
class Multiply(Operator):
    """Two inputs of one shape, element by element.

    Or channels at positions times a gate, one feature a channel.
    """

    OP: ClassVar[str] = "multiply"
    ARITY: ClassVar[int] = 2

    def output(self, *inputs: Value) -> Value:
        """As the first input."""
        value, other = inputs
        # no free broadcasting: shapes have to be decidable from the blueprint alone
        if value != other and other != Value("features", value.channels):
            raise BuildError(
                "multiply reads two equal shapes, or a gate for each channel in second "
                f"place, not {value} and {other}."
            )
        return value


@dataclass(frozen=True, slots=True)
class Add(Operator):
    """The sum of two inputs of one shape."""

    OP: ClassVar[str] = "add"
    ARITY: ClassVar[int] = 2

    def output(self, *inputs: Value) -> Value:
        """As the inputs."""
        if inputs[0] != inputs[1]:
            raise BuildError(f"add reads two equal shapes, not {inputs[0]} and {inputs[1]}.")
        return inputs[0]


OPERATORS: dict[str, type[Operator]] = {
    kind.OP: kind
    for kind in (
        Linear,
        Conv1d,
        Conv2d,
        ConvTranspose2d,
        Norm,
        Attention,
        GlobalPool,
        Activation,
        AddChannel,
        Flatten,
        Scale,
        Multiply,
        Add,
    )
}
"""The whitelist."""
CONVOLUTIONS: Final[Mapping[str, type[Convolution]]] = {
    name: kind for name, kind in OPERATORS.items() if issubclass(kind, Convolution)
}
"""Those with a window, by the kind of geometry that they compute."""
