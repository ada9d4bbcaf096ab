"""How a model is trained: the task, the optimizer and the schedule that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass

from esper.kasmina.adamw import EagerAdamW
from esper.tolaria.recipes.recipe import Permit, Recipe
from esper.tolaria.step.optimizers import MakeOptimizer, optimizer_of
from esper.tolaria.step.schedules import MakeSchedule, cosine, schedule_of
from esper.tolaria.step.tasks import Task, task_of


@dataclass(frozen=True, slots=True)
class Method:
    """The parts of a recipe that say how its model is trained, looked up."""

    task: Task
    optimizer: MakeOptimizer = EagerAdamW
    schedule: MakeSchedule = cosine


def method_of(recipe: Recipe, permit: Permit) -> Method:
    """What a recipe names.

    Raises:
        UsageError: something is not there, is not what it has to be, or is not covered by `permit`.
    """
    return Method(
        task_of(recipe.task, permit),
        optimizer_of(recipe.optimizer.name, permit),
        schedule_of(recipe.schedule.name, permit),
    )
