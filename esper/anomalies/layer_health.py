"""Detectors of layers and their seeds: dead layer, stuck seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from esper.anomalies.anomaly import UNJUDGED, Judgement
from esper.anomalies.detector import Detector
from esper.anomalies.thresholds import Thresholds
from esper.events.records import EpochEnded, SeedHealth, SeedTransitioned, Stage

_LOADING: frozenset[Stage] = frozenset({"GERMINATED", "RESETTING"})
_PASSING: frozenset[Stage] = _LOADING | {
    "TRAINING",
    "BLENDING",
    "SHADOWING",
    "PROBATIONARY",
    "CULLED",
    "EMBARGOED",
}
"""Stages that a seed should leave again."""


class ChunkPulse(NamedTuple):
    """What is known of one seed's chunk."""

    dead: int = 0
    """Dead samples in a row."""
    had_gradient: bool = False


def _layer(event: SeedHealth) -> str:
    return event.layer


def _dead_layer(
    memory: Mapping[int, ChunkPulse], event: SeedHealth, thresholds: Thresholds
) -> tuple[Mapping[int, ChunkPulse], Sequence[Judgement]]:
    """A layer all of whose chunks give constants, or get no gradient any more.

    A chunk that never had a gradient is frozen, not dead.
    """
    pulse = memory.get(event.seed, ChunkPulse())
    constant = (
        event.dead_ratio >= thresholds.dead_ratio
        or event.activation_variance <= thresholds.dead_variance
    )
    no_gradient = event.gradient_norm == 0.0 and pulse.had_gradient
    dead = constant or no_gradient
    now = ChunkPulse(
        pulse.dead + 1 if dead else 0,
        pulse.had_gradient or event.gradient_norm > 0.0,
    )
    memory = {**memory, event.seed: now}
    if any(one.dead < thresholds.dead_samples for one in memory.values()):
        return memory, (Judgement(layer=event.layer),)
    what = "its output is the same for every sample" if constant else "it gets no gradient any more"
    sentence = f"Layer {event.layer} is dead: {what}."
    value = event.dead_ratio if constant else event.gradient_norm
    return memory, (Judgement("CRITICAL", value, 0.0, sentence, layer=event.layer),)


class Stay(NamedTuple):
    """Since when a seed is in a stage."""

    stage: Stage
    epoch: int
    event_id: str


Stays = Mapping[tuple[str, int], Stay]
"""Seeds by layer and index."""


def _stuck_seed(
    memory: Stays, event: SeedTransitioned | EpochEnded, thresholds: Thresholds
) -> tuple[Stays, Sequence[Judgement]]:
    """Seeds that stay for long in a stage that should pass."""
    if isinstance(event, SeedTransitioned):
        place = (event.layer, event.seed)
        stays = {key: stay for key, stay in memory.items() if key != place}
        if event.to_stage in _PASSING:
            stays[place] = Stay(event.to_stage, event.epoch, event.event_id)
        return stays, (Judgement(layer=event.layer, seed=event.seed),)
    stuck = [
        _stay(place, stay, event.epoch + 1 - stay.epoch, thresholds)
        for place, stay in memory.items()
        if event.epoch + 1 - stay.epoch >= _patience(stay.stage, thresholds)
    ]
    return memory, stuck or UNJUDGED


def _patience(stage: Stage, thresholds: Thresholds) -> int:
    return thresholds.loading_epochs if stage in _LOADING else thresholds.stuck_epochs


def _stay(place: tuple[str, int], stay: Stay, epochs: int, thresholds: Thresholds) -> Judgement:
    layer, seed = place
    sentence = f"Seed {layer}[{seed}] has been in {stay.stage} for {epochs} epochs."
    patience = _patience(stay.stage, thresholds)
    return Judgement(
        "WARNING", epochs, patience, sentence, (stay.event_id,), layer=layer, seed=seed
    )


LAYERS: tuple[Detector[Mapping[int, ChunkPulse]], Detector[Stays]] = (
    Detector(
        "dead_layer",
        "a layer whose output is constant, or whose gradient is gone",
        (SeedHealth,),
        {},
        _dead_layer,
        clean=3,
        scope=_layer,
    ),
    Detector(
        "stuck_seed",
        "a seed that stays in a stage that should pass",
        (SeedTransitioned, EpochEnded),
        {},
        _stuck_seed,
    ),
)
"""Detectors of layers and seeds."""
