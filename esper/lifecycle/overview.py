"""A run as its journal tells it, for people: light, tolerant of records that it does not know,
without the proof that a replay gives. Pure.

Tolaria's control API and Nissa each add what they alone show, in a class of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, Literal, TypeVar, cast

from esper.events import Event, JournalEvent
from esper.events.records import (
    EpochEnded,
    InstabilityDetected,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
)

Status = Literal["RUNNING", "PAUSED", "COMPLETED", "FAILED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOverview:
    """Losses of the task, accuracies as fractions, the score on the test split, times in
    microseconds since 1970.

    What is not known yet is None or empty.

    `seeds` has the stage of each seed, by layer and by the seed's number as text, as JSON has it.
    """

    run_id: str
    status: Status = "RUNNING"
    reason: str = ""
    recipe: str = ""
    decisions: str = ""
    sequence: int = -1
    timeline: int = 0
    incarnation: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    parameters: int = 0
    started_at: int = 0
    updated_at: int = 0
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None
    score_name: str = ""
    higher_is_better: bool = True
    rollbacks: int = 0
    instabilities: int = 0
    last_instability: str = ""
    seeds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing follows any more."""
        return self.status in ("COMPLETED", "FAILED")

    def stages(self) -> dict[str, int]:
        """Seeds by stage."""
        return dict(
            sorted(
                Counter(stage for layer in self.seeds.values() for stage in layer.values()).items()
            )
        )


Overview = TypeVar("Overview", bound=RunOverview)


def fold(overview: Overview, event: Event) -> Overview:
    """The overview after an event of the run's journal.

    The same object when it was folded before, or is of no journal.
    """
    # Kafka delivers at least once: an event may come again
    if not isinstance(event, JournalEvent) or event.sequence <= overview.sequence:
        return overview
    at = replace(
        overview,
        sequence=event.sequence,
        timeline=event.timeline,
        epoch=event.epoch,
        step=event.step,
        # clocks of two machines may disagree, and a resumed run may be on another
        updated_at=max(overview.updated_at, event.occurred_at),
    )
    return cast("Overview", _fold(event, at))  # `replace` keeps the class


@singledispatch
def _fold(event: Any, view: RunOverview) -> RunOverview:
    """Records without a meaning here."""
    del event
    return view


@_fold.register
def _(event: RunStarted, view: RunOverview) -> RunOverview:
    return replace(
        view,
        recipe=event.recipe,
        decisions=event.decisions,
        incarnation=event.incarnation,
        total_steps=event.total_steps,
        parameters=event.parameters,
        started_at=event.occurred_at,
        seeds={
            layer.name: {str(index): "DORMANT" for index in range(len(layer.chunks))}
            for layer in event.layers
        },
    )


@_fold.register
def _(event: SeedTransitioned, view: RunOverview) -> RunOverview:
    layer = {**view.seeds.get(event.layer, {}), str(event.seed): event.to_stage}
    return replace(view, seeds={**view.seeds, event.layer: layer})


@_fold.register
def _(event: EpochEnded, view: RunOverview) -> RunOverview:
    return replace(
        view,
        epoch=event.epoch + 1,
        train_loss=event.train_loss,
        train_accuracy=event.train_accuracy,
        validation_loss=event.validation_loss,
        validation_accuracy=event.validation_accuracy,
        loss=event.test_loss,
        accuracy=event.test_accuracy,
        **score_of(event),
    )


@_fold.register
def _(event: InstabilityDetected, view: RunOverview) -> RunOverview:
    return replace(view, instabilities=view.instabilities + 1, last_instability=event.reason)


@_fold.register
def _(event: RunForked, view: RunOverview) -> RunOverview:
    """The state that the parent had, at the epoch and step that the event itself stands at."""
    return replace(view, reason=event.reason, seeds=_stages(event))


@_fold.register
def _(event: RunRolledBack, view: RunOverview) -> RunOverview:
    """The state that the snapshot has: its seeds, and its epoch and step, which the event itself
    stands at.
    """
    return replace(view, rollbacks=view.rollbacks + 1, reason=event.reason, seeds=_stages(event))


def score_of(event: EpochEnded | RunCompleted) -> dict[str, Any]:
    """The score on the test split, its name and direction.

    Before there were tasks, the accuracy was the score.
    """
    if isinstance(event, EpochEnded):
        accuracy, score = event.test_accuracy, event.test_score
    else:
        accuracy, score = event.accuracy, event.score
    return {
        "score": score if event.score_name else accuracy,
        "score_name": event.score_name or "accuracy",
        "higher_is_better": event.higher_is_better,
    }


def _stages(event: RunForked | RunRolledBack) -> dict[str, dict[str, str]]:
    seeds: dict[str, dict[str, str]] = {}
    for seed in event.seeds:
        seeds.setdefault(seed.layer, {})[str(seed.seed)] = seed.stage
    return seeds


@_fold.register
def _(event: RunPaused, view: RunOverview) -> RunOverview:
    return replace(view, status="PAUSED", reason=event.reason)


@_fold.register
def _(event: RunResumed, view: RunOverview) -> RunOverview:
    return replace(view, status="RUNNING", reason=event.reason, incarnation=event.incarnation)


@_fold.register
def _(event: RunCompleted, view: RunOverview) -> RunOverview:
    return replace(
        view,
        status="COMPLETED",
        reason=event.outcome,
        accuracy=event.accuracy,
        **score_of(event),
        loss=event.loss,
        parameters=event.parameters,
    )


@_fold.register
def _(event: RunFailed, view: RunOverview) -> RunOverview:
    return replace(view, status="FAILED", reason=event.reason)
