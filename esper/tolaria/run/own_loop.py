"""Growth in a user's own training loop: the user steps the host, Esper the kernels, and the journal
has it all.

Such a run cannot be re-executed, because its loop and data are not Esper's: it has a journal and
a history, but no snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import UsageError
from esper.kasmina import GrowingModel, Place
from esper.lifecycle import LIVE
from esper.lifecycle.commands import Complete, Fail
from esper.tolaria.recipes.environment import DATA, observe
from esper.tolaria.recipes.recipe import OWNER, validated
from esper.tolaria.recipes.splits import Split, checked, digest_of_split
from esper.tolaria.recipes.structures import Structure, size
from esper.tolaria.run.past import nothing
from esper.tolaria.run.trainee import kernel_training
from esper.tolaria.run.trainer import start_of
from esper.tolaria.run.wiring import RunContext as RunPlace
from esper.tolaria.run.wiring import Runtime, rig
from esper.tolaria.session.composition import Interrupted
from esper.tolaria.session.model_file import save_model
from esper.tolaria.step.evaluation import parameters_digest
from esper.tolaria.step.passes import (
    GRADIENT_NOT_FINITE,
    NOT_FINITE,
    Faults,
    Pass,
    PassFigures,
    count_faults,
    step_kernels,
)
from esper.tolaria.step.preflight import few_held_out, probe, require_fit
from esper.tolaria.step.schedules import Fractions, fractions_of, schedule_of
from esper.tolaria.step.stepping import (
    StepFigures,
    shadow_turns,
    stream_seed,
)
from esper.tolaria.step.tasks import Batch, Task, task_of


@dataclass(slots=True)
class _Batch:
    """The batch of the present step, its figures as tensors, and the random seed of its shadow
    passes.
    """

    data: Batch
    loss: Tensor
    metrics: dict[str, Tensor]
    seed: int


@dataclass(slots=True)
class Growth:
    """A run in a user's own loop.

    For each batch: `loss`, backward, `step`, the own optimizer; after each epoch: `epoch`.

    `run_id` names the run in the journal and the history, `fractions` are the factors of the
    kernels' learning rates.
    """

    run_id: str
    rigged: Runtime
    optimizer: Optimizer
    begun: float
    fractions: Fractions
    _batch: _Batch | None = None
    _ended: bool = False
    _spared: set[Place] = field(default_factory=set)

    def loss(self, *batch: Structure) -> Tensor:
        """The task's loss of the model for a batch: inputs [B, ...] and targets [B, ...], or a
        mapping with the targets under `labels`. For classification it is the cross entropy of the
        model's logits, in nats.

        Call its `backward`, then `step`.
        """
        session = self.rigged.session
        parts, step = session.parts, session.step
        growing, telemetry = parts.growing, parts.recipe.telemetry
        self.begun = parts.clock.monotonic()
        session.between_steps()
        switches = growing.switches
        # until the next loss, not for this call alone: backward may compute layers once more
        switches.fallback = frozenset(self._spared)
        switches.notes.clear(watching=False)
        data: Batch = batch[0] if len(batch) == 1 else batch
        sampling = (step + 1) % telemetry.every_steps == 0
        units = parts.task.count(data)
        with switches.live_pass(watching=bool(growing.kernels), sampling=sampling):
            outcome = parts.task.outcome(growing, data)
        self._batch = _Batch(
            data,
            outcome.loss.detach(),
            {name: value / units for name, value in outcome.sums.items()},
            stream_seed(parts.recipe.run.seed, "forward", step),
        )
        return outcome.loss

    def step(self) -> None:
        """After `backward`, before the own optimizer: kernels learn, failures are counted, and the
        step is told.

        Where a kernel made the step not finite, the host's gradients are taken away, so that the
        optimizer leaves the host as it is.

        Raises:
            UsageError: there is no batch whose loss was asked for.
        """
        batch, session = self._batch, self.rigged.session
        if batch is None:
            raise UsageError(
                "Call growth.step() after growth.loss(inputs, targets) and its backward()."
            )
        self._batch = None
        parts, step, epoch = session.parts, session.step, session.state.epoch
        growing, telemetry = parts.growing, parts.recipe.telemetry
        # copied: the shadow passes below write into the same notes
        raised, finite = dict(growing.switches.notes.raised), dict(growing.switches.notes.finite)
        live = [
            (seed.layer, seed.seed)
            for seed in session.state.seeds
            if seed.stage in LIVE and (seed.layer, seed.seed) in growing.kernels
        ]
        turns = self._shadow(batch, step)
        raised |= growing.switches.notes.raised
        sample = (step + 1) % telemetry.every_steps == 0
        if sample:
            growing.observe_gradients()
        host = [
            parameter.grad for parameter in growing.host_parameters if parameter.grad is not None
        ]
        norm = nn.utils.get_total_norm(host) if host else torch.zeros(())
        done = Pass(
            batch.loss,
            batch.metrics,
            norm,
            torch.zeros_like(norm),
            {place: growing.kernels[place].norm(1.0) for place in (*live, *turns)},
            finite,
            raised,
        )
        read = done.read()
        faults, excused = _blamed(done, read, turns)
        step_kernels(growing, done, read.norms.keys() | faults.keys(), self.fractions(step)[0])
        # the caller's optimizer comes next, and without gradients it leaves the host alone
        if live and not read.finite:
            for parameter in growing.host_parameters:
                parameter.grad = None
        counted = count_faults(growing, [*live, *turns], faults, spared=excused)
        # such a loop cannot do its step again, so the next one runs without these kernels
        self._spared = {fault.place for fault in counted if fault.phase == "NON_FINITE"}
        rate = self.optimizer.param_groups[0]["lr"]
        figures = StepFigures(
            read.loss, parts.task.finished(read.metrics), read.norm, rate, counted
        )
        session.stepped(figures)
        if sample:
            parts.monitor.sampled(session.state)
        if telemetry.enabled:
            took = round((parts.clock.monotonic() - self.begun) * 1e6)
            parts.telemetry.step(
                figures,
                epoch=epoch,
                step=session.step,
                samples=size(batch.data),
                duration_us=took,
                timeline=session.state.timeline,
            )
            if sample:
                parts.telemetry.seeds(session.state, session.cursor.evidence, step=session.step)
        parts.progress.stepped(session.step, session.total_steps, figures)

    def epoch(self) -> None:
        """An epoch is over: validate on the held-out split, let gates move, ask Tamiyo.

        Raises:
            UsageError: no step was done in it.
        """
        if not self.rigged.session.cursor.sums.batches:
            raise UsageError("Call growth.epoch() after at least one growth.step().")
        self.rigged.session.end_epoch()
        self.rigged.session.consult()

    def report(self) -> str:
        """What grew, or why nothing did, in a sentence."""
        return self.rigged.session.growth()

    def end(self, error: BaseException | None) -> None:
        """End the run's journal: completed, interrupted by Ctrl-C, or failed."""
        if self._ended:
            return
        # first: an error while ending must not end it a second time
        self._ended = True
        session = self.rigged.session
        parts, growing, test = session.parts, session.parts.growing, session.cursor.test
        if error is None or isinstance(error, KeyboardInterrupt | Interrupted):
            saved = save_model(growing, parts.run_dir / "model.safetensors", parts.models)
            session.do(
                Complete(
                    outcome="FINISHED" if error is None else "INTERRUPTED",
                    accuracy=test.accuracy,
                    loss=test.loss,
                    parameters=sum(parameter.numel() for parameter in growing.module.parameters()),
                    digest=parameters_digest(growing.module),
                    model_sha256=saved.sha256,
                    **parts.task.fields(test.loss, test.metrics),
                )
            )
        elif session.state.status in ("RUNNING", "PAUSED"):
            session.do(Fail(error=type(error).__name__, reason=f"{type(error).__name__}: {error}"))
        self.rigged.settle()

    def _shadow(self, batch: _Batch, step: int) -> list[Place]:
        """Shadow passes of the TRAINING seeds whose turn it is."""
        session = self.rigged.session
        growing, task = session.parts.growing, session.parts.task
        turns = shadow_turns(
            growing, session.state, step, session.parts.recipe.kernels.shadow_passes
        )
        for place in turns:
            growing.shadow_step(
                place,
                batch.seed,
                lambda: task.outcome(growing, batch.data).loss,
            )
        return turns


def _blamed(
    done: Pass, read: PassFigures, shadowed: Collection[Place]
) -> tuple[Faults, set[Place]]:
    """What kernels have done wrong in a step, and those whose gradient is not finite because the
    host's loss is not: a shadow pass trains on what the host gave.
    """
    faults: Faults = {place: ("FORWARD", error) for place, error in done.raised.items()}
    excused = set[Place]()
    for place in read.outputs:
        faults.setdefault(place, ("NON_FINITE", NOT_FINITE))
    for place in read.norms:
        if place in shadowed and not math.isfinite(read.loss):
            excused.add(place)
        else:
            faults.setdefault(place, ("NON_FINITE", GRADIENT_NOT_FINITE))
    return faults, excused - faults.keys()


def begin(
    model: nn.Module,
    optimizer: Optimizer,
    place: RunPlace,
    stack: ExitStack,
    *,
    held_out: Split,
    steps: int,
    seed: int,
    task: Task | str | Mapping[str, object],
    settings: dict[str, object],
) -> Growth:
    """Begin a run around a germinated model.

    Raises:
        UsageError: the model has no seeds, the held-out split is empty, the settings are none, or
            the run id is taken.
    """
    recipe = validated(
        {
            "name": "own-loop",
            "model": "own.loop:model",
            "data": "own.loop:data",
            "task": task.name if isinstance(task, Task) else task,
            "run": {"seed": seed},
            **settings,
        }
        # over the caller's settings: no snapshot of a user's own loop could be restored
        | {"checkpoints": {"every_epochs": 0}}
    )
    if not isinstance(task, Task):
        task = task_of(recipe.task, OWNER)
    growing = GrowingModel(model, training=kernel_training(recipe))
    if not any(
        parameter is own
        for group in optimizer.param_groups
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
    held_out = checked(held_out, "held_out")
    if steps < 1:
        raise UsageError(
            f"steps is the number of optimizer steps that the loop will do: give 1 or more, "
            f"not {steps}."
        )
    schedule = schedule_of(recipe.schedule.name, OWNER)
    fractions = fractions_of(recipe.schedule, schedule, steps, [recipe.kernels.learning_rate])
    probe(growing, held_out, task, " on held_out")
    require_fit(growing, task, held_out, "held_out", size(held_out))
    for sentence in few_held_out(held_out, "held_out"):
        place.progress.say(sentence)
    before = nothing(place.outbox, place.bus, place.clock, place.trust)
    rigged = rig(
        stack,
        place,
        before,
        recipe,
        task=task,
        growing=growing,
        stepper=None,
        held_out=held_out,
        # a loop of one's own has no test split: its reports show the held-out one
        test=held_out,
        steps=steps,
        # of the data that Esper sees: what the caller trains on is in its own hands
        environment=observe({DATA: digest_of_split(held_out)}),
    )
    growth = Growth(place.run_id, rigged, optimizer, place.clock.monotonic(), fractions)
    rigged.session.do(start_of(rigged.session))
    rigged.session.open_dialogue()
    return growth
