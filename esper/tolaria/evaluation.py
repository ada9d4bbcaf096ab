"""Validation under `no_grad`: losses by batch, paired differences with and without a kernel, and digests."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.shadow import left_out, standing_in
from esper.tolaria.splits import Pair

PAIRED_BATCH = 50  # samples a batch of the paired tests: 10 batches of a held-out split of 500


@dataclass(frozen=True, slots=True)
class Figures:
    """Mean loss (nats) and accuracy (fraction) over a split, and the losses of its batches."""

    loss: float
    accuracy: float
    batch_losses: tuple[float, ...]


@torch.no_grad()
def evaluate(
    module: nn.Module, split: Pair, *, batch: int = PAIRED_BATCH, mode: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Figures:
    """Figures of `module` in evaluation mode; its training mode and every random stream are as before afterwards."""
    inputs, labels = split
    training = module.training
    module.eval()
    losses, right = [], 0
    with mode():
        for x, y in zip(inputs.split(batch), labels.split(batch), strict=True):
            logits = module(x)
            losses.append(functional.cross_entropy(logits, y).item())
            right += int((logits.argmax(-1) == y).sum())
    module.train(training)
    sizes = [len(part) for part in labels.split(batch)]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / len(labels)
    return Figures(mean, right / len(labels), tuple(losses))


def paired(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean of `before - after` over batches and its standard error; the error is infinite for fewer than two batches."""
    differences = [b - a for b, a in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    if len(differences) < 2:
        return mean, math.inf
    variance = sum((one - mean) ** 2 for one in differences) / (len(differences) - 1)
    return mean, math.sqrt(variance / len(differences))


def with_shadow(growing: GrowingModel, split: Pair, place: Place) -> Figures:
    """Figures with the TRAINING kernel at `place` standing in for its chunk."""
    return evaluate(growing.module, split, mode=lambda: standing_in(growing.switches, place))


def without(growing: GrowingModel, split: Pair, place: Place) -> Figures:
    """Figures with the live kernel at `place` left out."""
    return evaluate(growing.module, split, mode=lambda: left_out(growing.switches, place))


def parameters_digest(module: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and buffers, names sorted, hexadecimal."""
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The digest of a state dictionary, as `parameters_digest` gives it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain: Tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tuple(plain.shape)}\x1f{plain.dtype}\x1f".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
