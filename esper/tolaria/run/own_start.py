"""The beginning of a run in a user's own loop: new, or where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from esper.checkpoint import Snapshot, open_tensors
from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.history.queries import QuerySource
from esper.journal.story import fork_of
from esper.kasmina import GrowingModel, Numerics
from esper.kasmina.numerics import CPU
from esper.tolaria.recipes.environment import DATA, observe
from esper.tolaria.recipes.fitting import fitted
from esper.tolaria.recipes.recipe import OWN_LOOP, OWNER, Recipe, validated
from esper.tolaria.recipes.splits import Split, checked, digest_of_split
from esper.tolaria.recipes.structures import size
from esper.tolaria.record.resume import Wanted, differences, recipe_of
from esper.tolaria.record.snapshot_content import RunSnapshot
from esper.tolaria.run.own_loop import Growth, OwnOptimizer
from esper.tolaria.run.own_script import Script
from esper.tolaria.run.past import Past, forked, nothing, past
from esper.tolaria.run.trainee import data_digest, kernel_training
from esper.tolaria.run.wiring import RunContext, rig
from esper.tolaria.step.evaluation import measured_part
from esper.tolaria.step.optimizers import UNSUITED
from esper.tolaria.step.preflight import few_held_out, probe, require_fit
from esper.tolaria.step.schedules import Fractions, fractions_of, schedule_of
from esper.tolaria.step.tasks import Task, task_of

_LEFT_TO_THE_LOOP: Final = {
    "run.seed": "give it as seed",
    "run.epochs": "give it to growth.batches(...)",
    "run.batch_size": "give it to growth.batches(...)",
    "run.threads": "call torch.set_num_threads(...)",
    "run.device": "move the model there before its optimizer is made",
    "run.precision": "put torch.autocast(...) around growth.loss(...)",
    "run.accumulate": "give it as accumulate",
    "run.channels_last": "call model.to(memory_format=torch.channels_last)",
    "optimizer": "make one before esper.grow(...)",
    "kasmina": "give it to esper.germinate(...)",
    "model": "give the germinated model itself",
    "data": "train on your own",
}
"""Settings of a recipe that a loop of a user's own decides itself, and how."""


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
    accumulate: int = 1

    def recipe(self) -> Recipe:
        """The recipe that it amounts to, with what it leaves out.

        Raises:
            UsageError: the settings are none, or are what the loop itself decides.
        """
        run = self.settings.get("run", {})
        given = [*(f"run.{key}" for key in run), *self.settings] if isinstance(run, Mapping) else []
        if left := next((key for key in given if key in _LEFT_TO_THE_LOOP), None):
            raise UsageError(
                f"esper.grow leaves {left} to the loop: {_LEFT_TO_THE_LOOP[left]}, and leave it "
                "out here."
            )
        own = {"seed": self.seed, "accumulate": self.accumulate}
        if self.accumulate != 1:
            # of no meaning here, and no less than the batches of a step
            own["batch_size"] = max(100, self.accumulate)
        recipe = validated(
            {
                "name": "own-loop",
                "model": OWN_LOOP,
                "data": "own.loop:data",
                "task": self.task.name if isinstance(self.task, Task) else self.task,
                **self.settings,
                "run": {**own, **run} if isinstance(run, Mapping) else run,
            }
        )
        return fitted(recipe, self.steps)

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was given to `esper.grow`, looked at: its recipe, the parts of a session, the digest of
    the held-out split, and the factors of the kernels' learning rates.
    """

    recipe: Recipe
    task: Task
    growing: GrowingModel
    own: OwnOptimizer
    held_out: Split
    steps: int
    digest: str
    fractions: Fractions


def prepare(asked: OwnLoop, recipe: Recipe, say: Callable[[str], None]) -> Prepared:
    """Look at what was asked for; `say` has sentences that stop nobody.

    Raises:
        UsageError: it makes no sense.
    """
    task = asked.task if isinstance(asked.task, Task) else task_of(recipe.task, OWNER)
    # where the caller has put it: batches and held-out samples go there
    device = next((one.device for one in asked.model.parameters()), CPU)
    numerics = Numerics(device=device)
    growing = GrowingModel(asked.model, training=kernel_training(recipe), numerics=numerics)
    asked.require(growing)
    schedule = schedule_of(recipe.schedule.name, OWNER)
    fractions = fractions_of(recipe.schedule, schedule, asked.steps, [recipe.kernels.learning_rate])
    held_out = checked(asked.held_out, "held_out")
    probe(growing, held_out, task, " on held_out")
    require_fit(growing, task, held_out, "held_out", size(held_out))
    for sentence in few_held_out(measured_part(held_out, recipe.validation.samples), "held_out"):
        say(sentence)
    own = OwnOptimizer(asked.optimizer)
    # of the data that Esper sees now: what the loop trains on is told from its first batch
    digest = digest_of_split(held_out)
    return Prepared(recipe, task, growing, own, held_out, asked.steps, digest, fractions)


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
    fork = script.fork if script and not script.begun else None
    recipe = asked.recipe()
    prepared = prepare(asked, fork.recipe if fork else recipe, place.progress.say)
    inputs = script.inputs(resumed=resume) if script else {}
    environment = observe({DATA: prepared.digest, **inputs})
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
        if fork_of(before.events) is not None:
            # its settings are not the script's alone, and the journal has all of them
            prepared = prepare(asked, recipe_of(before.events), place.progress.say)
        _require_same(before, prepared)
        for difference in differences(before.events, environment):
            place.progress.say(f"{difference}; the resumed run may give other bits.")
    elif fork is not None:
        before = forked(
            place.outbox,
            place.bus,
            place.clock,
            place.trust,
            family=fork.start.family,
            offered=fork.start.offered,
        )
    else:
        before = nothing(place.outbox, place.bus, place.clock, place.trust)
    rigged = rig(
        stack,
        place,
        before,
        prepared.recipe,
        task=prepared.task,
        growing=prepared.growing,
        # a new run has snapshots once its batches are Esper's
        stepper=prepared.own if resume or fork else None,
        held_out=prepared.held_out,
        # a loop of one's own has no test split: its reports show the held-out one
        test=prepared.held_out,
        steps=prepared.steps,
        environment=environment,
    )
    snapshot = fork.start.snapshot if fork else before.beginning.snapshot
    growth = Growth(
        place.run_id,
        rigged,
        prepared.own,
        place.clock.monotonic(),
        prepared.fractions,
        snapshot,
        fork.start if fork else None,
    )
    if fork is not None:
        # now, too: what the loop registers gets its state, and its batches are compared
        rigged.session.snapshots.restore(fork.start.snapshot, fork.start.cut.state)
        rigged.session.standing.goal = fork.goal
    if script is not None:
        script.take(growth)
        if not resume:  # a resumed run keeps the text that it was begun with
            script.keep(place.folder)
    return growth


def earlier_losses(history: QuerySource, growth: Growth) -> dict[int, float]:
    """The losses that a resumed run has told of steps after the snapshot that it goes on from: in
    lockstep, where they have to come again.

    Raises:
        UsageError, UnavailableError: as `Source.ask` does.
    """
    session = growth.rigged.session
    # after a rollback the history has several losses of a step
    if not session.parts.consultation.lockstep or session.state.timeline:
        return {}
    query = (
        "SELECT step, loss FROM training_step WHERE run_id = {run:String} AND step > {step:UInt64}"
    )
    parameters = {
        "param_run": growth.run_id,
        "param_step": str(session.step),
        # without it ClickHouse writes NaN and infinity as null
        "output_format_json_quote_denormals": "1",
    }
    rows = history.rows(query, parameters)
    return {int(row["step"]): float(row["loss"]) for row in rows}


def _require_same(before: Past, prepared: Prepared) -> None:
    """Refuse to go on with a run as another one.

    Raises:
        UsageError: the sentence says what differs.
    """
    then = recipe_of(before.events)
    run_id = before.events[0].run_id
    if not then.own_loop:
        raise UsageError(
            f"Run {run_id} was begun from the recipe {then.name}: go on with it by "
            f"`esper run --resume --run-id {run_id}`."
        )
    if before.beginning.snapshot is None:
        raise UsageError(
            f"Run {run_id} has no snapshot, so it cannot go on: a loop over growth.batches(...) "
            "takes them. Begin another run."
        )
    changed = changed_since(before.events, prepared, before.beginning.snapshot)
    if changed is not None:
        raise UsageError(
            f"Run {run_id} cannot go on with another value of {changed}: give esper.grow what the "
            "run began with."
        )


def changed_since(
    events: Sequence[JournalEvent], prepared: Prepared, snapshot: Snapshot | None
) -> str | None:
    """What is not as it was when a run with these events began, of `snapshot` its optimizer; None
    where all is.
    """
    started = _started(events)
    changed = _first_difference(recipe_of(events).model_dump(), prepared.recipe.model_dump())
    if changed is None and prepared.steps != started.total_steps:
        changed = f"steps ({started.total_steps} then, {prepared.steps} now)"
    if changed is None and prepared.growing.inventory() != started.layers:
        changed = "the model's layers or their seeds"
    if changed is None and data_digest(events) != prepared.digest:
        changed = "held_out"
    if (
        changed is None
        and snapshot is not None
        and RunSnapshot.of(snapshot).stepper["kind"] != prepared.own.kind
    ):
        changed = "the optimizer, its groups or their parameters"
    return changed


def _started(events: Sequence[JournalEvent]) -> RunStarted:
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
