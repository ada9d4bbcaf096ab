"""Validation under `no_grad`: losses by batch, paired differences with and without a kernel, and
digests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from esper.checkpoint.digests import tensors_digest
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.seeded.shadow import evaluating, left_out, standing_in
from esper.tolaria.recipes.splits import Pair

PAIRED_BATCH = 50  # samples a batch of the paired tests: 10 batches of a held-out split of 500


@dataclass(frozen=True, slots=True)
class Figures:
    """Mean loss (nats) and accuracy (fraction) over a split, and the losses of its batches.

    `failed` are the seeds whose kernels failed on the way, and were on their fallback for all of
    it.
    """

    loss: float
    accuracy: float
    batch_losses: tuple[float, ...]
    failed: tuple[Place, ...] = ()


@torch.no_grad()
def evaluate(
    growing: GrowingModel,
    split: Pair,
    *,
    batch: int = PAIRED_BATCH,
    mode: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Figures:
    """Figures of the model in evaluation mode.

    Its training mode and every random stream are as before afterwards.
    """
    switches = growing.switches
    before, failed = switches.fallback, frozenset[Place]()
    try:
        while True:
            switches.fallback = before | failed
            with evaluating(growing.module), mode():
                active = {
                    place
                    for place, grown in growing.kernels.items()
                    if grown.slot.live or place == switches.shadow
                } - switches.fallback
                switches.notes.clear(watching=bool(active))
                losses, right = _passes(growing, split, batch)
            spoilt = _failed(growing, active, losses)
            if not spoilt:
                break
            failed |= spoilt
    finally:
        switches.fallback = before
        switches.notes.clear(watching=False)
    sizes = [len(part) for part in split[1].split(batch)]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / len(split[1])
    return Figures(mean, right / len(split[1]), tuple(losses), tuple(sorted(failed)))


def _passes(growing: GrowingModel, split: Pair, batch: int) -> tuple[list[float], int]:
    """Losses of the batches, and how many samples were right: one copy from the device."""
    losses, right = [], []
    for x, y in zip(split[0].split(batch), split[1].split(batch), strict=True):
        labels = y.to(growing.numerics.device)
        logits = growing(x)
        losses.append(functional.cross_entropy(logits, labels))
        right.append((logits.argmax(-1) == labels).sum())
    return torch.stack(losses).tolist(), int(torch.stack(right).sum())


def _failed(growing: GrowingModel, active: set[Place], losses: Sequence[float]) -> set[Place]:
    """The active kernels to do the passes again without: those that raised, the first whose output
    was not finite, or all when the loss was not.
    """
    notes = growing.switches.notes
    if raised := active & notes.raised.keys():
        return raised
    if (
        active
        and notes.finite
        and not all(flags := torch.stack(list(notes.finite.values())).tolist())
    ):
        return {list(notes.finite)[flags.index(False)]}
    return set() if all(map(math.isfinite, losses)) else set(active)


def paired(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean of `before - after` over batches and its standard error.

    The error is infinite for fewer than two batches.
    """
    differences = [b - a for b, a in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    if len(differences) < 2:
        return mean, math.inf
    variance = sum((one - mean) ** 2 for one in differences) / (len(differences) - 1)
    return mean, math.sqrt(variance / len(differences))


def with_shadow(growing: GrowingModel, split: Pair, place: Place) -> Figures:
    """Figures with the TRAINING kernel at `place` standing in for its chunk."""
    return evaluate(growing, split, mode=lambda: standing_in(growing.switches, place))


def without(growing: GrowingModel, split: Pair, place: Place) -> Figures:
    """Figures with the live kernel at `place` left out."""
    return evaluate(growing, split, mode=lambda: left_out(growing.switches, place))


def parameters_digest(module: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and buffers, names sorted,
    hexadecimal.
    """
    return tensors_digest(module.state_dict())
