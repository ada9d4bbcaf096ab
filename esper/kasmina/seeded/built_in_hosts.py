"""Esper's own kinds of host layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from esper.events.geometry import Geometry, Kind
from esper.kasmina.seeded.host_kind import HostKind, LinearMap, Shape, gradient_of_weight


def _features(layer: nn.Linear) -> tuple[int, int]:
    return layer.in_features, layer.out_features


def _not_called(owner: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Linear layers whose weights torch's own modules read past the forward."""
    if isinstance(owner, nn.MultiheadAttention):
        yield owner.out_proj, "nn.MultiheadAttention reads its weights and never calls it"


@torch.no_grad()
def _add_columns(layer: Any, added: LinearMap) -> bool:
    """As `_add_rows`, for a weight [I, O] with a bias."""
    weight, bias = (layer._parameters.get(name) for name in ("weight", "bias"))  # noqa: SLF001  # an attribute may be computed
    if weight is None or bias is None:
        return False
    columns, rest, alpha = added.channels, added.rest, added.alpha
    merged = rest * weight[:, columns].double() + alpha * added.weight.T
    weight[:, columns] = merged.to(weight.dtype)
    shift: Tensor | float = 0.0 if added.bias is None else added.bias
    bias[columns] = (rest * bias[columns].double() + alpha * shift).to(bias.dtype)
    return True


def _gradient_by_column(layer: Any) -> Tensor | None:
    by_input = gradient_of_weight(layer)
    return None if by_input is None else by_input.T


def _columns(layer: Any) -> tuple[int, int]:
    reads, writes = layer.weight.shape
    return reads, writes


@torch.no_grad()
def _add_rows(layer: nn.Linear, added: LinearMap) -> bool:
    """Add a linear map to the rows of a Linear layer's weight; false when it has no room for the
    map's bias, or computes its weight.
    """
    weight, bias = (layer._parameters.get(name) for name in ("weight", "bias"))  # noqa: SLF001  # an attribute may be computed
    if weight is None or (bias is None and added.bias is not None):
        return False
    rows, rest, alpha = added.channels, added.rest, added.alpha
    # the map is in float64, so that only the last rounding differs from running the kernel
    weight[rows] = (rest * weight[rows].double() + alpha * added.weight).to(weight.dtype)
    if bias is not None:
        shift: Tensor | float = 0.0 if added.bias is None else added.bias
        bias[rows] = (rest * bias[rows].double() + alpha * shift).to(bias.dtype)
    return True


def _channels(layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int]:
    return layer.in_channels, layer.out_channels


def _signal(layer: nn.Conv1d, shape: Shape, batch: int) -> Geometry:
    del batch
    return _window("conv1d", layer, shape[-1:])


def _image(layer: nn.Conv2d, shape: Shape, batch: int) -> Geometry:
    del batch
    return _window("conv2d", layer, shape[-2:])


def _window(kind: Kind, layer: nn.Conv1d | nn.Conv2d, size: Shape) -> Geometry:
    """The geometry of a convolution at an input of `size` positions, from its attributes."""
    stated = layer.padding
    padding = (
        stated if isinstance(stated, tuple) else None if stated == "same" else (0,) * len(size)
    )  # the other word is "valid"
    return Geometry(
        kind, size, layer.kernel_size, layer.stride, padding, layer.dilation, layer.groups
    )


def _transposed_image(layer: nn.ConvTranspose2d, shape: Shape, batch: int) -> Geometry:
    """Its output_padding decides: a kernel is not told the `output_size` that a call may name, so a
    probe refuses a layer that is called with another.
    """
    del batch
    padding = cast("tuple[int, ...]", layer.padding)  # torch has no words for it here
    window = (layer.kernel_size, layer.stride, padding, layer.dilation)
    return Geometry("conv_transpose2d", shape[-2:], *window, layer.groups, layer.output_padding)


def _gradient_by_output(layer: nn.ConvTranspose2d) -> Tensor | None:
    """[O, I / groups, h, w] of the weight's [I, O / groups, h, w]."""
    by_input = gradient_of_weight(layer)
    if by_input is None:
        return None
    by_group: Tensor = by_input.unflatten(0, (layer.groups, -1))
    # torch numbers output channels group by group, so the group stays the outer index
    return by_group.transpose(1, 2).flatten(0, 1)


BUILT_IN: Final = (
    HostKind("Linear", nn.Linear, _features, refuses=_not_called, merge=_add_rows),
    HostKind("Conv1d", nn.Conv1d, _channels, -2, _signal),
    HostKind("Conv2d", nn.Conv2d, _channels, -3, _image, memory_format=torch.channels_last),
    HostKind(
        "ConvTranspose2d",
        nn.ConvTranspose2d,
        _channels,
        -3,
        _transposed_image,
        _gradient_by_output,
        memory_format=torch.channels_last,
    ),
)
"""Esper's own; `esper.kasmina.seeded.hosts` registers them, and those of installed packages."""


def transformers_conv1d(layer: type[nn.Module]) -> HostKind:
    """The kind of `transformers.pytorch_utils.Conv1D`: GPT-2's linear layer, with its weight as
    [I, O].
    """
    return HostKind(
        "TransformersConv1D",
        layer,
        _columns,
        gradient=_gradient_by_column,
        merge=_add_columns,
    )


OPTIONAL: Final = {
    "TransformersConv1D": ("transformers.pytorch_utils", "Conv1D", transformers_conv1d),
}
"""Kinds of layers of libraries that a model may use: module, class, and what makes the kind of it.

They are known as soon as somebody else has imported the library.
"""

_WITHOUT: Final[tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str], ...]] = (
    ((nn.Conv3d, nn.ConvTranspose3d), "kernels have two dimensions of positions at most"),
    (nn.ConvTranspose1d, "kernels have no transposed convolution of signals"),
    ((nn.Embedding, nn.EmbeddingBag), "it reads indices, and kernels read numbers"),
    ((nn.RNNBase, nn.RNNCellBase), "its output follows from a state, which kernels do not see"),
    (nn.Bilinear, "it reads two inputs, and kernels read one"),
)


def why_no_kind(layer: nn.Module) -> str:
    """Why there is no kind for a layer, in a few words."""
    reason = next((why for classes, why in _WITHOUT if isinstance(layer, classes)), "")
    return "no kind of Esper's" + (f": {reason}" if reason else "")
