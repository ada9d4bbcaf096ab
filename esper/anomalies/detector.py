"""What a detector is: a pure function of a memory and an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from esper.anomalies.anomaly import Judgement
from esper.anomalies.thresholds import Thresholds
from esper.events import Event

Memory = TypeVar("Memory")


def whole_run(event: Event) -> str:
    """The scope of a detector that has one memory a run."""
    del event
    return ""


@dataclass(frozen=True, slots=True)
class Detector(Generic[Memory]):
    """A condition to look for, and how.

    Attributes:
        name: Name in alerts and rules.
        meaning: What it finds, in a few words.
        reads: Records that it is given; of others it hears nothing.
        begin: Memory before the first event. Memories are values that can be pickled.
        see: Takes memory, event and thresholds; gives the next memory and what it reads in it.
        at: Takes memory, a time in microseconds since 1970 and thresholds; gives readings of that
            time. None where time alone says nothing.
        clean: Readings in a row that do not hold, after which the condition is over.
        scope: What has a memory of its own within a run: a layer, a process.
    """

    name: str
    meaning: str
    reads: tuple[type[Event], ...]
    begin: Memory
    see: Callable[[Memory, Any, Thresholds], tuple[Memory, Sequence[Judgement]]]
    at: Callable[[Memory, int, Thresholds], Sequence[Judgement]] | None = None
    clean: int = 1
    scope: Callable[[Any], str] = whole_run
