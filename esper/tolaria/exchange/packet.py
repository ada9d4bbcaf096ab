"""The SystemStatePacket: what Tamiyo decides from, built at an epoch boundary."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from esper.events import Origin
from esper.events.kernel_description import description
from esper.events.records import (
    CatalogueEntry,
    KernelPublished,
    LayerState,
    RunForked,
    SeedState,
    SystemStatePacket,
)
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.seeded.layers import reads_and_writes
from esper.kasmina.seeded.statistics import SeedStatistics
from esper.lifecycle import RunState
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.step.gates import Evidence

PER_ARM = 3  # best kernels of one shape and family that a packet offers


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """Figures of an epoch: losses of the task, accuracies as fractions; metrics and score on the
    held-out split.
    """

    train_loss: float = 0.0
    train_accuracy: float = 0.0
    validation_loss: float = 0.0
    validation_accuracy: float = 0.0
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    score_name: str = ""
    higher_is_better: bool = True


def catalogue_entries(kernels: Iterable[KernelPublished]) -> tuple[CatalogueEntry, ...]:
    """The packet's form of published kernels, sorted by kernel id."""
    return tuple(
        CatalogueEntry(kernel_id=kernel.kernel_id, **description(kernel))
        # sorted: the order in which kernels were published must not decide anything
        for kernel in sorted(kernels, key=lambda kernel: kernel.kernel_id)
    )


def build(
    *,
    origin: Origin,
    state: RunState,
    growing: GrowingModel,
    recipe: Recipe,
    figures: EpochFigures,
    evidence: dict[Place, Evidence],
    statistics: dict[Place, SeedStatistics],
    kernels: Iterable[KernelPublished],
    total_steps: int,
    forked: RunForked | None = None,
) -> SystemStatePacket:
    """The packet of the present state.

    Its id is made from run, timeline and epoch: the same epoch gives the same packet.
    """
    return SystemStatePacket(
        **origin.envelope(f"packet/{state.epoch}", timeline=state.timeline),
        timeline=state.timeline,
        packet=state.epoch,
        epoch=state.epoch,
        step=state.step,
        total_steps=total_steps,
        run_seed=recipe.run.seed,
        decisions="LOCKSTEP" if recipe.decisions == "lockstep" else "LIVE",
        train_loss=figures.train_loss,
        train_accuracy=figures.train_accuracy,
        validation_loss=figures.validation_loss,
        validation_accuracy=figures.validation_accuracy,
        learning_rate=figures.learning_rate,
        gradient_norm=figures.gradient_norm,
        layers=tuple(_layer(name, state, growing, evidence, statistics) for name in growing.layers),
        catalogue=catalogue_entries(kernels),
        policy=json.dumps(recipe.tamiyo.policy, sort_keys=True),
        parent_run_id=forked.parent_run_id if forked else "",
        parent_timeline=forked.parent_timeline if forked else 0,
        parent_packet=forked.parent_packet if forked else -1,
        gate_z=recipe.gates.z,
        per_epoch=recipe.guardrails.per_epoch,
        metrics=figures.metrics,
        score=figures.score,
        score_name=figures.score_name,
        higher_is_better=figures.higher_is_better,
    )


def _layer(
    name: str,
    state: RunState,
    growing: GrowingModel,
    evidence: dict[Place, Evidence],
    statistics: dict[Place, SeedStatistics],
) -> LayerState:
    layer = growing.layers[name]
    seeds = []
    for index, (start, width) in enumerate(
        zip(layer.seeds.starts(), layer.seeds.chunks, strict=True)
    ):
        place = (name, index)
        seed, known = state.seed(*place), evidence.get(place, Evidence())
        if seed is None:
            continue
        seeds.append(
            SeedState(
                seed=index,
                chunk_start=start,
                chunk_size=width,
                stage=seed.stage,
                execution=seed.execution,
                kernel_id=seed.kernel_id,
                family=seed.family,
                decision_id=seed.decision_id,
                alpha=growing.alpha(seed, state.step),
                stage_epoch=seed.stage_epoch,
                trained_steps=known.trained_steps,
                shadow_gap=known.shadow_gap,
                shadow_gap_error=known.shadow_gap_error,
                dependence=known.dependence,
                health=growing.health[place].score,
            )
        )
    measured = [statistics[(name, index)] for index in range(len(seeds))]
    # one spoilt seed would hide the gradient of its whole layer
    squares = sum(
        figures.gradient_norm**2 for figures in measured if math.isfinite(figures.gradient_norm)
    )
    widths = layer.seeds.chunks
    total = sum(widths)
    return LayerState(
        name=name,
        kind=layer.seeds.kind.name,
        in_features=reads_and_writes(layer)[0],
        out_features=total,
        gradient_norm=squares**0.5,
        activation_variance=sum(
            # weighted: chunks differ in width where channels do not divide evenly
            figures.activation_variance * width
            for figures, width in zip(measured, widths, strict=True)
        )
        / total,
        dead_ratio=sum(
            figures.dead_ratio * width for figures, width in zip(measured, widths, strict=True)
        )
        / total,
        seeds=tuple(seeds),
        geometry=growing.geometry(name),
    )
