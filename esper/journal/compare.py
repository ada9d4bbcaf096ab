"""What differs between runs, and nothing else. Pure: stories in, differences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esper.journal.story import Change, EpochPoint, Story

SHOWN = 8
"""Epochs that a table of curves shows."""

Differences = Mapping[str, tuple[Any, ...]]
"""For each name the value of each run, None where it has none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side: `settings` and `environment` have what differs, `changes` what not every
    run did, with who did it.

    `same_epochs` counts the epochs from the first on after which all runs had the same parameters,
    bit for bit; -1 where that cannot be said.
    """

    stories: tuple[Story, ...]
    settings: Differences
    environment: Differences
    changes: Mapping[Change, tuple[bool, ...]]
    common_changes: int
    same_epochs: int

    @property
    def epochs(self) -> tuple[int, ...]:
        """Every epoch that some run has ended."""
        return tuple(sorted({point.epoch for story in self.stories for point in story.points}))

    def shown_epochs(self) -> tuple[int, ...]:
        """A few epochs, evenly spaced, the last among them."""
        epochs = self.epochs
        if len(epochs) <= SHOWN:
            return epochs
        return tuple(
            sorted(
                {epochs[round(place * (len(epochs) - 1) / (SHOWN - 1))] for place in range(SHOWN)}
            )
        )

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        runs = [story.run_id for story in self.stories]
        return {
            "runs": [_described(story) for story in self.stories],
            "settings": {
                key: dict(zip(runs, values, strict=True)) for key, values in self.settings.items()
            },
            "environment": {
                key: dict(zip(runs, values, strict=True))
                for key, values in self.environment.items()
            },
            "decisions": [
                {**asdict(change), "runs": [run for run, did in zip(runs, who, strict=True) if did]}
                for change, who in self.changes.items()
            ],
            "common_decisions": self.common_changes,
            "same_epochs": self.same_epochs,
            "curves": {
                story.run_id: [asdict(point) for point in story.points] for story in self.stories
            },
        }


def compare(stories: Sequence[Story]) -> Comparison:
    """What differs between the runs."""
    everything = sorted({change for story in stories for change in story.changes})
    who = {change: tuple(change in story.changes for story in stories) for change in everything}
    return Comparison(
        stories=tuple(stories),
        settings=differing([story.settings for story in stories]),
        environment=differing([story.environment for story in stories]),
        changes={change: did for change, did in who.items() if not all(did)},
        common_changes=sum(all(did) for did in who.values()),
        same_epochs=_same_epochs(stories),
    )


def differing(mappings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The keys whose values are not the same in all of them."""
    by_setting = {}
    for key in sorted({key for mapping in mappings for key in mapping}):
        values = tuple(mapping.get(key) for mapping in mappings)
        if any(value != values[0] for value in values):
            # Only what differs: settings that all share would hide those that do not.
            by_setting[key] = values
    return by_setting


def _same_epochs(stories: Sequence[Story]) -> int:
    if not all(story.whole for story in stories):
        return -1
    count = 0
    # the shortest run ends it: what others did later has nothing to compare with
    for points in zip(*(story.points for story in stories), strict=False):
        if len({(point.epoch, point.digest) for point in points}) > 1:
            break
        count += 1
    return count


def _described(story: Story) -> dict[str, Any]:
    last: EpochPoint | None = story.points[-1] if story.points else None
    return {
        "run_id": story.run_id,
        "status": story.status,
        "lineage": asdict(story.lineage) if story.lineage else None,
        "accuracy": last.accuracy if last else None,
        "score": last.score if last else None,
        "score_name": last.score_name if last else None,
        "loss": last.loss if last else None,
        "steps": story.steps,
        "parameters": story.parameters,
    }
