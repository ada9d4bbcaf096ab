"""What each family computes, written out in plain torch and independently of the interpreter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from esper.events.geometry import Geometry

Weights = Mapping[str, Tensor]


class Spatial(Protocol):
    """A formula over positions."""

    def __call__(self, x: Tensor, w: Weights, geometry: Geometry) -> Tensor:
        """[batch, channels, *positions] to [batch, channels, *positions]."""


def _linear(x: Tensor, w: Weights) -> Tensor:
    return x @ w["linear1.weight"].T + w["linear1.bias"]


def _low_rank(x: Tensor, w: Weights) -> Tensor:
    return x @ w["linear1.weight"].T @ w["linear2.weight"].T + w["linear2.bias"]


def _mlp(x: Tensor, w: Weights) -> Tensor:
    return (
        functional.gelu(x @ w["linear1.weight"].T + w["linear1.bias"]) @ w["linear2.weight"].T
        + w["linear2.bias"]
    )


def _conv1d(x: Tensor, w: Weights) -> Tensor:
    h = x[:, None, :]
    for number in (1, 2, 3):
        kernel = w[f"conv{number}.weight"]
        windows = functional.pad(h, (1, 1)).unfold(2, kernel.shape[2], 2)
        h = (
            torch.einsum("bclk,ock->bol", windows, kernel) + w[f"conv{number}.bias"][:, None]
        ).clamp(min=0)
    return h.reshape(len(x), -1) @ w["linear1.weight"].T + w["linear1.bias"]


def _gate(x: Tensor, w: Weights) -> Tensor:
    return 2 * x / (1 + torch.exp(-(x @ w["linear1.weight"].T + w["linear1.bias"])))


def _norm(x: Tensor, w: Weights) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * w["norm1.weight"]
        + w["norm1.bias"]
    )


def _attention(x: Tensor, w: Weights) -> Tensor:
    return _attend(_norm(x, w), w)


def causal_attention(x: Tensor, w: Weights) -> Tensor:
    """Each position attends to itself and earlier ones."""
    return _attend(_norm(x, w), w, causal=True)


def _attend(x: Tensor, w: Weights, *, causal: bool = False) -> Tensor:
    """[batch, positions, channels], normalised, to [batch, positions, out]; each head is 8 wide."""
    w = {name: value.flatten(1) if value.dim() > 2 else value for name, value in w.items()}
    q, k, v = (x @ w["project1.weight"].T + w["project1.bias"]).chunk(3, dim=-1)
    found = []
    for first in range(0, q.shape[-1], 8):
        mine = slice(first, first + 8)
        scores = torch.einsum("bid,bjd->bij", q[..., mine], k[..., mine]) / 8**0.5
        if causal:
            later = torch.arange(x.shape[1])[None, :] > torch.arange(x.shape[1])[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        found.append((weights / weights.sum(-1, keepdim=True)) @ v[..., mine])
    return torch.cat(found, -1) @ w["project2.weight"].T + w["project2.bias"]


def _across(channels: Tensor, x: Tensor) -> Tensor:
    return channels.reshape(-1, *[1] * (x.dim() - 2))


def _window(x: Tensor, w: Weights, name: str, geometry: Geometry) -> Tensor:
    """A convolution, dense or of each channel by itself, as the sum of what lies under each tap of
    the window.
    """
    if geometry.kind == "conv_transpose2d":
        return _spread(x, w, name, geometry)
    weight, sides = w[f"{name}.weight"], []
    for index, (kernel, dilation) in enumerate(
        zip(geometry.kernel_size, geometry.dilation, strict=True)
    ):
        more = dilation * (kernel - 1)
        sides.append(
            (more // 2, more - more // 2)
            if geometry.padding is None
            else (geometry.padding[index],) * 2
        )
    x = functional.pad(x, [number for both in reversed(sides) for number in both])
    found = _across(w[f"{name}.bias"], x)
    for tap in itertools.product(*map(range, weight.shape[2:])):
        under, own = x, weight
        for index, position in enumerate(tap):
            first, stride = position * geometry.dilation[index], geometry.stride[index]
            reached = torch.arange(geometry.output_size[index]) * stride + first
            under, own = under.index_select(2 + index, reached), own.narrow(2 + index, position, 1)
        taps = own.flatten(1)
        part = (
            under * _across(taps[:, 0], under)
            if taps.shape[1] == 1
            else torch.einsum("bc...,oc->bo...", under, taps)
        )
        found = found + part
    return found


def _spread(x: Tensor, w: Weights, name: str, geometry: Geometry) -> Tensor:
    """A transposed convolution, dense or of each channel by itself: every tap of the window adds
    what was read to the positions that it falls on, and the padding is cut off.
    """
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    numbers = zip(
        geometry.size, geometry.kernel_size, geometry.stride, geometry.dilation, strict=True
    )
    whole = [(size - 1) * stride + dilation * (k - 1) + 1 for size, k, stride, dilation in numbers]
    assert geometry.padding is not None
    room = [size + more for size, more in zip(whole, geometry.output_padding, strict=True)]
    found = x.new_zeros(len(x), len(bias), *room)
    for row, column in itertools.product(*map(range, geometry.kernel_size)):
        taps = weight[:, :, row, column]
        part = (
            x * _across(taps[:, 0], x)
            if taps.shape[1] < len(bias)
            else torch.einsum("bi...,io->bo...", x, taps)
        )
        rows, columns = (
            position * geometry.dilation[index]
            + torch.arange(geometry.size[index]) * geometry.stride[index]
            for index, position in enumerate((row, column))
        )
        placed = torch.zeros_like(found)
        placed[:, :, rows[:, None], columns] = part
        found = found + placed
    (top, left), (height, width) = geometry.padding, geometry.output_size
    return found[:, :, top : top + height, left : left + width] + _across(bias, found)


def _around(geometry: Geometry, window: int) -> Geometry:
    """A window that keeps the positions that `geometry` writes."""
    ones = (1,) * len(geometry.size)
    return Geometry(geometry.layout, geometry.output_size, (window,) * len(ones), ones, None, ones)


def _convolution(x: Tensor, w: Weights, geometry: Geometry) -> Tensor:
    h = _window(x, w, "conv1", geometry).clamp(min=0)
    h = (h + _window(h, w, "conv2", _around(geometry, 3))).clamp(min=0)
    return _window(h, w, "conv3", _around(geometry, 1))


def _depthwise(x: Tensor, w: Weights, geometry: Geometry) -> Tensor:
    return _window(_window(x, w, "conv1", geometry).clamp(min=0), w, "conv2", _around(geometry, 1))


def _pool(x: Tensor, w: Weights, geometry: Geometry) -> Tensor:
    assert x.shape[2:] == geometry.size
    squeezed = x.flatten(2).mean(2) @ w["linear1.weight"].T + w["linear1.bias"]
    excited = squeezed.clamp(min=0) @ w["linear2.weight"].T + w["linear2.bias"]
    return (x.flatten(2) * 2 * torch.sigmoid(excited)[..., None]).reshape(x.shape)


def _norm_of_channels(x: Tensor, w: Weights, geometry: Geometry) -> Tensor:
    assert x.shape[2:] == geometry.size
    rows = x.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    normal = (centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)).reshape(x.shape)
    return normal * _across(w["norm1.weight"], x) + _across(w["norm1.bias"], x)


def _attention_of_channels(x: Tensor, w: Weights, geometry: Geometry) -> Tensor:
    rows = _attend(_norm_of_channels(x, w, geometry).flatten(2).transpose(1, 2), w)
    return rows.transpose(1, 2).reshape(len(x), -1, *geometry.output_size)


FORMULAS: dict[str, Callable[[Tensor, Weights], Tensor]] = {
    "linear": _linear,
    "low_rank": _low_rank,
    "mlp": _mlp,
    "conv1d": _conv1d,
    "gate": _gate,
    "norm": _norm,
    "attention": _attention,
}
"""On features, or at each position of a sequence."""
AT_POSITIONS: dict[str, Spatial] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "depthwise": _depthwise,
    "pool": _pool,
    "norm": _norm_of_channels,
    "attention": _attention_of_channels,
}
"""On the channels and positions of a convolution."""
