"""How commands show scores: accuracies in percent, others as plain numbers."""

from __future__ import annotations

from collections.abc import Iterable

from esper.journal.story import EpochPoint

ACCURACY = "accuracy"


def title(points: Iterable[EpochPoint]) -> str:
    """The name of a score that all points share; of different ones, `score`."""
    names = {point.score_name for point in points}
    return names.pop().replace("_", " ") if len(names) == 1 else "score" if names else ACCURACY


def shown(point: EpochPoint, digits: int = 2) -> str:
    """A point's score; `digits` after the comma of a percentage."""
    return number(point.score, point.score_name, digits)


def number(value: float, name: str, digits: int = 2) -> str:
    """A score of that name."""
    return f"{value:.{digits}%}" if name == ACCURACY else f"{value:.4g}"


def difference(value: float, name: str) -> str:
    """A difference of two scores: of accuracies in percentage points."""
    return f"{100 * value:+.2f}" if name == ACCURACY else f"{value:+.4g}"
