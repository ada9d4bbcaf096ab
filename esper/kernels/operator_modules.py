"""The torch module of each operator.

Parameters are left unset: torch's own would draw from the global random stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional

from esper.errors import BuildError
from esper.karn.operators import (
    CONVOLUTIONS,
    Activation,
    Add,
    AddChannel,
    Attention,
    Convolution,
    Flatten,
    GlobalPool,
    Linear,
    Multiply,
    Norm,
    Operator,
    Scale,
)
from esper.karn.value import Value

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the weights unset: on the meta device torch's own would import its compiler (4 s),
        too.
        """


class _LayerNorm(nn.LayerNorm):
    def reset_parameters(self) -> None:
        """Leave the weights unset, as `_Linear`."""


class _GroupNorm(nn.GroupNorm):
    def reset_parameters(self) -> None:
        """Leave the weights unset, as `_Linear`."""


def _leave_unset(module: nn.Module) -> None:
    """Leave the weights unset, as `_Linear`."""


_WINDOWS: Final[Mapping[str, Callable[..., nn.Module]]] = {
    name: type(
        f"_{kind.TORCH}",
        (getattr(nn, kind.TORCH),),
        {"__module__": __name__, "reset_parameters": _leave_unset},
    )
    for name, kind in CONVOLUTIONS.items()
}
"""The torch class of each operator with a window."""
# where pickle looks for a class
globals().update({window.__name__: window for window in _WINDOWS.values()})


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _Multiply(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class _Add(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class _Gate(nn.Module):
    """[batch, channels] times [batch, channels, *positions], or [batch, *positions, channels]."""

    def __init__(self, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.index = tuple(
            None if dimension in positions else slice(None)
            for dimension in range(len(positions) + 2)
        )

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate[self.index]


class _GlobalPool(nn.Module):
    def __init__(self, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.positions = positions

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.positions)


class _Attention(nn.Module):
    """[batch, length, 3 * width] to [batch, length, width]."""

    def __init__(self, heads: int, width: int, *, causal: bool = False) -> None:
        super().__init__()
        self.parts = (3, heads, width // heads)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        packed = x.unflatten(-1, self.parts).permute(2, 0, 3, 1, 4)  # [3, batch, heads, length, d]
        # it divides by sqrt(d) itself
        attended = functional.scaled_dot_product_attention(
            packed[0], packed[1], packed[2], is_causal=self.causal
        )
        return attended.transpose(1, 2).flatten(2)


class _ChannelAttention(_Attention):
    """[batch, 3 * width, *positions] to [batch, width, *positions], in rows: attention is slow
    where channels are far apart.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = super().forward(x.flatten(2).transpose(1, 2).contiguous())
        spread: Tensor = rows.transpose(1, 2).unflatten(2, x.shape[2:])
        return spread


def layer_of(
    operator: Operator, inputs: tuple[Value, ...], device: torch.device | str
) -> nn.Module:
    """The torch module of an operator on such inputs; its parameters are not initialised.

    Raises:
        BuildError: the operator is unknown here.
    """
    value = inputs[0]
    match operator:
        case Linear(width, bias):
            return _Linear(value.channels, width, bias=bias, device=device)
        case Convolution():
            window = {
                own.name: getattr(operator, own.name)
                for own in fields(cast("Any", operator))
                if own.name != "initialisation"
            }
            return _WINDOWS[operator.OP](value.channels, **window, device=device)
        case Norm():
            if value.channels_first:
                # not batch norm: a sample's result must not depend on its neighbours
                return _GroupNorm(1, value.channels, device=device)
            return _LayerNorm(value.channels, device=device)
        case Attention(heads, causal):
            attention = _Attention if value.kind == "sequence" else _ChannelAttention
            return attention(heads, value.channels // 3, causal=causal)
        case Multiply() if inputs[0] != inputs[1]:
            return _Gate(_positions(value))
        case _:
            return _without_parameters(operator, value)


def _without_parameters(operator: Operator, value: Value) -> nn.Module:
    match operator:
        case Activation():
            return _ACTIVATIONS[operator.function]()
        case AddChannel():
            return nn.Unflatten(1, (1, value.channels))
        case Flatten():
            return nn.Flatten()
        case GlobalPool():
            return _GlobalPool(_positions(value))
        case Scale():
            return _Scale(operator.factor)
        case Multiply():
            return _Multiply()
        case Add():
            return _Add()
        case _:
            raise BuildError(f"Tezzeret cannot build the operator {operator.OP!r}.")


def _positions(value: Value) -> tuple[int, ...]:
    """The dimensions of a batch in which the positions stand."""
    first = 1 if value.kind == "sequence" else 2
    return tuple(range(first, first + len(value.size)))


def as_laid_out(result: Tensor, like: Tensor | Proxy) -> Tensor:
    """`found` in the memory format of `like`, both [batch, channels, height, width]: attention and
    some norms change it.

    A graph that is being traced stays as it is: the format is a matter of speed alone.
    """
    if isinstance(like, Proxy):
        return result
    # asked first: a tensor with one channel or one position has both formats
    if like.is_contiguous():
        return result.contiguous()
    return (
        result.contiguous(memory_format=torch.channels_last)
        if like.is_contiguous(memory_format=torch.channels_last)
        else result
    )
