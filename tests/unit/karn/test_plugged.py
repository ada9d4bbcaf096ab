"""What a family of another package may do, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from esper.errors import BuildError, UsageError
from esper.events.geometry import PLAIN
from esper.karn import Budget, ChunkPlace, Family, Node, families_for, generate, innovate, templates
from esper.karn.ir import BlueprintIR
from esper.karn.operators import Linear
from esper.karn.templates import BUILT_IN, Maker, named
from tests.unit.karn.test_families import report

NODES = (Node("linear1", Linear(25, initialisation="zero")),)


def honest(place: ChunkPlace) -> BlueprintIR:
    """A blueprint as a family should make it."""
    return place.on_input("mine", "RESIDUAL", NODES)


def raises(place: ChunkPlace) -> BlueprintIR:
    """A maker with a fault."""
    raise ZeroDivisionError(place.in_features)


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Callable[[Maker], None]:
    """Add a family of another package."""

    def made(maker: Maker) -> None:
        known = named((*BUILT_IN, Family("mine", {"features": maker})))
        monkeypatch.setattr(templates, "known", lambda: known)

    return made


def test_it_comes_after_esper_s_own(bring: Callable[[Maker], None]) -> None:
    """Its blueprints are proposed for the kinds of layers that it names, behind Esper's."""
    before = innovate(report())
    bring(honest)
    assert families_for("features")[-1] == "mine"
    assert "mine" not in families_for("conv2d")
    after = innovate(report())
    assert [ir for ir in after if ir.family != "mine"] == list(before)
    assert {ir.out_features for ir in after if ir.family == "mine"} == {25}


@pytest.mark.parametrize(
    ("maker", "sentence"),
    [
        (raises, "has failed (ZeroDivisionError: 40)"),
        (lambda place: replace(honest(place), family="linear"), "gave a blueprint of 'linear'"),
        (lambda _: "a kernel", "gave 'a kernel'"),
        (lambda place: replace(honest(place), seed=1), "a blueprint for another place"),
    ],
)
def test_its_fault_costs_nobody_elses_kernels(
    bring: Callable[[Maker], None],
    maker: Maker,
    sentence: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it does wrong is one line in the log; every other family proposes as before."""
    before = innovate(report())
    bring(maker)
    with caplog.at_level(logging.WARNING):
        assert innovate(report()) == before
    assert sentence in caplog.text
    with pytest.raises(BuildError, match="of an installed package"):
        generate(
            in_features=40, out_features=25, family="mine", budget=Budget.of(20_000, 1), seed=0
        )


def test_a_fault_of_espers_own_families_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no guest's: nothing is proposed in silence without the family."""

    def faulty(_: ChunkPlace) -> BlueprintIR:
        raise BuildError("a fault of Esper")

    (first, *rest) = BUILT_IN
    own = (replace(first, makers={"features": faulty}), *rest)
    monkeypatch.setattr(templates, "BUILT_IN", own)
    monkeypatch.setattr(templates, "known", lambda: named(own))
    with pytest.raises(BuildError, match="a fault of Esper"):
        innovate(report())


def test_a_blueprint_over_the_budget_is_left_out(bring: Callable[[Maker], None]) -> None:
    """A family that does not look at the budget gets nothing beyond it."""
    bring(honest)
    few, many = Budget.of(100, 1), Budget.of(20_000, 1)
    arguments = {"in_features": 40, "out_features": 25, "family": "mine", "geometry": PLAIN}
    assert generate(**arguments, budget=few, seed=0) is None  # type: ignore[arg-type]
    assert generate(**arguments, budget=many, seed=0) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "Linear", "a b", "x" * 65, "1st"])
def test_names_that_no_event_could_carry_are_refused(name: str) -> None:
    """With what a name has to be."""
    with pytest.raises(UsageError, match="is no name of a family"):
        Family(name, {})
