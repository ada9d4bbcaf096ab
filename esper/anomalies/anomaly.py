"""What detectors say: an anomaly, or that it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["WARNING", "CRITICAL"]
"""CRITICAL: the run is lost unless somebody acts. WARNING: it may cost time or quality."""

NO_SEED = -1
"""What stands for a seed where none is meant."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a finding is about. Findings of one subject belong to one alert.

    Attributes:
        detector: Name of the detector.
        run_id: The run.
        layer: The layer; empty where none is meant.
        seed: Index of the seed in its layer; `NO_SEED` where none is meant.
    """

    detector: str
    run_id: str
    layer: str = ""
    seed: int = NO_SEED


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A condition that holds at an event, or at a time.

    Attributes:
        subject: The detector, and what it looked at.
        severity: How bad it is.
        step: Optimizer steps completed; -1 where the event has none.
        epoch: Epochs completed; -1 where the event has none.
        when_us: Time of the event, microseconds since 1970.
        value: What was measured.
        expected: The limit that the value passed, or the value that is usual.
        sentence: What happened, for people.
        event_ids: Events that caused it, the latest last.
    """

    subject: Subject
    severity: Severity
    step: int
    epoch: int
    when_us: int
    value: float
    expected: float
    sentence: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cleared:
    """A condition no longer holds, after as many clean readings as its detector asks for.

    Attributes:
        subject: What the anomalies were about.
        step: Optimizer steps completed; -1 where the event has none.
        epoch: Epochs completed; -1 where the event has none.
        when_us: Time of the event, microseconds since 1970.
    """

    subject: Subject
    step: int
    epoch: int
    when_us: int


Finding = Anomaly | Cleared
"""What an observer gives."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a detector says of one layer or seed, or of the whole run, after an event.

    Without a severity it says that nothing is wrong there. `event_ids` are earlier events that took
    part; the observer adds the present one.
    """

    severity: Severity | None = None
    value: float = 0.0
    expected: float = 0.0
    sentence: str = ""
    event_ids: tuple[str, ...] = ()
    layer: str = ""
    seed: int = NO_SEED


UNJUDGED: tuple[Judgement, ...] = ()
"""Nothing can be said: the detector is warming up, or the event has no value."""
CLEAN: tuple[Judgement, ...] = (Judgement(),)
"""All is well with the run."""
