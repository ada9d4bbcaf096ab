"""What a recipe leaves out is fitted to the length of its run, so that growth has the time that it
needs, in a run of 500 steps and in one of 500,000.

Fitted are numbers that count steps or epochs, and what a win is worth. A value that the recipe
gives stays. What was fitted stands in the run's journal as if it had been given, so a run that goes
on, is replayed or forked never asks this again. The fractions were found on hosts that are too
narrow for their task, of images and of a table (`docs/growth.md`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from esper.kasmina import CHUNK
from esper.policies import SCHEDULE, ScheduleSettings, settings_of
from esper.tolaria.recipes.recipe import Recipe

TRAINING: Final = (0.03, 0.15)
"""Shadow steps before a kernel may blend, and before it is given up, as fractions of the steps."""
BLENDING: Final = 0.03
"""Steps of the blending ramp, as a fraction of the steps."""
FIRST: Final = 0.05
"""The fraction of the steps before which nothing grows: the host learns faster than any kernel."""
AT_ONCE: Final = 3
"""Kernels on trial at once, each with a shadow pass in every step."""
LEAST_STEPS: Final = 10
"""A kernel is trained for this many steps at least."""
WIN: Final = 0.01
"""What a kernel has to win, as a fraction of the held-out loss: losses have all kinds of units."""


def fitted(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of a new run of `steps` optimizer steps: what it leaves out has values that fit.

    Pure; the same recipe and steps give the same.
    """
    gates = _gates(recipe, steps)
    sections: dict[str, BaseModel] = {
        "gates": _filled(recipe.gates, gates),
        "kernels": _filled(
            recipe.kernels,
            {
                "blend_steps": max(1, round(BLENDING * steps)),
                "warmup_steps": min(20, max(1, steps // 50)),
                "shadow_passes": AT_ONCE,
            },
        ),
    }
    if "seeds" not in recipe.kasmina.model_fields_set:
        sections["kasmina"] = _filled(recipe.kasmina, {"chunk": CHUNK})
    policy = recipe.tamiyo.policy
    if policy.get("name", SCHEDULE.name) == SCHEDULE.name:
        sections["tamiyo"] = recipe.tamiyo.model_copy(
            update={"policy": {**_policy(sections["gates"]), **policy}}
        )
    return recipe.model_copy(update=sections)


def too_short(recipe: Recipe, steps: int) -> str:
    """Why a run of `steps` optimizer steps can keep no kernel, in a sentence with the remedy; empty
    where it can.
    """
    epochs = recipe.run.epochs
    policy = recipe.tamiyo.policy
    if not recipe.tamiyo.enabled or policy.get("name", SCHEDULE.name) != SCHEDULE.name:
        return ""
    settings = settings_of(policy, SCHEDULE)
    assert isinstance(settings, ScheduleSettings)  # noqa: S101  # those of this policy
    an_epoch = steps / epochs
    begun = max(settings.first_epoch, math.ceil(settings.first_fraction * epochs), 1)
    ends = (
        begun
        + max(1, math.ceil(recipe.gates.min_training_steps / an_epoch))
        + max(1, math.ceil(recipe.kernels.blend_steps / an_epoch))
        + recipe.gates.shadow_epochs
        + settings.fossilise_after_epochs
    )
    if ends <= epochs:
        return ""
    return (
        f"This run can keep no kernel: the first would be kept after epoch {ends}, and the run has "
        f"{epochs}. Give it more epochs of fewer steps, or lower gates.min_training_steps, "
        "kernels.blend_steps or tamiyo.policy.first_epoch."
    )


def _gates(recipe: Recipe, steps: int) -> dict[str, Any]:
    least, most = (max(LEAST_STEPS, round(part * steps)) for part in TRAINING)
    given = recipe.gates.model_fields_set
    # where one of both is given, the other follows it
    if "min_training_steps" in given:
        most = max(most, recipe.gates.min_training_steps)
    if "max_training_steps" in given:
        least = min(least, recipe.gates.max_training_steps)
    values = {
        "min_training_steps": least,
        "max_training_steps": most,
        "shadow_epochs": 1,
        "embargo_epochs": 2,
    }
    # in nats or relative to the loss: whoever gives one bound wants no other
    return (
        values if given & {"min_gap", "min_gain"} else {**values, "min_gap": 0.0, "min_gain": WIN}
    )


def _policy(gates: Any) -> dict[str, Any]:
    return {
        "first_epoch": 1,
        "first_fraction": FIRST,
        "every_epochs": 1,
        "max_active": 8,
        "max_training": AT_ONCE,
        # between the gate's first look and its last
        "cull_training_after_steps": (gates.min_training_steps + gates.max_training_steps) // 2,
        "fossilise_after_epochs": 1,
    }


def _filled(section: Any, values: Mapping[str, Any]) -> Any:
    """The section with `values` for what it was not given."""
    missing = {key: one for key, one in values.items() if key not in section.model_fields_set}
    return section.model_copy(update=missing)
