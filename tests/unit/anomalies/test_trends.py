"""Slopes and change points of a series."""

from __future__ import annotations

import math

import pytest
from scipy import stats  # type: ignore[import-untyped]  # no stubs in the lock

from esper.anomalies.trends import change_points, slope
from tests.unit.anomalies.planted import seeded


def test_a_slope_and_its_interval_are_those_of_scipy() -> None:
    """Theil-Sen, on series with noise."""
    for seed in range(5):
        random = seeded(seed)
        values = [2 - 0.01 * at + random.gauss(0, 0.05) for at in range(40)]
        ours = slope(values)
        theirs = stats.theilslopes(values)
        assert ours is not None
        assert (ours.slope, ours.low, ours.high) == pytest.approx(
            (theirs.slope, theirs.low_slope, theirs.high_slope), rel=0.03
        )
        assert ours.direction == "falls"


def test_a_slope_takes_no_notice_of_outliers_and_of_what_is_not_finite() -> None:
    """A line with two outliers and a NaN has the slope of the line."""
    values = [0.5 * at for at in range(30)]
    values[4], values[20], values[9] = 1e9, -1e9, math.nan
    found = slope(values)
    assert found is not None
    assert found.slope == pytest.approx(0.5)
    assert (found.points, found.direction) == (29, "rises")


def test_two_points_have_no_slope_and_noise_has_no_direction() -> None:
    """Nothing is said that the points do not show."""
    assert slope([1.0, 2.0]) is None
    random = seeded(3)
    noise = slope([random.gauss(0, 1) for _ in range(50)])
    assert noise is not None
    assert noise.direction == "level"


def test_change_points_are_found_where_they_are() -> None:
    """A bend and a jump, in noise; none in a straight line, none in a few points."""
    random = seeded(2)
    line = [3 - 0.05 * at for at in range(40)]
    bent = [*line, *([line[-1]] * 30), *([line[-1] + 1] * 30)]
    found = change_points([one + random.gauss(0, 0.03) for one in bent])
    assert found == pytest.approx([40, 70], abs=2)
    assert change_points([one + random.gauss(0, 0.03) for one in line]) == []
    assert change_points([1.0] * 50) == []
    assert change_points([5.0, 1.0, 9.0]) == []
