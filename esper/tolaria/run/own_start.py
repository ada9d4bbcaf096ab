"""The beginning of a run in a user's own loop: new, or where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from esper.checkpoint import open_tensors
from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.kasmina import GrowingModel
from esper.tolaria.recipes.environment import DATA, observe
from esper.tolaria.recipes.fitting import fitted
from esper.tolaria.recipes.recipe import OWNER, Recipe, validated
from esper.tolaria.recipes.splits import Split, checked, digest_of_split
from esper.tolaria.recipes.structures import size
from esper.tolaria.record.resume import Wanted, differences, recipe_of
from esper.tolaria.record.snapshot_content import RunSnapshot
from esper.tolaria.run.own_loop import Growth, OwnOptimizer
from esper.tolaria.run.own_script import Script
from esper.tolaria.run.past import Past, nothing, past
from esper.tolaria.run.trainee import data_digest, kernel_training
from esper.tolaria.run.wiring import RunContext, rig
from esper.tolaria.step.optimizers import UNSUITED
from esper.tolaria.step.preflight import few_held_out, probe, require_fit
from esper.tolaria.step.schedules import fractions_of, schedule_of
from esper.tolaria.step.tasks import Task, task_of

OWN_LOOP = "own.loop:model"
"""The model of a run in a user's own loop, whose loop and data are not Esper's."""


@dataclass(frozen=True, slots=True)
class OwnLoop:
    """What `esper.grow` was given: see there."""

    model: nn.Module
    optimizer: Optimizer
    held_out: Split
    steps: int
    seed: int
    task: Task | str | Mapping[str, object]
    settings: Mapping[str, Any]

    def recipe(self) -> Recipe:
        """The recipe that it amounts to.

        Raises:
            UsageError: the settings are none.
        """
        return validated(
            {
                "name": "own-loop",
                "model": OWN_LOOP,
                "data": "own.loop:data",
                "task": self.task.name if isinstance(self.task, Task) else self.task,
                "run": {"seed": self.seed},
                **self.settings,
            }
        )

    def require(self, growing: GrowingModel) -> None:
        """Refuse what no run could begin with.

        Raises:
            UsageError: model, optimizer, held-out split or steps make no sense.
        """
        if not any(
            parameter is own
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            for own in growing.host_parameters
        ):
            raise UsageError(
                "The optimizer has none of the model's parameters; make it from "
                "model.parameters() before esper.grow(...)."
            )
        if not growing.layers:
            raise UsageError(
                "The model has no seeds; call esper.germinate(model) before esper.grow(model, ...)."
            )
        kind = type(self.optimizer)
        if kind.__module__.startswith("torch.") and kind.__name__ in UNSUITED:
            raise UsageError(f"{kind.__name__} {UNSUITED[kind.__name__]} Take another optimizer.")
        if self.steps < 1:
            raise UsageError(
                "steps is the number of optimizer steps that the loop will do: give 1 or more, "
                f"not {self.steps}."
            )


def begin(
    asked: OwnLoop,
    place: RunContext,
    stack: ExitStack,
    *,
    resume: bool = False,
    script: Script | None = None,
    wanted: Wanted | None = None,
) -> Growth:
    """Begin a run around a germinated model, or go on with it; `script` is the file that does, and
    `wanted` says at which snapshots.

    Raises:
        UsageError: what was asked for makes no sense, the run id is taken, or there is no such run
            to go on with.
        CorruptError: the journal was changed.
    """
    recipe = fitted(asked.recipe(), asked.steps)
    task = asked.task if isinstance(asked.task, Task) else task_of(recipe.task, OWNER)
    growing = GrowingModel(asked.model, training=kernel_training(recipe))
    asked.require(growing)
    schedule = schedule_of(recipe.schedule.name, OWNER)
    fractions = fractions_of(recipe.schedule, schedule, asked.steps, [recipe.kernels.learning_rate])
    held_out = checked(asked.held_out, "held_out")
    probe(growing, held_out, task, " on held_out")
    require_fit(growing, task, held_out, "held_out", size(held_out))
    for sentence in few_held_out(held_out, "held_out"):
        place.progress.say(sentence)
    # of the data that Esper sees now: what the loop trains on is told from its first batch
    digest = digest_of_split(held_out)
    environment = observe({DATA: digest, **(script.inputs if script else {})})
    own = OwnOptimizer(asked.optimizer)
    if resume:
        before = past(
            place.outbox,
            place.bus,
            place.clock,
            place.trust,
            partial(open_tensors, place.settings),
            place.progress,
            wanted,
        )
        _require_same(before, recipe, growing, asked.steps, digest, own.kind)
        for difference in differences(before.events, environment):
            place.progress.say(f"{difference}; the resumed run may give other bits.")
    else:
        before = nothing(place.outbox, place.bus, place.clock, place.trust)
    rigged = rig(
        stack,
        place,
        before,
        recipe,
        task=task,
        growing=growing,
        # a new run has snapshots once its batches are Esper's
        stepper=own if resume else None,
        held_out=held_out,
        # a loop of one's own has no test split: its reports show the held-out one
        test=held_out,
        steps=asked.steps,
        environment=environment,
    )
    growth = Growth(
        place.run_id,
        rigged,
        own,
        place.clock.monotonic(),
        fractions,
        before.beginning.snapshot,
    )
    if script is not None:
        script.growths.append(growth)
        if not resume:  # a resumed run keeps the text that it was begun with
            script.keep(place.folder)
    return growth


def _require_same(
    before: Past,
    recipe: Recipe,
    growing: GrowingModel,
    steps: int,
    digest: str,
    optimizer: list[Any],
) -> None:
    """Refuse to go on with a run as another one.

    Raises:
        UsageError: the sentence says what differs.
    """
    started, then = _started(before.events), recipe_of(before.events)
    run_id = started.run_id
    if then.model != OWN_LOOP:
        raise UsageError(
            f"Run {run_id} was begun from the recipe {then.name}: go on with it by "
            f"`esper run --resume --run-id {run_id}`."
        )
    if before.beginning.snapshot is None:
        raise UsageError(
            f"Run {run_id} has no snapshot, so it cannot go on: a loop over growth.batches(...) "
            "takes them. Begin another run."
        )
    changed = _first_difference(then.model_dump(), recipe.model_dump())
    if changed is None and steps != started.total_steps:
        changed = f"steps ({started.total_steps} then, {steps} now)"
    if changed is None and growing.inventory() != started.layers:
        changed = "the model's layers or their seeds"
    if changed is None and data_digest(before.events) != digest:
        changed = "held_out"
    if changed is None and RunSnapshot.of(before.beginning.snapshot).stepper["kind"] != optimizer:
        changed = "the optimizer, its groups or their parameters"
    if changed is not None:
        raise UsageError(
            f"Run {run_id} cannot go on with another value of {changed}: give esper.grow what the "
            "run began with."
        )


def _started(events: tuple[JournalEvent, ...]) -> RunStarted:
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # every journal begins so
    return started


def _first_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that differs, by its dotted name, with both values."""
    for key, value in then.items():
        if isinstance(value, Mapping) and isinstance(now[key], Mapping) and key != "policy":
            if (inner := _first_difference(value, now[key])) is not None:
                return f"{key}.{inner}"
        elif value != now[key]:
            return f"{key} ({value!r} then, {now[key]!r} now)"
    return None
