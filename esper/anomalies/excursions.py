"""The shape that three detectors share: steps in a row far above what is usual."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from esper.anomalies.anomaly import CLEAN, UNJUDGED, Judgement, Severity
from esper.anomalies.smoothing import RATE, Smoothed
from esper.events.records import TrainingStep


class Excursion(NamedTuple):
    """Memory of a detector that looks for steps in a row far above the usual."""

    usual: Smoothed = Smoothed()
    step: int = -1
    event_ids: tuple[str, ...] = ()
    """The steps of the present excursion, while it is shorter than an anomaly."""


@dataclass(frozen=True, slots=True)
class ExcursionLimit:
    """From where on a value is far above the usual.

    Attributes:
        factor: Times the usual.
        deviations: Robust standard deviations of its logarithm, beside that.
        steps: Such steps in a row.
        severity: How bad that is.
    """

    factor: float
    deviations: float
    steps: int
    severity: Severity


def judged(
    memory: Excursion,
    event: TrainingStep,
    value: float,
    limit: ExcursionLimit,
    sentence: Callable[[float], str],
) -> tuple[Excursion, Sequence[Judgement]]:
    """With one more value above 0, and what it says: `sentence` tells it, given the usual value.

    A value that is not finite is far from any usual one and teaches nothing. A step that does not
    follow the last one (the run went back) begins anew.
    """
    usual = memory.usual if event.step > memory.step else Smoothed()
    finite = math.isfinite(value)
    logarithm = math.log(value) if finite else math.inf
    after = usual.after(logarithm, RATE) if finite else usual
    if not usual.ready:
        return Excursion(after, event.step), UNJUDGED
    above = logarithm - usual.level
    far = above > math.log(limit.factor) and above > limit.deviations * usual.spread
    ids = (*memory.event_ids[1 - limit.steps :], event.event_id) if far else ()
    memory = Excursion(after, event.step, ids)
    if len(ids) < limit.steps:
        return memory, CLEAN
    level = math.exp(usual.level)
    return memory, (Judgement(limit.severity, value, level, sentence(level), ids[:-1]),)
