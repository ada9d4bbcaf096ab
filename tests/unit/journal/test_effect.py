"""The effect of a decision: paired differences, their mean and Student's interval."""

from __future__ import annotations

import pytest

from esper.journal.effect import Branch, effect, interval, t_quantile
from esper.journal.story import EpochPoint


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (4, 2.776), (10, 2.228), (11, 2.201), (20, 2.086), (30, 2.042), (100, 1.984)],
)
def test_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    """In the table and beyond it."""
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1.1e-3)


def test_an_interval_of_known_values() -> None:
    """Mean 3 and standard deviation sqrt(2.5) of 1 to 5 give 3 +- 2.776 sqrt(0.5).

    A single value gives no interval.
    """
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.low == pytest.approx(3 - 2.776 * 0.5**0.5)
    assert found.high == pytest.approx(3 + 2.776 * 0.5**0.5)
    assert interval([7.0]) == type(found)(7.0, None, None)


def branch(order: int, accuracies: list[float]) -> Branch:
    """A branch whose loss is one minus its accuracy, from epoch 3 on."""
    points = tuple(
        EpochPoint(3 + number, 10 * number, one, 1 - one, 0.0, "", one)
        for number, one in enumerate(accuracies)
    )
    return Branch(order, "", points, "", 1.0)


def test_pairs_are_compared_with_each_other() -> None:
    """What differs between data orders but not within a pair does not widen the interval.

    Epochs that one branch lacks are left out.
    """
    with_it = [branch(0, [0.5, 0.6, 0.7]), branch(1, [0.3, 0.4, 0.5, 0.9])]
    without = [branch(0, [0.5, 0.5, 0.5]), branch(1, [0.3, 0.3, 0.3])]
    found = effect(with_it, without)
    assert [epoch for epoch, _, _ in found.curve] == [3, 4, 5]
    assert found.score.mean == pytest.approx(0.2)
    assert found.score.low == pytest.approx(0.2)
    assert found.loss.mean == pytest.approx(-0.2)
    assert found.as_json()["curve"][1]["accuracy"]["mean"] == pytest.approx(0.1)
