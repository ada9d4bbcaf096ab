"""What is looked at before the first step of a run, so that a mistake in data or model is a
sentence which names split, sample and remedy, and not a run of NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from esper.errors import UsageError
from esper.kasmina import GrowingModel
from esper.tolaria.recipes.splits import SPLITS, Split, Splits, place_in
from esper.tolaria.recipes.structures import leaves, mapped, size
from esper.tolaria.step.calling import outcome_of, output_by
from esper.tolaria.step.causality import is_causal
from esper.tolaria.step.evaluation import PAIRED_BATCH, measured_part
from esper.tolaria.step.tasks import Task

PROBED: Final = 3
"""Samples of a forward that only looks."""


def probe(
    growing: GrowingModel, split: Split, task: Task, where: str = " on the train split"
) -> dict[str, str]:
    """Let the layers show their geometry in a forward of the task on the first samples.

    Raises:
        UsageError: no layer is left, or the model or the task raises.
    """
    batch = first(growing, split)
    # what a task can examine is examined before its loss is asked for
    forward = outcome_of if task.examine is None else output_by
    refused = growing.probe_by(lambda: forward(growing, task, batch, where), samples=size(batch))
    return refused | growing.keep_order() if is_causal(growing, batch) else refused


def first(growing: GrowingModel, split: Split) -> Split:
    """The first samples of a split, on the device."""
    return mapped(lambda one: one[:PROBED].to(growing.numerics.device), split)


def require_usable(
    growing: GrowingModel, task: Task, splits: Splits, batch: int, measured: int = 0
) -> Iterator[str]:
    """Look at the splits of a run whose steps have `batch` samples, and of whose held-out ones
    `measured` are measured, 0 being all. What is strange without being wrong is given as sentences.

    Raises:
        UsageError: a split cannot be trained on or measured.
    """
    for name in SPLITS:
        split = getattr(splits, name)
        samples = batch if name == "train" else size(split)
        require_fit(growing, task, split, f"The {name} split", samples)
    yield from _same(splits)
    yield from few_held_out(measured_part(splits.validation, measured), "The validation split")


def require_fit(growing: GrowingModel, task: Task, split: Split, what: str, batch: int) -> None:
    """Make sure that the model, the task and a split fit each other.

    Raises:
        UsageError: a number is not finite, or shapes, types or labels are not what the task needs;
            or the model or the task raises.
    """
    _require_finite(split, what)
    samples, where = first(growing, split), f" on {what[:1].lower()}{what[1:]}"
    if task.examine is not None:
        output = growing.trial(lambda: output_by(growing, task, samples, where))
        task.examine(output, split, what, batch)
    growing.trial(lambda: outcome_of(growing, task, samples, where))
    if not task.counted(split):
        raise UsageError(f"{what} has nothing that task {task.name} counts: give labels.")


def few_held_out(split: Split, what: str) -> Iterator[str]:
    """Say that no gate can open: a paired test needs two batches."""
    if (samples := size(split)) <= PAIRED_BATCH:
        yield (
            f"{what} has {samples} samples, one batch of {PAIRED_BATCH}: a gate compares batches, "
            f"so no kernel can be kept; {PAIRED_BATCH + 1} are the least, and "
            f"{10 * PAIRED_BATCH} make a good test."
        )


def _require_finite(split: Split, what: str) -> None:
    for path, tensor in leaves(split):
        if not tensor.is_floating_point():
            continue
        finite = torch.isfinite(tensor)
        # minus infinity is how a mask of attention says no
        if any("mask" in str(part) for part in path):
            finite = finite | (tensor == -math.inf)
        if bool(finite.all()):
            continue
        sample = int(_of_samples(~finite).nonzero()[0, 0])
        raise UsageError(
            f"{what} has {_said(tensor[sample])} in {place_in(split, path)} at sample {sample} "
            f"(and {int(_of_samples(~finite).sum()) - 1} others): leave such samples out, or "
            "replace the numbers, by torch.nan_to_num(...)."
        )


def _of_samples(flags: Tensor) -> Tensor:
    return flags.flatten(1).any(1) if flags.dim() > 1 else flags


def _said(sample: Tensor) -> str:
    return "NaN" if bool(torch.isnan(sample).any()) else "an infinite number"


def _same(splits: Splits) -> Iterator[str]:
    """Splits that are one and the same."""
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        pairs = zip(leaves(getattr(splits, one)), leaves(getattr(splits, other)), strict=False)
        if all(
            a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
            for (_, a), (_, b) in pairs
        ):
            yield (
                f"The {one} and {other} splits are the same samples: what is measured on them is "
                "no measure of new ones."
            )
