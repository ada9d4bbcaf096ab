"""The detectors over synthetic runs with planted faults, and without."""

from __future__ import annotations

from esper.anomalies import DETECTORS
from tests.unit.anomalies.planted import PLANTS, markdown, measure


def test_detectors_find_what_is_planted_and_little_else() -> None:
    """Each finds 95 % of its faults or more, and raises at most one alert in 100,000 steps of runs
    in which nothing is wrong.
    """
    table = measure(trials=40, runs=150, seed=7)
    text = markdown(table)
    assert {one.detector for one in table} == {detector.name for detector in DETECTORS}
    assert all(one.found >= 0.95 for one in table), text
    assert all(one.false_alarms <= 1.0 for one in table), text


def test_every_detector_has_a_fault() -> None:
    """A detector without one would have no figure in the table."""
    assert set(PLANTS) == {detector.name for detector in DETECTORS}
