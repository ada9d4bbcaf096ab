"""Validation under `no_grad`: losses by batch, paired differences with and without a kernel, and
digests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.checkpoint.digests import tensors_digest
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.seeded.shadow import evaluating, left_out, standing_in
from esper.kasmina.seeded.structure import state_tensors
from esper.tolaria.recipes.splits import Split
from esper.tolaria.recipes.structures import mapped
from esper.tolaria.recipes.structures import split as batches_of
from esper.tolaria.step.calling import outcome_of
from esper.tolaria.step.tasks import Task

PAIRED_BATCH = 50  # samples a batch of the paired tests: 10 batches of a held-out split of 500


@dataclass(frozen=True, slots=True)
class Figures:
    """Mean loss and the metrics of a task over a split, and the losses of its batches.

    `failed` are the seeds whose kernels failed on the way, and were on their fallback for all of
    it.
    """

    loss: float
    metrics: Mapping[str, float]
    batch_losses: tuple[float, ...]
    failed: tuple[Place, ...] = ()

    @property
    def accuracy(self) -> float:
        """The metric of that name, a fraction; 0 where the task has none."""
        return self.metrics.get("accuracy", 0.0)


def measured_part(split: Split, samples: int) -> Split:
    """The first samples of a held-out split, which are measured; 0 takes all."""
    return mapped(lambda one: one[:samples], split) if samples else split


@torch.no_grad()
def evaluate(
    growing: GrowingModel,
    split: Split,
    task: Task,
    *,
    batch: int = PAIRED_BATCH,
    mode: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Figures:
    """Figures of the model in evaluation mode.

    Its training mode and every random stream are as before afterwards.
    """
    switches = growing.switches
    # seeds that were aside before stay so: a user's own loop may have put some there
    aside, failed = switches.fallback, frozenset[Place]()
    # each round repeats all batches: figures with and without a kernel must not mix in one mean
    while True:
        with switches.set_aside(aside | failed), evaluating(growing.module), mode():
            active = {
                place
                for place, grown in growing.kernels.items()
                if grown.slot.live or place == switches.shadow
            } - switches.fallback
            with switches.live_pass(watching=bool(active), sampling=False):
                losses, sums, units = _passes(growing, split, task, batch)
        spoilt = _failed(growing, active, losses)
        if not spoilt:
            break
        failed |= spoilt
    # the flags were read: they would hold tensors on the device until the next pass
    switches.notes.clear(watching=False)
    total = sum(units)
    # weighted: the last batch may have fewer units
    mean = sum(loss * size for loss, size in zip(losses, units, strict=True)) / total
    metrics = task.finished({name: value / total for name, value in sums.items()})
    # sorted: the order of a set of strings differs between processes
    return Figures(mean, metrics, tuple(losses), tuple(sorted(failed)))


def _passes(
    growing: GrowingModel, split: Split, task: Task, batch: int
) -> tuple[list[float], dict[str, float], list[int]]:
    """Losses of the batches, the sums of each metric over all of them, and the units in each: one
    copy from the device for the losses, one for the metrics.
    """
    losses, units = [], []
    sums: dict[str, list[Tensor]] = {metric.name: [] for metric in task.metrics}
    device = growing.numerics.device
    for part in batches_of(split, batch):
        # on the host, where it is no wait; a batch whose labels are all left out has no mean
        if not (counted := task.counted(part)):
            continue
        outcome = outcome_of(growing, task, mapped(lambda one: one.to(device), part))
        losses.append(outcome.loss)
        units.append(counted)
        for name, values in sums.items():
            values.append(outcome.sums[name])
    # counts of samples add up as whole numbers, which double precision then holds exactly
    added = [torch.stack(values).sum().double() for values in sums.values()]
    totals = torch.stack(added).tolist() if added else []
    return torch.stack(losses).tolist(), dict(zip(sums, totals, strict=True)), units


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
        # only the first in the order they ran: the later ones may just have passed its NaN on
        return {list(notes.finite)[flags.index(False)]}
    # finite outputs, infinite loss: all go; with none active the loop ends, whatever the host gives
    return set() if all(map(math.isfinite, losses)) else set(active)


def paired(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean of `before - after` over batches and its standard error.

    The error is infinite for fewer than two batches.
    """
    differences = [b - a for b, a in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    # one batch has no spread; an infinite error keeps every gate shut
    if len(differences) < 2:
        return mean, math.inf
    # paired by batch: batches differ from each other far more than a kernel changes one
    variance = sum((difference - mean) ** 2 for difference in differences) / (len(differences) - 1)
    return mean, math.sqrt(variance / len(differences))


def with_shadow(growing: GrowingModel, split: Split, task: Task, place: Place) -> Figures:
    """Figures with the TRAINING kernel at `place` standing in for its chunk."""
    return evaluate(growing, split, task, mode=lambda: standing_in(growing.switches, place))


def without(growing: GrowingModel, split: Split, task: Task, place: Place) -> Figures:
    """Figures with the live kernel at `place` left out."""
    return evaluate(growing, split, task, mode=lambda: left_out(growing.switches, place))


def parameters_digest(module: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and buffers, names sorted,
    hexadecimal.
    """
    # buffers too: running statistics decide what the model gives in evaluation
    return tensors_digest(state_tensors(module))
