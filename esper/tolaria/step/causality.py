"""Whether no output of a model depends on a later position of its input, as in a model of language:
a kernel that looked ahead would read what is to be foreseen, and every figure would be too good.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from esper.kasmina import GrowingModel
from esper.tolaria.recipes.splits import Split
from esper.tolaria.recipes.structures import leaves, mapped
from esper.tolaria.step.tasks import output_of

_CLOSE: Final = 1e-4
"""Relative difference below which outputs are equal: other numbers beside them may change how a sum
is rounded.
"""


def is_causal(growing: GrowingModel, samples: Split) -> bool:
    """Whether the outputs [N, length, ...] for the first half of the positions stay as they are
    when the inputs of the second half change.

    Nothing of model or random streams moves. A model that gives no such outputs, or none that any
    position moves, is not causal.
    """
    before = _outputs(growing, samples)
    if before is None or before.dim() != 3 or not before.is_floating_point():
        return False
    length = before.shape[1]
    half = length - length // 2
    if length < 2 or not any(_has(one, length) for _, one in leaves(samples)):
        return False
    after = _outputs(growing, mapped(lambda one: _changed(one, length), samples))
    if after is None or after.shape != before.shape:
        return False
    moved = not _same(before[:, half:], after[:, half:])
    return moved and _same(before[:, :half], after[:, :half])


def _outputs(growing: GrowingModel, samples: Split) -> Tensor | None:
    try:
        return growing.trial(lambda: output_of(growing, samples)).detach()
    # a task of the user's own may call the model as it likes, and other inputs may not suit it
    except (Exception, SystemExit):  # noqa: BLE001
        return None


def _has(tensor: Tensor, length: int) -> bool:
    return tensor.dim() >= 2 and tensor.shape[1] == length


def _changed(tensor: Tensor, length: int) -> Tensor:
    """Its second half of positions replaced by the first, backwards: numbers that a model takes."""
    if not _has(tensor, length):
        return tensor
    half = length // 2
    return torch.cat((tensor[:, : length - half], tensor[:, :half].flip(1)), 1)


def _same(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max())
    return bool((one - other).abs().max() <= _CLOSE * max(scale, 1e-6))
