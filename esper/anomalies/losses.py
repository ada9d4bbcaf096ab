"""Detectors of the loss: not finite, spike, divergence, plateau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from esper.anomalies.anomaly import CLEAN, UNJUDGED, Judgement, Severity
from esper.anomalies.detector import Detector
from esper.anomalies.excursions import Excursion, ExcursionLimit, judged
from esper.anomalies.smoothing import Smoothed
from esper.anomalies.thresholds import Thresholds
from esper.events.records import EpochEnded, TrainingStep

_SLOW_RATE = 0.02  # about the last fifty steps count
_MOST_DEVIATION = 3.0  # what one step may add to the sum, so that no outlier decides


def _not_finite(
    memory: None, event: TrainingStep | EpochEnded, thresholds: Thresholds
) -> tuple[None, Sequence[Judgement]]:
    """A loss that is NaN or infinite, of a step or on the held-out split."""
    del thresholds
    name, loss = (
        ("training loss", event.loss)
        if isinstance(event, TrainingStep)
        else ("held-out loss", event.validation_loss)
    )
    if math.isfinite(loss):
        # a clean step says nothing of the held-out loss; only what is bad counts there
        return memory, CLEAN if isinstance(event, TrainingStep) else UNJUDGED
    sentence = f"The {name} is {loss}: the run learns nothing from here on."
    return memory, (Judgement("CRITICAL", loss, 0.0, sentence),)


def _spike(
    memory: Excursion, event: TrainingStep, thresholds: Thresholds
) -> tuple[Excursion, Sequence[Judgement]]:
    """Some steps in a row far above the usual loss, as log-losses go."""
    if not 0.0 < event.loss < math.inf:
        return memory, UNJUDGED
    loss, steps = event.loss, thresholds.loss_spike_steps
    limit = ExcursionLimit(thresholds.loss_spike, thresholds.z, steps, "WARNING")
    return judged(
        memory,
        event,
        loss,
        limit,
        lambda level: (
            f"The training loss is {loss:.4g}, {loss / level:.1f} times the usual {level:.4g}, "
            f"for {steps} steps or more."
        ),
    )


class Rising(NamedTuple):
    """Memory of the divergence detector."""

    usual: Smoothed = Smoothed()
    step: int = -1
    lowest: float = math.inf
    """Lowest level of the log-loss so far."""
    total: float = 0.0
    """Cumulative sum of deviations from it, standard deviations."""


def _divergence(
    memory: Rising, event: TrainingStep, thresholds: Thresholds
) -> tuple[Rising, Sequence[Judgement]]:
    """A loss that stays above its lowest level.

    One-sided cumulative sum (Page 1954, "Continuous inspection schemes") of deviations of the
    log-loss from the lowest level that robust smoothing found, each bounded.
    """
    if not 0.0 < event.loss < math.inf:
        return memory, UNJUDGED
    if event.step <= memory.step:
        memory = Rising()
    logarithm = math.log(event.loss)
    usual = memory.usual.after(logarithm, _SLOW_RATE)
    if not memory.usual.ready:
        return Rising(usual, event.step), UNJUDGED
    lowest = min(memory.lowest, usual.level)
    deviation = min((logarithm - lowest) / usual.spread, _MOST_DEVIATION)
    total = max(0.0, memory.total + deviation - thresholds.divergence_drift)
    total = min(total, 2 * thresholds.divergence_sum)
    memory = Rising(usual, event.step, lowest, total)
    rise = math.exp(usual.level - lowest)
    if total < thresholds.divergence_sum or rise < thresholds.divergence:
        return memory, CLEAN
    sentence = (
        f"The training loss rises for long: about {math.exp(usual.level):.4g} now, after "
        f"{math.exp(lowest):.4g} at its lowest."
    )
    severity: Severity = "CRITICAL" if rise >= 2 * thresholds.divergence else "WARNING"
    return memory, (Judgement(severity, math.exp(usual.level), math.exp(lowest), sentence),)


class LowestLoss(NamedTuple):
    """Memory of the plateau detector: the best held-out loss, its epoch and event."""

    loss: float = math.inf
    epoch: int = -1
    event_id: str = ""


def _plateau(
    memory: LowestLoss, event: EpochEnded, thresholds: Thresholds
) -> tuple[LowestLoss, Sequence[Judgement]]:
    """A held-out loss that has not become better for many epochs."""
    loss = event.validation_loss
    if not math.isfinite(loss):
        return memory, UNJUDGED
    went_back = event.epoch <= memory.epoch
    least = thresholds.plateau_gain * abs(memory.loss) if memory.epoch >= 0 else 0.0
    if went_back or memory.epoch < 0 or loss < memory.loss - least:
        return LowestLoss(loss, event.epoch, event.event_id), CLEAN
    waited = event.epoch - memory.epoch
    if waited < thresholds.plateau_epochs:
        return memory, CLEAN
    sentence = (
        f"The held-out loss has not become better for {waited} epochs: {loss:.4g} now, "
        f"{memory.loss:.4g} at epoch {memory.epoch + 1}."
    )
    return memory, (Judgement("WARNING", loss, memory.loss, sentence, (memory.event_id,)),)


LOSSES: tuple[Detector[None], Detector[Excursion], Detector[Rising], Detector[LowestLoss]] = (
    Detector(
        "loss_not_finite",
        "a loss that is NaN or infinite",
        (TrainingStep, EpochEnded),
        None,
        _not_finite,
        clean=20,
    ),
    Detector(
        "loss_spike",
        "steps in a row far above the usual training loss",
        (TrainingStep,),
        Excursion(),
        _spike,
        clean=20,
    ),
    Detector(
        "divergence",
        "a training loss that rises for long",
        (TrainingStep,),
        Rising(),
        _divergence,
        clean=50,
    ),
    Detector(
        "plateau",
        "a held-out loss that no longer becomes better",
        (EpochEnded,),
        LowestLoss(),
        _plateau,
    ),
)
"""Detectors of the loss."""
