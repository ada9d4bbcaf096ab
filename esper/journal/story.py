"""A run as its journal tells it: settings, environment, what was grafted, kept and given up, and a
curve. A fork's begins with its parent's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.events import JournalEvent
from esper.events.records import (
    EpochEnded,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
)
from esper.lifecycle.overview import score_of

REPORTED = ("GERMINATED", "FOSSILIZED", "CULLED")
"""Stages whose beginning is reported as a decision."""


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """What became of a seed in an epoch: GERMINATED, FOSSILIZED or CULLED, with the family of its
    kernel.
    """

    epoch: int
    layer: str
    seed: int
    stage: str
    family: str


@dataclass(frozen=True, slots=True)
class EpochPoint:
    """The end of an epoch: test and training figures, losses of the task, accuracies as fractions.

    `score` is the figure of the name `score_name`, by which runs are compared; `digest` that of the
    parameters.
    """

    epoch: int
    step: int
    accuracy: float
    loss: float
    train_loss: float
    digest: str
    score: float
    score_name: str = "accuracy"
    higher_is_better: bool = True

    @classmethod
    def of(cls, event: EpochEnded) -> EpochPoint:
        """The point of an epoch."""
        return cls(
            event.epoch,
            event.step,
            event.test_accuracy,
            event.test_loss,
            event.train_loss,
            event.parameters_digest,
            **score_of(event),
        )


@dataclass(frozen=True, slots=True)
class ForkLineage:
    """Where a fork stands in its parent, and what it changes."""

    parent: str
    timeline: int
    step: int
    epoch: int
    changes: tuple[str, ...]
    without: tuple[str, ...]

    def sentence(self) -> str:
        """The lineage for people."""
        where = f"step {self.step} (epoch {self.epoch})"
        words = [
            (
                f"forked from {self.parent} at "
                f"{where}{f' of timeline {self.timeline}' if self.timeline else ''}"
            )
        ]
        words += [f"with {', '.join(self.changes)}"] if self.changes else []
        words += (
            [f"without {', '.join(decision[:8] for decision in self.without)}"]
            if self.without
            else []
        )
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Story:
    """One run.

    `whole` says whether the curve begins with the first epoch: that of a fork whose parent is not
    at hand begins at the fork.
    """

    run_id: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    lineage: ForkLineage | None
    changes: tuple[Change, ...]
    points: tuple[EpochPoint, ...]
    status: str
    parameters: int
    whole: bool

    @property
    def steps(self) -> int:
        """Optimizer steps at the end of the last epoch."""
        return self.points[-1].step if self.points else self.lineage.step if self.lineage else 0

    def point(self, epoch: int) -> EpochPoint | None:
        """The end of an epoch."""
        return next((point for point in self.points if point.epoch == epoch), None)


def fork_of(events: Sequence[JournalEvent]) -> RunForked | None:
    """How the run of a journal was forked from another; None for one that was not."""
    return next((event for event in events[:2] if isinstance(event, RunForked)), None)


def story(events: Sequence[JournalEvent], journals: Mapping[str, Sequence[JournalEvent]]) -> Story:
    """The story of a journal that is folded already.

    `journals` has those of its ancestors, as far as they are at hand.
    """
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # the fold refused anything else
    forked, (line, whole) = fork_of(events), _line(events, journals)
    points = [EpochPoint.of(event) for event in line if isinstance(event, EpochEnded)]
    completed = next((event for event in reversed(events) if isinstance(event, RunCompleted)), None)
    return Story(
        run_id=started.run_id,
        settings=flat(json.loads(started.config)),
        environment=_environment(started),
        lineage=_lineage(forked) if forked else None,
        changes=tuple(sorted(_changes(line))),
        points=tuple(points),
        status=status_of(events),
        parameters=completed.parameters if completed else started.parameters,
        whole=whole,
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flattened |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flattened


def _line(
    events: Sequence[JournalEvent], journals: Mapping[str, Sequence[JournalEvent]]
) -> tuple[list[JournalEvent], bool]:
    """The events of a run and its ancestors that its present state comes from, and whether they
    reach back to a first step.
    """
    forked = fork_of(events)
    if forked is None:
        return present_line(events), True
    before = journals.get(forked.parent_run_id)
    if before is None:
        return present_line(events), False
    # Only what the parent had by then: what it did later is not part of the fork.
    inherited, whole = _line(before[: forked.parent_sequence], journals)
    return inherited + present_line(events), whole


def present_line(events: Iterable[JournalEvent]) -> list[JournalEvent]:
    """The events of a journal without what a rollback took back."""
    kept: list[JournalEvent] = []
    for event in events:
        if isinstance(event, RunRolledBack):
            kept = [
                earlier
                for earlier in kept
                # the epoch that ended at this very step ends again
                if earlier.step <= event.step
                and not (isinstance(earlier, EpochEnded) and earlier.epoch >= event.epoch)
            ]
        kept.append(event)
    return kept


def _changes(line: Iterable[JournalEvent]) -> Iterator[Change]:
    """What became of seeds.

    One that is culled has let go of its kernel, so the family is the one that it held before.
    """
    held: dict[tuple[str, int], str] = {}
    for event in line:
        if isinstance(event, SeedTransitioned):
            # A seed that is culled names no family any more.
            family = event.family or held.get((event.layer, event.seed), "")
            held[event.layer, event.seed] = family
            if event.to_stage in REPORTED:
                yield Change(event.epoch, event.layer, event.seed, event.to_stage, family)


def _environment(started: RunStarted) -> dict[str, Any]:
    return {
        **{f"version of {name}": version for name, version in json.loads(started.versions).items()},
        **{
            name.replace("_", " "): getattr(started, name)
            for name in ("threads", "instruction_set", "blas", "onednn")
        },
        "Esper's code": started.source_sha256[:12],
    }


def _lineage(forked: RunForked) -> ForkLineage:
    return ForkLineage(
        forked.parent_run_id,
        forked.parent_timeline,
        forked.parent_step,
        forked.epoch,
        forked.changes,
        forked.without,
    )


def status_of(events: Sequence[JournalEvent]) -> str:
    """Whether a run has finished, failed, is paused, or has not ended, by its last event."""
    last = events[-1]
    if isinstance(last, RunCompleted):
        return "finished"
    return (
        "failed"
        if isinstance(last, RunFailed)
        else "paused"
        if isinstance(last, RunPaused)
        else "not ended"
    )
