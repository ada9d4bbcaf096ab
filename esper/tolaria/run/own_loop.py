"""Growth in a user's own training loop: the user steps the host, Esper the kernels, and the journal
has it all.

A loop over `Growth.batches` can go on after any death: Esper draws its batches, and snapshots hold
what the loop moves. One that draws batches itself has a journal and a history, and no snapshots.
"""

from __future__ import annotations

import math
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from esper.checkpoint import Snapshot
from esper.errors import EsperError, FencedError, UsageError
from esper.events.records import Outcome
from esper.kasmina import GrowingModel, Inventory, Numerics, Place, inventory
from esper.kasmina.numerics import PrecisionName
from esper.kasmina.seeded.kernel_training import total_norm
from esper.lifecycle import LIVE
from esper.lifecycle.commands import Complete, Fail, Pause
from esper.tolaria.recipes.structures import Structure, fingerprint, mapped, plain, size
from esper.tolaria.record.forking import ForkStart
from esper.tolaria.record.snapshot_content import address, place_of
from esper.tolaria.run.own_batches import Batches, batches_of
from esper.tolaria.run.trainer import start_of
from esper.tolaria.session.composition import Arrived, Interrupted, RolledBack, Standing
from esper.tolaria.session.model_file import save_model
from esper.tolaria.session.registered import Stateful
from esper.tolaria.session.session import Session
from esper.tolaria.step.evaluation import evaluate, parameters_digest
from esper.tolaria.step.optimizers import HostState
from esper.tolaria.step.passes import (
    GRADIENT_NOT_FINITE,
    NOT_FINITE,
    Faults,
    Pass,
    PassFigures,
    count_faults,
    step_kernels,
)
from esper.tolaria.step.schedules import Fractions
from esper.tolaria.step.stepping import (
    StepFigures,
    shadow_turns,
    stream_seed,
)
from esper.tolaria.step.tasks import Batch


@dataclass(slots=True)
class _Batch:
    """A batch of the present step with `units` of the task, its mean loss and the sums of its
    metrics as tensors, and the random seed of its shadow passes.
    """

    data: Batch
    units: int
    loss: Tensor
    sums: Mapping[str, Tensor]
    seed: int
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Validation:
    """What the held-out split said at the end of epoch number `epoch`, counted from 1: mean loss
    and metrics of the task, and the one of them by which runs are compared.
    """

    epoch: int
    loss: float
    metrics: Mapping[str, float]
    score: float
    score_name: str
    higher_is_better: bool


class OwnOptimizer:
    """A user's own optimizer, and what else of the loop a snapshot holds: which kernels the next
    step leaves out, and what the batches are made of.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.host_optimizer = optimizer
        self.spared: set[Place] = set()
        self.content: dict[str, Any] = {}
        self._state = HostState(type(optimizer).__name__, optimizer)
        self._groups = len(optimizer.param_groups)

    @property
    def kind(self) -> list[Any]:
        """What another optimizer in its place has to be: of its class, with as many parameters."""
        groups = self.host_optimizer.param_groups
        return [type(self.host_optimizer).__name__, [len(group["params"]) for group in groups]]

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON.

        Raises:
            UsageError: the optimizer holds what no snapshot can, or has got more groups.
        """
        groups = self.host_optimizer.param_groups
        if len(groups) != self._groups:
            raise UsageError(
                f"The optimizer had {self._groups} parameter groups when esper.grow began and has "
                f"{len(groups)}: give it all groups before, and freeze what is to learn later."
            )
        if strange := [group["lr"] for group in groups if not isinstance(group["lr"], int | float)]:
            raise UsageError(
                f"The optimizer has a learning rate of type {type(strange[0]).__name__}, which no "
                "snapshot can hold: give it a number."
            )
        return {
            "kind": self.kind,
            "optimizer": self._state.state_dict(),
            "rates": [group["lr"] for group in groups],
            "spared": sorted(map(address, self.spared)),
            "content": self.content,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._state.load_state_dict(state["optimizer"])
        for group, rate in zip(self.host_optimizer.param_groups, state["rates"], strict=True):
            # by schedulers of the user's own, whose state says nothing of the rate itself
            group["lr"] = rate
        self.spared = set(map(place_of, state["spared"]))
        self.content = state["content"]


class Rigged(Protocol):
    """What a loop stands on: a session of a run that trains, or of one that is executed again."""

    @property
    def session(self) -> Session:
        """The session."""

    @property
    def rerun(self) -> bool:
        """Whether the run has its end on record, and all before it."""

    def ready(self) -> None:
        """Before the first step."""

    def settle(self) -> None:
        """At the loop's end."""


@dataclass(slots=True)
class Growth:
    """A run in a user's own loop.

    For each batch: `loss`, `backward`, `step`, the own optimizer. `batches` gives them and ends the
    epochs; without it, call `epoch` after each.

    `run_id` names the run in the journal and the history, `fractions` are the factors of the
    kernels' learning rates. `beginning` is the snapshot that a resumed run goes on from, or a
    `fork` begins with; `earlier` has the losses that steps after it had in the life before.
    """

    run_id: str
    rigged: Rigged
    own: OwnOptimizer
    begun: float
    fractions: Fractions
    beginning: Snapshot | None = None
    fork: ForkStart | None = None
    earlier: dict[int, float] = field(default_factory=dict)
    _batches: list[_Batch] = field(default_factory=list)
    _left: int = 0
    _ended: bool = False
    _driven: bool = False
    _iterator: Generator[Any, None, None] | None = None

    def register(self, **parts: Stateful) -> None:
        """Take schedulers, averages of weights and whatever else has `state_dict` and
        `load_state_dict` into snapshots, by name: before `batches`.

        In a resumed run each gets back the state that the run had. A `torch.amp.GradScaler` says
        how the gradients that `step` finds are scaled: call its `unscale_` after that.

        Raises:
            UsageError: a part has no state, one that no snapshot can hold, or a name that is taken;
                or the loop has begun.
        """
        self._require_open()
        if self._driven:
            raise UsageError("Call growth.register(...) before growth.batches(...).")
        for name, part in parts.items():
            self.rigged.session.parts.registered.register(name, part)

    def batches(
        self,
        data: Any,
        *,
        epochs: int,
        batch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        after_epoch: Callable[[], None] | None = None,
    ) -> Iterator[Any]:
        """The batches of all epochs, in an order that is a function of the run's seed. Epochs end
        by themselves: validation, gates, Tamiyo's answer.

        With it, the run has snapshots; interrupted or killed, it goes on with
        `esper.grow(..., run_id=..., resume=True)` where it was, bit for bit in lockstep. A loop
        that is left by `break` has ended, as by early stopping.

        Args:
            data: a DataLoader (its data set, batch size, `collate_fn` and workers; Esper draws the
                order), a list of ready batches, or with `batch_size` a data set or tensors [N, ...]
                in a tuple or mapping.
            epochs: passes over the data.
            batch_size: samples a batch.
            shuffle: whether each epoch has another order; a DataLoader says so itself.
            drop_last: whether samples that fill no batch are left out.
            after_epoch: called when an epoch was validated, before the next begins: for schedulers
                that move once an epoch.

        Raises:
            UsageError: the order of `data` cannot be Esper's, its batches are not as many as
                `steps` says, they are not those that the run began with, or a step was done
                already.
        """
        self._require_open()
        session = self.rigged.session
        parts = session.parts
        found = batches_of(
            data,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=parts.recipe.run.seed,
        )
        if self._driven or (session.step and self.beginning is None):
            raise UsageError("Call growth.batches(...) once, before the first step.")
        steps = epochs * math.ceil(len(found) / self._accumulate)
        if steps != session.total_steps:
            each = f", {self._accumulate} a step," if self._accumulate > 1 else ""
            raise UsageError(
                f"esper.grow was given steps={session.total_steps}, and {epochs} epochs of "
                f"{len(found)} batches{each} are {steps}: give one of them another value."
            )
        content = found.content
        self._require_content(content)
        if parts.registered.waiting:
            names = ", ".join(sorted(parts.registered.waiting))
            raise UsageError(
                f"Run {self.run_id} holds the state of {names}: call growth.register(...) with "
                "them before growth.batches(...)."
            )
        self.own.content = content
        self.own.state_dict()  # what no snapshot can hold is refused before the first step
        parts.stepper, session.standing.defers, self._driven = self.own, True, True
        self._iterator = self._all_epochs(found, epochs, after_epoch)
        return self._iterator

    def _all_epochs(
        self, found: Batches, epochs: int, after_epoch: Callable[[], None] | None
    ) -> Generator[Any, None, None]:
        session = self.rigged.session
        with signals(session.standing):
            try:
                self._start()
                if self.beginning is not None:
                    # again: what the script has drawn and made since then is over, such as the
                    # rates of a scheduler that was made within the block
                    session.snapshots.restore(self.beginning, session.state)
                    with suppress(RolledBack):
                        session.open_fork()
                        session.ask_again()
                while session.state.epoch < epochs:
                    with suppress(RolledBack):  # the loop goes on from there
                        yield from self._one_epoch(found, after_epoch)
            except Arrived:
                # a fork that was to end here goes on when it is resumed
                with suppress(Interrupted):
                    session.interrupted()
                raise KeyboardInterrupt from None
            except Interrupted:
                # what a script that is interrupted expects; the run stands paused, with a snapshot
                raise KeyboardInterrupt from None

    def _one_epoch(self, found: Batches, after_epoch: Callable[[], None] | None) -> Iterator[Any]:
        session = self.rigged.session
        if session.step == 0:
            session.open_dialogue()
        done = session.cursor.sums.batches
        if session.step and not done:
            session.checkpoint_at_epoch()
        order = session.parts.recipe.run.order
        if order and not found.shuffle:
            raise UsageError(
                "The batches of this loop have one order, without shuffle, so there is no other: "
                "take --orders 1, and leave run.order out."
            )
        first = done * self._accumulate
        for number, batch in enumerate(found.epoch(session.state.epoch, first, order), first):
            if number % self._accumulate == 0:
                if self.rigged.rerun:
                    session.standing.batch = fingerprint(batch)
                session.between_steps()
                if session.parts.recipe.run.order != order:
                    # an answer to what-if begins here: the rest of the epoch has another order
                    raise RolledBack
                # fewer at the end of an epoch
                self._left = min(self._accumulate, len(found) - number)
            wanted, batches = session.step, len(self._batches) + 1
            if batches == self._left:
                wanted, batches = wanted + 1, 0
            yield batch
            if (session.step, len(self._batches)) != (wanted, batches):
                raise UsageError(
                    "Call growth.loss(...) and its backward() once for each batch of "
                    "growth.batches(...), and growth.step() once for each step, when growth.due."
                )
        with _own_precision(session.parts.growing):
            session.end_epoch()
        # before Tamiyo is asked: a snapshot may be taken while the run waits for the answer
        if after_epoch is not None:
            after_epoch()
        session.consult()

    def loss(self, *batch: Structure) -> Tensor:
        """The task's loss of the model for a batch: inputs [B, ...] and targets [B, ...], or a
        mapping with the targets under `labels`. For classification it is the cross entropy of the
        model's logits, in nats.

        Call its `backward`, then `step`.

        Raises:
            UsageError: the run has ended, the loss before has had no `step`, or a resumed run's
                batches are not those of `batches`.
        """
        self._require_open()
        session = self.rigged.session
        if self.due:
            many = len(self._batches)
            raise UsageError(
                f"growth.loss(...) was called {many + 1} times without growth.step(): a step has "
                f"{many} here, by the accumulate of esper.grow(...)."
                if many > 1
                else "growth.loss(...) was called twice without growth.step(): each batch has one "
                "loss and one step. For steps of several batches, give esper.grow accumulate."
            )
        micro = len(self._batches)
        if not self._driven and not micro:
            if self.beginning is not None:
                raise UsageError(
                    f"Run {self.run_id} goes on with the batches of growth.batches(...), as it "
                    "began."
                )
            if session.state.status == "NEW":
                self._start()
                session.open_dialogue()
            session.between_steps()
            self._left = self._accumulate
        data: Batch = plain(batch[0] if len(batch) == 1 else batch, "What growth.loss was given")
        # counted on the host, where it is no wait for the device
        units = session.parts.task.count(data)
        data = mapped(session.parts.growing.numerics.inputs, data)
        with self.live_pass():
            outcome = session.parts.task.outcome(session.parts.growing, data)
        self.took(data, outcome.loss, outcome.sums, units)
        return outcome.loss

    @contextmanager
    def live_pass(self) -> Iterator[None]:
        """Within: the forward whose loss the next step is of; `took` says then what came of it."""
        session = self.rigged.session
        parts, step, micro = session.parts, session.step, len(self._batches)
        growing, telemetry = parts.growing, parts.recipe.telemetry
        switches = growing.switches
        if not micro:
            self.begun = parts.clock.monotonic()
            # until the next step, not for this call alone: backward may compute layers once more
            switches.fallback = frozenset(self.own.spared)
            switches.notes.clear(watching=False)
        sampling = (step + 1) % telemetry.every_steps == 0 and micro + 1 == self._left
        # the precision is the caller's, whose autocast is around this call, or is not
        growing.numerics = Numerics(device=growing.numerics.device)
        with switches.live_pass(watching=bool(growing.kernels), sampling=sampling):
            yield
        # and so are shadow passes and validation, which are not within it
        growing.numerics = replace(growing.numerics, precision=_precision(growing.numerics.device))

    def took(
        self, data: Batch, loss: Tensor, sums: Mapping[str, Tensor], units: int | None = None
    ) -> None:
        """Note what a `live_pass` over a batch gave, for the step: its loss, and the sum of each
        metric over the batch's units.
        """
        parts, step = self.rigged.session.parts, self.rigged.session.step
        units = parts.task.count(data) if units is None else units
        # the first adds no label, as in a recipe's steps
        labels = ("forward", step, *([len(self._batches)] if self._batches else []))
        seed = stream_seed(parts.recipe.run.seed, *labels)
        self._batches.append(_Batch(data, units, loss.detach(), sums, seed))

    def hand_over(self, content: dict[str, Any]) -> None:
        """Leave the loop to a framework (`esper.tolaria.run.driven`), which opens passes, ends
        epochs and says when snapshots are taken. `content` says what it trains on.

        Raises:
            UsageError: a resumed run was begun with something else, or this is to be a fork.
        """
        if self.fork is not None:
            raise UsageError(
                "A run in the loop of a framework cannot be forked: begin another run from one of "
                "its checkpoints."
            )
        session = self.rigged.session
        self._require_content(content)
        self.own.content = content
        self.own.state_dict()  # what no snapshot can hold is refused before the first step
        session.parts.stepper, session.standing.defers, self._driven = self.own, True, True
        self._left = 1
        self._start()

    def expect(self, batches: int) -> None:
        """Of how many batches the next step is: what a framework says before its first."""
        self._left = batches

    def _require_content(self, content: Mapping[str, Any]) -> None:
        if self.own.content and self.own.content != content:
            changed = next(key for key in content if content[key] != self.own.content.get(key))
            raise UsageError(
                f"Run {self.run_id} was begun with other data "
                f"({'another first batch' if changed == 'first' else changed + ' differs'}): a run "
                "goes on with the data that it began with."
            )

    def backward(self, loss: Tensor) -> None:
        """Call `backward` of what `loss` gave, or of a sum with it: of its share, where a step has
        several, and scaled, where a GradScaler is registered, whose `step` and `update` then follow
        `step`.

        Raises:
            UsageError: the run has ended, there is no batch whose loss was asked for, it had its
                backward, or `loss` has no gradient.
        """
        self._require_open()
        if not self._batches or self._batches[-1].backward:
            raise UsageError(
                "Call growth.backward(loss) once for each growth.loss(...), after it and before "
                "growth.step()."
            )
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise UsageError(
                "growth.backward(loss) takes the tensor that growth.loss(...) gave, not its value, "
                "and not within torch.no_grad()."
            )
        self._batches[-1].backward = True
        scaler = self._scaler()
        if self._left > 1:
            loss = loss / self._left
        (loss if scaler is None else scaler.scale(loss)).backward()

    def step(self) -> None:
        """After `backward`, before the own optimizer: kernels learn, failures are counted, and the
        step is told.

        Where a kernel made the step not finite, the host's gradients are taken away, so that the
        optimizer leaves the host as it is.

        Raises:
            UsageError: the run has ended, there is no batch whose loss was asked for, or nobody has
                called its `backward`.
        """
        self._require_open()
        batches, session = self._batches, self.rigged.session
        if not batches:
            raise UsageError(
                "Call growth.step() after growth.loss(inputs, targets) and its backward()."
            )
        if self._driven and not self.due:
            raise UsageError(
                f"This step has {self._left} batches, and {len(batches)} had their loss: call "
                "growth.step() when growth.due."
            )
        parts, step, epoch = session.parts, session.step, session.state.epoch
        growing, telemetry = parts.growing, parts.recipe.telemetry
        host = [
            parameter.grad for parameter in growing.host_parameters if parameter.grad is not None
        ]
        if not host:
            raise UsageError(
                "No parameter of the model has a gradient: call backward() of what "
                "growth.loss(inputs, targets) gave before growth.step(), and zero_grad() before "
                "both."
            )
        self._batches = []
        # copied: the shadow passes below write into the same notes
        raised, finite = dict(growing.switches.notes.raised), dict(growing.switches.notes.finite)
        live = [
            (seed.layer, seed.seed)
            for seed in session.state.seeds
            if seed.stage in LIVE and (seed.layer, seed.seed) in growing.kernels
        ]
        total = sum(batch.units for batch in batches)
        turns = self._shadow(batches, total, step)
        raised |= growing.switches.notes.raised
        sample = (step + 1) % telemetry.every_steps == 0
        if sample:
            growing.observe_gradients()
        shadow_scales = {
            place: growing.kernels[place].scale if growing.numerics.scales else 1.0
            for place in turns
        }
        scaler = self._scaler()
        scale = 1.0 if scaler is None else scaler.get_scale()
        norm = total_norm(host)
        done = Pass(
            _shared([batch.loss for batch in batches], [batch.units / total for batch in batches]),
            {
                name: torch.stack([batch.sums[name] for batch in batches]).sum() / total
                for name in batches[0].sums
            },
            norm if scale == 1.0 else norm / scale,
            torch.zeros_like(norm),
            {
                # a shadow pass has its own backward, and in float16 a scale of its own
                place: growing.kernels[place].norm(shadow_scales.get(place, scale))
                for place in (*live, *turns)
            },
            finite,
            raised,
        )
        read = done.read()
        faults, excused = _blamed(done, read, shadow_scales, scaled=scale > 1.0)
        for place in excused & shadow_scales.keys():
            if math.isfinite(read.loss):  # its own scale was too large
                growing.kernels[place].scale = max(1.0, growing.kernels[place].scale / 2)
        step_kernels(growing, done, read.norms.keys() | faults.keys(), self.fractions(step)[0])
        # the caller's optimizer comes next, and without gradients it leaves the host alone; a
        # scaler skips the step by itself, and only if it finds them
        if live and not read.finite and scale == 1.0:
            for parameter in growing.host_parameters:
                parameter.grad = None
        counted = count_faults(growing, [*live, *turns], faults, spared=excused)
        # such a loop cannot do its step again, so the next one runs without these kernels
        self.own.spared = {fault.place for fault in counted if fault.phase == "NON_FINITE"}
        rate = self.own.host_optimizer.param_groups[0]["lr"]
        figures = StepFigures(
            read.loss, parts.task.finished(read.metrics), read.norm, rate, counted
        )
        session.stepped(figures)
        self._compare(figures.loss)
        if sample:
            parts.monitor.sampled(session.state)
        if telemetry.enabled:
            took = round((parts.clock.monotonic() - self.begun) * 1e6)
            parts.telemetry.step(
                figures,
                epoch=epoch,
                step=session.step,
                samples=sum(size(batch.data) for batch in batches),
                duration_us=took,
                timeline=session.state.timeline,
            )
            if sample:
                parts.telemetry.seeds(
                    session.state,
                    session.cursor.evidence,
                    step=session.step,
                    loss=session.cursor.figures.validation_loss,
                )
        parts.progress.stepped(session.step, session.total_steps, figures)

    def epoch(self) -> None:
        """An epoch is over: validate on the held-out split, let gates move, ask Tamiyo.

        Raises:
            UsageError: no step was done in it, the run has ended, or `batches` ends epochs.
        """
        self._require_open()
        if self._driven:
            raise UsageError(
                "growth.batches(...) ends epochs by itself: leave growth.epoch() out, and give "
                "what is to be done after each as after_epoch."
            )
        if not self.rigged.session.cursor.sums.batches:
            raise UsageError("Call growth.epoch() after at least one growth.step().")
        session = self.rigged.session
        with _own_precision(session.parts.growing):
            session.end_epoch()
        session.consult()

    def _start(self) -> None:
        """Begin the journal, with its first or its parent's state, unless the run is resumed."""
        session = self.rigged.session
        self.rigged.ready()
        if session.state.status != "NEW":
            return
        if self.fork is not None:
            session.fork(self.fork.command(start_of(session)), self.fork.snapshot)
            return
        session.do(start_of(session))
        if self._driven and not session.parts.journal.replaying:
            # at once: the model's first parameters are the caller's, and no seed gives them again
            session.snapshots.begin("begun")
            session.snapshots.record(wait=True)

    def _scaler(self) -> GradScaler | None:
        """The GradScaler that was registered, if any."""
        parts = self.rigged.session.parts.registered.parts.values()
        return next((one for one in parts if isinstance(one, GradScaler)), None)

    def _require_open(self) -> None:
        if self._ended:
            raise UsageError(
                f"Run {self.run_id} has ended with its `with esper.grow(...)`: train within it."
            )

    def _compare(self, loss: float) -> None:
        """Hold a step that is done again against what it was."""
        step = self.rigged.session.step
        then = self.earlier.pop(step, None)
        if then is None or then == loss or (math.isnan(then) and math.isnan(loss)):
            return
        self.earlier.clear()
        warnings.warn(
            f"Step {step} of run {self.run_id} had the loss {then!r} before it was resumed, and "
            f"has {loss!r} now: the loop moves something that no snapshot holds, such as a "
            "generator, a counter or a buffer of its own. Give it to growth.register(...).",
            stacklevel=3,
        )

    @property
    def _accumulate(self) -> int:
        """Batches of a step."""
        return self.rigged.session.parts.recipe.run.accumulate

    @property
    def due(self) -> bool:
        """Whether `step` is: all batches of the present step had their `loss`."""
        return bool(self._batches) and len(self._batches) == self._left

    @property
    def expected(self) -> int:
        """Batches of the present step."""
        return self._left

    @property
    def steps(self) -> int:
        """Optimizer steps completed."""
        return self.rigged.session.step

    @property
    def validation(self) -> Validation | None:
        """What the held-out split said at the end of the last epoch; None before the first."""
        session = self.rigged.session
        figures = session.cursor.figures
        if not figures.score_name:
            return None
        return Validation(
            session.state.epoch,
            figures.validation_loss,
            dict(figures.metrics),
            figures.score,
            figures.score_name,
            figures.higher_is_better,
        )

    @property
    def inventory(self) -> Inventory:
        """What of the model has seeds, what has none, and why; `print` shows it as a table."""
        return inventory(self.rigged.session.parts.growing.module)

    @property
    def stages(self) -> dict[tuple[str, int], str]:
        """The stage of every seed, by its layer and number, such as TRAINING or FOSSILIZED."""
        return {(seed.layer, seed.seed): seed.stage for seed in self.rigged.session.state.seeds}

    @property
    def within_step(self) -> bool:
        """Whether a loss was given whose `step` is still to come."""
        return bool(self._batches)

    def as_json(self) -> dict[str, Any]:
        """Where the run stands, for scripts."""
        session = self.rigged.session
        figures = session.cursor.figures
        return {
            "run_id": self.run_id,
            "status": session.state.status,
            "epochs": session.state.epoch,
            "steps": session.step,
            "loss": figures.validation_loss,
            "metrics": dict(figures.metrics),
            "score": figures.score,
            "score_name": figures.score_name,
            "growth": self.report(),
            "digest": parameters_digest(session.parts.growing.module),
        }

    def sentence(self) -> str:
        """The run and what came of it, for people."""
        status = self.rigged.session.state.status.lower()
        return f"Run {self.run_id}: {self.steps} steps, {status}. {self.report()}"

    def report(self) -> str:
        """What grew, or why nothing did, in a sentence."""
        return self.rigged.session.growth()

    def end(self, error: BaseException | None) -> None:
        """End the run's journal: completed, or failed.

        A run over `batches` that is left by an error, Ctrl-C among them, stands paused, and goes on
        when it is resumed.

        Raises:
            UsageError: a resumed loop has ended before it was where the run had been.
        """
        if self._ended:
            return
        # first: an error while ending must not end it a second time
        self._ended = True
        if self._iterator is not None:
            # one that a loop has left early and somebody still holds has our signal handlers
            self._iterator.close()
        session = self.rigged.session
        if self.rigged.rerun:
            if error is None:
                self.rigged.settle()
            return
        if session.state.status == "NEW" or isinstance(error, FencedError):
            return  # there is no journal, or it is another writer's
        if session.parts.journal.replaying:
            # what is left of the record contradicts any end
            if error is None:
                raise UsageError(
                    f"Run {self.run_id} had come further than step {session.step}, where this "
                    "loop has ended: resume it with the loop that it began with."
                )
        elif error is None:
            self._complete("FINISHED")
        elif isinstance(error, KeyboardInterrupt | Interrupted) and not self._resumable:
            self._complete("INTERRUPTED")
        elif session.state.status in ("RUNNING", "PAUSED"):
            reason = f"{type(error).__name__}: {error}"
            ours = isinstance(error, EsperError) and not isinstance(error, UsageError)
            if ours or not self._resumable:
                session.do(Fail(error=type(error).__name__, reason=reason))
            elif session.state.status == "RUNNING":
                # within a step there is no state to keep: it goes on from its last snapshot
                session.do(Pause(reason=f"Left by {reason}; it goes on when it is resumed."))
        self.rigged.settle()

    @property
    def _resumable(self) -> bool:
        return self._driven or self.beginning is not None

    def _complete(self, outcome: Outcome) -> None:
        session = self.rigged.session
        parts, growing, test = session.parts, session.parts.growing, session.cursor.test
        if not test.batch_losses:  # the loop was left before an epoch had ended
            test = evaluate(growing, parts.test, parts.task)
        saved = save_model(growing, parts.run_dir / "model.safetensors", parts.models)
        session.do(
            Complete(
                outcome=outcome,
                accuracy=test.accuracy,
                loss=test.loss,
                parameters=sum(parameter.numel() for parameter in growing.module.parameters()),
                digest=parameters_digest(growing.module),
                model_sha256=saved.sha256,
                **parts.task.fields(test.loss, test.metrics),
            )
        )

    def _shadow(self, batches: Sequence[_Batch], total: int, step: int) -> list[Place]:
        """Shadow passes of the TRAINING seeds whose turn it is."""
        session = self.rigged.session
        growing, task = session.parts.growing, session.parts.task
        turns = shadow_turns(
            growing, session.state, step, session.parts.recipe.kernels.shadow_passes
        )

        def loss(batch: _Batch) -> Tensor:
            return _shared([task.outcome(growing, batch.data).loss], [batch.units / total])

        if turns:
            with _own_precision(growing):
                for batch in batches:
                    for place in turns:
                        growing.shadow_step(place, batch.seed, partial(loss, batch))
        return turns


def _shared(losses: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The mean of losses by their shares of the step."""
    parts = [
        loss if share == 1 else loss * share for loss, share in zip(losses, shares, strict=True)
    ]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def _blamed(
    done: Pass, read: PassFigures, shadowed: Mapping[Place, float], *, scaled: bool = False
) -> tuple[Faults, set[Place]]:
    """What kernels have done wrong in a step, and those whose gradient is not finite because the
    host's loss is not, or because it was `scaled`: a shadow pass trains on what the host gave, and
    a scaled loss may leave the range of float16. `shadowed` has the scale of each shadow pass.
    """
    faults: Faults = {place: ("FORWARD", error) for place, error in done.raised.items()}
    excused = set[Place]()
    for place in read.outputs:
        faults.setdefault(place, ("NON_FINITE", NOT_FINITE))
    for place in read.norms:
        if not math.isfinite(read.loss) or shadowed[place] > 1.0 if place in shadowed else scaled:
            excused.add(place)
        else:
            faults.setdefault(place, ("NON_FINITE", GRADIENT_NOT_FINITE))
    return faults, excused - faults.keys()


def _precision(device: torch.device) -> PrecisionName:
    """The precision of the autocast that stands now, if any."""
    if not torch.is_autocast_enabled(device.type):
        return "float32"
    return "float16" if torch.get_autocast_dtype(device.type) == torch.float16 else "bfloat16"


@contextmanager
def _own_precision(growing: GrowingModel) -> Iterator[None]:
    """Within: the autocast of the last `loss`, whatever stands around this call."""
    with torch.autocast(growing.numerics.device.type, enabled=False):
        yield


@contextmanager
def signals(standing: Standing) -> Iterator[None]:
    """Within: Ctrl-C, SIGTERM and SIGHUP end the run between two steps, twice at once.

    What the caller has of its own stays.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if standing.stop:
            raise KeyboardInterrupt
        # a flag alone: an exception from here could strike between the outbox and the fold
        standing.stop = True

    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        # where the terminal is gone; nohup has it ignored, and that stays
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = (
        {
            number: signal.signal(number, interrupt)
            for number, handler in usual.items()
            if signal.getsignal(number) is handler
        }
        # handlers are the main thread's alone
        if threading.current_thread() is threading.main_thread()
        else {}
    )
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
