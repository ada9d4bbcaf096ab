"""Detectors of time: slow steps, and a run that says nothing any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from esper.anomalies.anomaly import CLEAN, UNJUDGED, Judgement
from esper.anomalies.detector import Detector
from esper.anomalies.excursions import Excursion, ExcursionLimit, judged
from esper.anomalies.thresholds import Thresholds
from esper.events import Event
from esper.events.records import (
    EpochEnded,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    SeedHealth,
    TrainingStep,
)


def _slow_step(
    memory: Excursion, event: TrainingStep, thresholds: Thresholds
) -> tuple[Excursion, Sequence[Judgement]]:
    """Some steps in a row that take far longer than usual."""
    if event.duration_us <= 0:
        return memory, UNJUDGED
    taken, steps = event.duration_us, thresholds.slow_steps
    limit = ExcursionLimit(thresholds.slow_step, thresholds.z, steps, "WARNING")
    return judged(
        memory,
        event,
        float(taken),
        limit,
        lambda level: (
            f"A step takes {taken / 1e3:.4g} ms, {taken / level:.1f} times the usual "
            f"{level / 1e3:.4g} ms, for {steps} steps or more."
        ),
    )


class Voice(NamedTuple):
    """Memory of the silence detector; times in microseconds."""

    last_us: int = -1
    longest_us: int = 0
    """Longest time between two events of the run while it trained."""
    speaks: bool = True
    """Whether events are to be expected: the run has neither ended nor paused."""
    event_id: str = ""


def _heard(
    memory: Voice, event: Event, thresholds: Thresholds
) -> tuple[Voice, Sequence[Judgement]]:
    """Each event of a run says that it lives."""
    del thresholds
    gap = event.occurred_at - memory.last_us if memory.last_us >= 0 else 0
    # the time that a run was paused or away says nothing of its pace
    longest = memory.longest_us if isinstance(event, RunResumed) else max(memory.longest_us, gap)
    # the last telemetry of a run may be read after its pause or end, which is on another topic
    late = event.occurred_at < memory.last_us
    speaks = memory.speaks if late else not isinstance(event, RunPaused | RunCompleted | RunFailed)
    last = max(memory.last_us, event.occurred_at)
    return Voice(last, longest, speaks, memory.event_id if late else event.event_id), CLEAN


def _silent(memory: Voice, now_us: int, thresholds: Thresholds) -> Sequence[Judgement]:
    """Nothing for longer than the longest gap makes likely."""
    if not memory.speaks or memory.last_us < 0:
        return UNJUDGED
    silence = (now_us - memory.last_us) / 1e6
    limit = max(thresholds.silence_s, thresholds.silence_gaps * memory.longest_us / 1e6)
    if silence <= limit:
        return UNJUDGED
    sentence = f"The run has said nothing for {_span(silence)} and has not ended."
    return (Judgement("CRITICAL", silence, limit, sentence, (memory.event_id,)),)


def _span(seconds: float) -> str:
    """A time in words."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


TEMPO: tuple[Detector[Excursion], Detector[Voice]] = (
    Detector(
        "slow_step",
        "steps in a row that take far longer than usual",
        (TrainingStep,),
        Excursion(),
        _slow_step,
        clean=20,
    ),
    Detector(
        "stale_telemetry",
        "a run that has not ended and of which nothing comes",
        (
            RunStarted,
            TrainingStep,
            SeedHealth,
            EpochEnded,
            RunPaused,
            RunResumed,
            RunCompleted,
            RunFailed,
        ),
        Voice(),
        _heard,
        _silent,
    ),
)
"""Detectors of time."""
