"""What a recipe leaves out is fitted to the length of its run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.policies import settings_of, spec_of
from esper.tolaria.recipes.fitting import fitted, too_short
from esper.tolaria.recipes.recipe import Recipe, load, names, validated


def recipe(**sections: Any) -> Recipe:
    """A recipe with nothing but these sections."""
    return validated({"name": "r", "model": "m:model", "data": "m:data", **sections})


@given(steps=st.integers(1, 10_000_000))
def test_a_run_of_any_length_has_time_for_its_kernels(steps: int) -> None:
    """Kernels begin, train, blend and are kept within the run, in whole and sensible numbers."""
    whole = fitted(recipe(), steps)
    gates, kernels = whole.gates, whole.kernels
    assert 1 <= gates.min_training_steps <= gates.max_training_steps
    assert 1 <= kernels.blend_steps <= max(1, steps)
    if steps >= 500:
        assert gates.max_training_steps + kernels.blend_steps < 0.4 * steps
    settings_of(whole.tamiyo.policy, spec_of(whole.tamiyo.policy))
    # as any recipe: what a journal records can be read again, and asks for nothing more
    again = Recipe.model_validate_json(whole.canonical())
    assert fitted(again, 3 * steps).canonical() == whole.canonical() == again.canonical()


@pytest.mark.parametrize("name", names())
def test_what_a_recipe_gives_stays(name: str) -> None:
    """Every value of a recipe that gives them all, and single ones."""
    given = load(name)
    whole = fitted(given, 1234)
    for section in ("gates", "kernels", "kasmina", "guardrails", "telemetry"):
        before, after = getattr(given, section), getattr(whole, section)
        for key in before.model_fields_set:
            assert getattr(before, key) == getattr(after, key), (section, key)
    assert given.tamiyo.policy.items() <= whole.tamiyo.policy.items()
    single = fitted(
        recipe(
            gates={"min_training_steps": 7, "min_gap": 0.5},
            kasmina={"seeds": 3},
            tamiyo={"policy": {"first_epoch": 9}},
        ),
        1000,
    )
    assert (single.gates.min_training_steps, single.gates.min_gap) == (7, 0.5)
    assert single.gates.min_gain == 0.0
    assert (single.kasmina.seeds, single.kasmina.chunk) == (3, 1)
    assert single.tamiyo.policy["first_epoch"] == 9


def test_one_bound_of_training_that_is_given_moves_the_other() -> None:
    """The least is never more than the most."""
    low = fitted(recipe(gates={"min_training_steps": 900}), 1000).gates
    assert (low.min_training_steps, low.max_training_steps) == (900, 900)
    high = fitted(recipe(gates={"max_training_steps": 3}), 1000).gates
    assert (high.min_training_steps, high.max_training_steps) == (3, 3)


def test_another_policy_gets_nothing_of_the_schedules() -> None:
    """A policy of a package has settings of its own."""
    other = recipe().model_copy(
        update={"tamiyo": recipe().tamiyo.model_copy(update={"policy": {"name": "other"}})}
    )
    assert fitted(other, 1000).tamiyo.policy == {"name": "other"}
    assert not too_short(fitted(other, 1000), 1000)


def test_a_run_that_can_keep_nothing_says_so() -> None:
    """Beginning, training, blending, shadowing and probation are five epochs at least; the sentence
    has both numbers and the remedy.
    """
    for epochs, ends in ((4, True), (5, False), (60, False)):
        short = fitted(recipe(run={"epochs": epochs}), 100 * epochs)
        assert bool(too_short(short, 100 * epochs)) is ends, epochs
    short = fitted(recipe(run={"epochs": 4}), 400)
    assert "after epoch 5, and the run has 4. Give it more epochs" in too_short(short, 400)
    late = recipe(run={"epochs": 20}, tamiyo={"policy": {"first_epoch": 19}})
    assert "after epoch 23" in too_short(fitted(late, 2000), 2000)
    alone = recipe(run={"epochs": 2}, tamiyo={"enabled": False})
    assert not too_short(fitted(alone, 200), 200)
