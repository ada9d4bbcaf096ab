"""What the page hears while a run goes: the latest messages, for whoever is or comes back.

Nothing waits for a browser: messages are kept, readers take what is new at their own pace, and one
that was away too long is told to ask the history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from esper.clock import Clock
from esper.events import Event
from esper.events.records import (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    AlertRaised,
    AlertResolved,
    CounterfactualMeasured,
    EpochEnded,
    EpochReviewed,
    RunForked,
    RunRolledBack,
    SeedTransitioned,
    TrainingStep,
)
from esper.lifecycle.overview import RunOverview

KEPT: Final = 10_000
"""Messages that are kept; a reader that misses more asks the history."""
KEPT_VALUES: Final = 500_000
"""Values of metrics within them, some 100 bytes each: a step may have thousands."""
_OVERLAP_US: Final = 30_000_000
"""How far back a reader begins that has nothing yet: what it reads from the history may end some
seconds before now.
"""
Kind = Literal["steps", "epoch", "move", "decisions", "alerts", "run"]
_DECIDED: Final = (
    EpochReviewed,
    AdaptationApplied,
    AdaptationRejected,
    AdaptationOutcome,
    CounterfactualMeasured,
    RunForked,
    RunRolledBack,
)
_CHANGED: Final = {"changed": True}


@dataclass(frozen=True, slots=True)
class Told:
    """One message: its number, when it came, whose it is, and what it says.

    For `steps` the event itself is kept, since most are never asked for.
    """

    number: int
    at_us: int
    run_id: str
    kind: Kind
    said: TrainingStep | Mapping[str, Any]

    @property
    def values(self) -> int:
        """What it takes of `KEPT_VALUES`."""
        return len(self.said.metrics if isinstance(self.said, TrainingStep) else self.said)


class Broadcast:
    """The messages of this life of the worker, numbered from 0.

    `began` tells lives apart.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.began = clock.now_us()
        self._told: deque[Told] = deque()
        self._next = self._values = 0

    def take(self, event: Event, view: RunOverview | None) -> None:
        """Keep what the page shows of an event; `view` is its run after it, where it has one."""
        match event:
            case TrainingStep():
                self.tell(event.run_id, "steps", event)
            case EpochEnded():
                self.tell(event.run_id, "epoch", _epoch(event))
            case SeedTransitioned():
                self.tell(event.run_id, "move", _move(event))
            case AlertRaised() | AlertResolved():
                self.tell(event.run_id, "alerts", _CHANGED)
            case _ if isinstance(event, _DECIDED):
                self.tell(event.run_id, "decisions", _CHANGED)
            case _:
                pass
        if view is not None:
            self.tell(view.run_id, "run", _run(view))

    def tell(self, run_id: str, kind: Kind, said: TrainingStep | Mapping[str, Any]) -> None:
        """Keep a message for readers of a run; those of kind `run` are for all readers."""
        told = Told(self._next, self._clock.now_us(), run_id, kind, said)
        self._told.append(told)
        self._next += 1
        self._values += told.values
        while len(self._told) > KEPT or self._values > KEPT_VALUES:
            self._values -= self._told.popleft().values

    def begin(self, run_id: str, last: str) -> tuple[bool, int]:
        """Where a reader goes on that had `last`, an id of `identity`: whether it misses nothing,
        and the number of its first message.
        """
        began, _, number = last.partition(".")
        if began == str(self.began) and number.isdecimal():
            wanted = int(number) + 1
            if self._first <= wanted <= self._next:
                return True, wanted
        since = self._clock.now_us() - _OVERLAP_US
        recent = [one.number for one in self._told if one.at_us >= since and one.run_id == run_id]
        return False, min(recent, default=self._next)

    def since(self, number: int, run_id: str) -> tuple[list[Told], int, bool]:
        """The messages from a number on that a reader of a run is told (of all runs' states, where
        `run_id` is empty), the number of the next, and whether some are not kept any more.
        """
        missed = self._first > number
        new: list[Told] = []
        for one in reversed(self._told):
            if one.number < number:
                break
            if one.kind == "run" or one.run_id == run_id:
                new.append(one)
        return new[::-1], self._next, missed

    @property
    def _first(self) -> int:
        """The number of the oldest message that is kept."""
        return self._told[0].number if self._told else self._next

    def identity(self, number: int) -> str:
        """The id of a message, which a reader that comes back gives."""
        return f"{self.began}.{number}"


def joined(told: list[Told]) -> Iterator[tuple[int, Kind, Mapping[str, Any]]]:
    """Messages as they are sent: steps in a row as columns, of each run's states the last."""
    latest = {one.run_id: one.number for one in told if one.kind == "run"}
    steps: list[TrainingStep] = []
    number = -1
    for one in told:
        if isinstance(one.said, TrainingStep):
            steps.append(one.said)
            number = one.number
            continue
        if one.kind == "run" and latest[one.run_id] != one.number:
            continue
        if steps:
            yield number, "steps", columns(steps)
            steps = []
        yield one.number, one.kind, one.said
    if steps:
        yield number, "steps", columns(steps)


def columns(steps: list[TrainingStep]) -> dict[str, list[float | None]]:
    """Steps as one list a curve."""
    names = {name for step in steps for name in step.metrics}
    return {name: [step.metrics.get(name) for step in steps] for name in sorted(names)} | {
        "step": [step.step for step in steps],
        "training loss": [step.loss for step in steps],
        "training accuracy": [step.accuracy for step in steps],
        "gradient norm": [step.gradient_norm for step in steps],
        "learning rate": [step.learning_rate for step in steps],
        "step time": [step.duration_us / 1e3 for step in steps],
    }


def _epoch(event: EpochEnded) -> dict[str, Any]:
    score = event.score if event.score_name else event.validation_accuracy
    return {f"held-out {name}": value for name, value in event.metrics.items()} | {
        "epoch": event.epoch + 1,
        "step": event.step,
        "held-out loss": event.validation_loss,
        "held-out accuracy": event.validation_accuracy,
        "test loss": event.test_loss,
        "test accuracy": event.test_accuracy,
        "score": score,
        "test score": event.test_score if event.score_name else event.test_accuracy,
        "score_name": event.score_name or "accuracy",
    }


def _move(event: SeedTransitioned) -> dict[str, Any]:
    return {
        "layer": event.layer,
        "seed": event.seed,
        "timeline": event.timeline,
        "epoch": event.epoch,
        "step": event.step,
        "from_stage": event.from_stage,
        "to_stage": event.to_stage,
        "family": event.family,
        "kernel_id": event.kernel_id,
        "decision_id": event.decision_id,
        "alpha": event.alpha,
        "reason": event.reason,
    }


def _run(view: RunOverview) -> dict[str, Any]:
    return {
        "run_id": view.run_id,
        # which end it was the history knows: a page that hears this asks for the run again
        "state": "FINISHED" if view.status == "COMPLETED" else view.status,
        "epochs": view.epoch,
        "steps": view.step,
        "loss": view.loss,
        "accuracy": view.accuracy,
    }
