"""A kind of layer that can have seeds, as an object: all that Esper asks about a layer's class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.events.geometry import PLAIN, Geometry

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
Shape = tuple[int, ...]
"""Dimensions of a tensor."""


@dataclass(frozen=True, slots=True)
class LinearMap:
    """What a harvested kernel adds to a chunk, where it is a linear map of the layer's input: the
    chunk becomes `rest * chunk + alpha * (input @ weight.T + bias)`.

    Attributes:
        channels: The chunk's among the layer's output channels.
        rest: Share of the host's chunk that stays.
        alpha: Share of the map.
        weight: [C, I] in float64.
        bias: [C] in float64; None where the map has none.
    """

    channels: slice
    rest: float
    alpha: float
    weight: Tensor
    bias: Tensor | None


class Seeded(nn.Module):
    """A layer that has seeds; `esper.kasmina.seeded.layers` makes them of hosts."""


def along_last(layer: nn.Module, shape: Shape, batch: int) -> Geometry:
    """The geometry of a layer that works along the last dimension: a sequence for an input of
    [batch, length, features], else features at positions without an order.
    """
    del layer
    if len(shape) == 3 and shape[0] == batch:
        return Geometry("sequence", (shape[1],))
    return PLAIN


def gradient_of_weight(layer: nn.Module) -> Tensor | None:
    """The gradient of `layer.weight`, [O, ...].

    None where there is none, as for a weight that is parametrised.
    """
    weight = layer._parameters.get("weight")  # noqa: SLF001  # an attribute may be computed
    return None if weight is None else weight.grad


def runs_all(owner: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Nothing: every layer of the module runs."""
    del owner
    yield from ()


@dataclass(frozen=True, eq=False)
class HostKind:
    """A kind of host layer.

    A layer is of the kind of its class, or of the nearest parent that has one; its seeded class is
    a subclass of its own. It is a module with parameters of its own and one tensor as its first
    input and its output, [B, *shape] or without B. Whatever its parameters, its output has to be
    what the input alone decides: kernels see nothing else.

    Attributes:
        name: What inventory, reports and packets call it: a letter, then letters, digits,
            underscores.
        layer: The torch class.
        channels: Channels that a layer reads and writes (features count as channels).
        channel_dim: Dimension of the channels, counted from the last, so that it is the same
            without a batch dimension: -1 for features, -2 for signals, -3 for images.
        geometry: How a layer's output positions follow from those of an input of some shape, in a
            forward on `batch` samples. The layer has to write what it says: a probe compares.
            Raises BuildError with the reason for a layer that no kernel could be made for.
        gradient: Gradient of a layer's weight with the output channels first, [O, ...]; None where
            there is none. Statistics take the norm of each chunk's rows.
        refuses: For any module of a model: the layers of it whose forward does not run, or not
            always, and why. Seeds there would change nothing.
        merge: Makes a linear map part of a layer's own parameters, in place, when the model is
            harvested; false where it cannot. None: the kernel stays beside the layer. It is asked
            only of layers with the forward and the train of `layer` that share no parameter with
            others, and whose weight nothing computes or moves before a forward.
        memory_format: That of the output with a batch dimension, if another than contiguous has to
            be kept: where the host's output has it, the mixed output gets it.

    Raises:
        UsageError: a name that no event could carry, a class that is none, or another dimension.
    """

    name: str
    layer: type[nn.Module]
    channels: Callable[[Any], tuple[int, int]]
    channel_dim: int = -1
    geometry: Callable[[Any, Shape, int], Geometry] = along_last
    gradient: Callable[[Any], Tensor | None] = gradient_of_weight
    refuses: Callable[[nn.Module], Iterator[tuple[nn.Module, str]]] = runs_all
    merge: Callable[[Any, LinearMap], bool] | None = None
    memory_format: torch.memory_format | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no name of a kind of layer: it takes a letter, then letters, "
                "digits and underscores, 64 at most."
            )
        if not (isinstance(self.layer, type) and issubclass(self.layer, nn.Module)):
            raise UsageError(f"The layer of kind {self.name} has to be a class of torch.nn.Module.")
        if self.channel_dim not in (-1, -2, -3):
            raise UsageError(
                f"The channel_dim of kind {self.name} is {self.channel_dim}; it is -1 (features), "
                "-2 (signals) or -3 (images)."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> HostKind:
        """Itself: models are copied, kinds of layers are not."""
        return self

    @property
    def at_each_position(self) -> bool:
        """Whether layers work on any leading dimensions, and so kernels of features at each of
        them.
        """
        return self.channel_dim == -1

    def written(self, layer: nn.Module, reads: Shape, geometry: Geometry) -> Shape:
        """The shape of the output for an input of shape `reads`."""
        positions = () if self.at_each_position else geometry.output_size
        return (*reads[: self.channel_dim], self.channels(layer)[1], *positions)
