"""Host layers: which layers of a model can have seeds, why others cannot, and the geometry that a
layer shows in a forward pass.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from esper.errors import BuildError
from esper.events.geometry import Geometry

HostKind = Literal["Linear", "Conv1d", "Conv2d"]
HOSTS: Final[dict[type[nn.Module], HostKind]] = {
    nn.Linear: "Linear",
    nn.Conv1d: "Conv1d",
    nn.Conv2d: "Conv2d",
}
CHANNEL_DIM: Final[dict[HostKind, int]] = {"Linear": -1, "Conv1d": -2, "Conv2d": -3}
"""Dimension of the channels, counted from the last: the same with and without a batch dimension."""


def host_kind(layer: nn.Module) -> HostKind | None:
    """What kind of host a layer is; a subclass is of its parent's kind. None when it is none."""
    return next((kind for host, kind in HOSTS.items() if isinstance(layer, host)), None)


def channels(layer: nn.Module) -> tuple[int, int]:
    """Channels that a host layer reads and writes; a Linear layer's features are its channels."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)  # noqa: S101  # one of HOSTS
    return layer.in_channels, layer.out_channels


def found(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of `model` that are of a host's class, by name.

    A layer that several names share comes once.
    """
    return {name: layer for name, layer in model.named_modules() if host_kind(layer) is not None}


def unsuited(model: nn.Module) -> dict[str, str]:
    """Layers of a host's class whose forward does not run, or not always, and why: seeds there
    would change nothing.
    """
    reasons: dict[int, str] = {}
    for owner in model.modules():
        if isinstance(owner, nn.MultiheadAttention):
            reasons[id(owner.out_proj)] = (
                "nn.MultiheadAttention reads its weights and never calls it"
            )
        elif isinstance(owner, nn.TransformerEncoderLayer) and _has_fast_path(owner):
            why = "nn.TransformerEncoderLayer reads its weights and does not call it in evaluation"
            reasons |= {id(owner.linear1): why, id(owner.linear2): why}
        elif isinstance(owner, LazyModuleMixin):
            reasons[id(owner)] = "its shape is not known before a first forward"
    return {
        name: reasons[id(layer)] for name, layer in found(model).items() if id(layer) in reasons
    }


def _has_fast_path(layer: nn.TransformerEncoderLayer) -> bool:
    """Whether torch may run a whole encoder layer as one operation in evaluation (conditions that
    do not depend on the input).
    """
    attention = layer.self_attn
    return bool(
        attention.batch_first
        and attention.in_proj_bias is not None
        and layer.activation_relu_or_gelu
    )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a layer's name fits one of the patterns (fnmatch)."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def seen_geometry(layer: nn.Module, reads: torch.Size, writes: torch.Size, batch: int) -> Geometry:
    """The geometry of a layer that turned a tensor of shape `reads` into one of shape `writes`, in
    a forward on `batch` samples.

    A Linear layer reads a sequence when it reads [batch, length, features]; other leading
    dimensions are positions without an order.

    Raises:
        BuildError: the layer's class writes something else than its attributes say.
    """
    kind = host_kind(layer)
    assert kind is not None  # noqa: S101  # the caller found it so
    if kind == "Linear":
        if writes != (*reads[:-1], channels(layer)[1]):
            raise BuildError(
                f"it turns {tuple(reads)} into {tuple(writes)}, which is not what a Linear "
                "layer does"
            )
        return (
            Geometry("sequence", (reads[1],))
            if len(reads) == 3 and reads[0] == batch
            else Geometry()
        )
    geometry = convolution(layer, tuple(reads[CHANNEL_DIM[kind] + 1 :]))
    if tuple(writes[CHANNEL_DIM[kind] :]) != (channels(layer)[1], *geometry.output_size):
        raise BuildError(
            f"it turns {tuple(reads)} into {tuple(writes)}, which is not what its kernel "
            "size, stride and padding give"
        )
    return geometry


def convolution(layer: nn.Module, size: tuple[int, ...]) -> Geometry:
    """The geometry of a convolution at an input of `size` positions, from its attributes."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)  # noqa: S101  # the caller found it so
    given = layer.padding
    padding = (
        given if isinstance(given, tuple) else None if given == "same" else (0,) * len(size)
    )  # the other word is "valid"
    kind: Literal["conv1d", "conv2d"] = "conv1d" if isinstance(layer, nn.Conv1d) else "conv2d"
    return Geometry(
        kind, size, layer.kernel_size, layer.stride, padding, layer.dilation, layer.groups
    )
