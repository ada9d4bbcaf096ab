"""Which epoch was the best, and when patience is over."""

from __future__ import annotations

import math

import pytest

from esper.tolaria.session.cursor import Best, Cursor


@pytest.mark.parametrize(
    ("scores", "higher", "least", "best"),
    [
        ([0.1, 0.5, 0.4, 0.5], True, 0.0, Best(0.5, 1, 2)),
        ([3.0, 2.0, 2.5, 1.0], False, 0.0, Best(1.0, 3)),
        ([0.5, 0.55, 0.58], True, 0.1, Best(0.5, 0, 2)),
        ([0.5, 0.7, 0.75], True, 0.1, Best(0.7, 1, 1)),
        ([math.nan, 0.1, math.nan], True, 0.0, Best(0.1, 1, 1)),
        ([math.nan, math.nan, 2.0], False, 0.5, Best(2.0, 2)),
        ([1.0, -math.inf, math.inf], False, 0.0, Best(-math.inf, 1, 1)),
    ],
)
def test_the_best_epoch_is_found(
    scores: list[float],
    higher: bool,  # noqa: FBT001  # a case
    least: float,
    best: Best,
) -> None:
    """In the task's direction, by at least so much; what is no number is never better."""
    found = Best(scores[0], 0)
    for epoch, score in enumerate(scores[1:], start=1):
        found = found.after(score, epoch, higher=higher, least=least)
    assert found == best


def test_a_cursor_keeps_it_and_older_notes_have_none() -> None:
    """A snapshot of before says nothing of it, and one without it is as before."""
    cursor = Cursor()
    assert "best" not in cursor.state_dict()
    cursor.best = Best(0.25, 3, 2)
    other = Cursor()
    other.load_state_dict(cursor.state_dict())
    assert other.best == cursor.best
    other.load_state_dict(Cursor().state_dict())
    assert other.best is None
