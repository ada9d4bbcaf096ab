"""Detectors of the gradient: explosion and vanishing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from esper.anomalies.anomaly import CLEAN, UNJUDGED, Judgement
from esper.anomalies.detector import Detector
from esper.anomalies.excursions import Excursion, ExcursionLimit, judged
from esper.anomalies.smoothing import RATE, Smoothed
from esper.anomalies.thresholds import Thresholds
from esper.events.records import TrainingStep


def _explosion(
    memory: Excursion, event: TrainingStep, thresholds: Thresholds
) -> tuple[Excursion, Sequence[Judgement]]:
    """Some steps in a row far above the usual norm, or without a finite one.

    A few such steps at the beginning are usual: a float16 loss scale finds its size by them.
    """
    norm, steps = event.gradient_norm, thresholds.explosion_steps
    if norm <= 0.0:
        return memory, UNJUDGED
    limit = ExcursionLimit(thresholds.explosion, thresholds.z, steps, "CRITICAL")
    return judged(
        memory,
        event,
        norm,
        limit,
        lambda level: (
            f"The norm of the gradient is {norm:.4g}, {norm / level:.1f} times the usual "
            f"{level:.4g}, for {steps} steps or more."
        ),
    )


class Fading(NamedTuple):
    """Memory of the vanishing detector."""

    usual: Smoothed = Smoothed()
    step: int = -1
    event_ids: tuple[str, ...] = ()


def _vanishing(
    memory: Fading, event: TrainingStep, thresholds: Thresholds
) -> tuple[Fading, Sequence[Judgement]]:
    """Steps in a row with a small fraction of the usual norm.

    A loop that reports no norm reports 0 from the beginning, and is not judged.
    """
    norm = event.gradient_norm
    if not math.isfinite(norm):
        return memory, UNJUDGED
    usual = memory.usual if event.step > memory.step else Smoothed()
    if not usual.ready:
        begun = usual.after(math.log(norm), RATE) if norm > 0.0 else usual
        return Fading(begun, event.step), UNJUDGED
    level = math.exp(usual.level)
    if norm > thresholds.vanishing * level:
        return Fading(usual.after(math.log(norm), RATE), event.step), CLEAN
    # what vanished teaches nothing: the level stays that of before
    steps = thresholds.vanishing_steps
    ids = (*memory.event_ids[1 - steps :], event.event_id)
    memory = Fading(usual, event.step, ids)
    if len(ids) < steps:
        return memory, CLEAN
    sentence = (
        f"The norm of the gradient is {norm:.4g}, after {level:.4g} usually: the model does not "
        "learn any more."
    )
    return memory, (Judgement("CRITICAL", norm, level, sentence, ids[:-1]),)


GRADIENTS: tuple[Detector[Excursion], Detector[Fading]] = (
    Detector(
        "gradient_explosion",
        "steps in a row far above the usual norm of the gradient, or without a finite one",
        (TrainingStep,),
        Excursion(),
        _explosion,
        clean=20,
    ),
    Detector(
        "gradient_vanishing",
        "steps in a row with next to no gradient, after there was one",
        (TrainingStep,),
        Fading(),
        _vanishing,
        clean=20,
    ),
)
"""Detectors of the gradient."""
