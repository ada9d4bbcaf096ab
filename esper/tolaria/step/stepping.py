"""One optimizer step: the live pass for the host and live kernels, then the shadow passes of the
TRAINING seeds whose turn it is.

A kernel that fails does not hurt the step. What it raises is caught where it runs; whether what it
gave was finite is read once, before the optimizer moves. The step is then done again from the same
random state, with that seed on its fallback: as if it had been so from the start.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from esper.blame import own_code
from esper.errors import EsperError
from esper.kasmina import KernelFault, Numerics
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.numerics import device_of
from esper.kasmina.seeded.kernel_training import total_norm
from esper.kasmina.seeded.shadow import seed_streams
from esper.lifecycle import LIVE, RunState
from esper.tolaria.recipes.recipe import Recipe, RunSection
from esper.tolaria.recipes.structures import divided, mapped
from esper.tolaria.step.calling import blamed
from esper.tolaria.step.method import Method
from esper.tolaria.step.optimizers import HostState, host_optimizer
from esper.tolaria.step.passes import (
    GRADIENT_NOT_FINITE,
    NOT_FINITE,
    Faults,
    Pass,
    PassFigures,
    count_faults,
    step_kernels,
)
from esper.tolaria.step.schedules import fractions_of
from esper.tolaria.step.tasks import Batch, Task

STEP_NOT_FINITE = "The step was not finite with the kernel, and is without it."


def stream_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed for the random stream that `labels` name: no stream moves another."""
    # the separator keeps the labels (1, 23) and (12, 3) apart
    text = "\x1f".join(str(label) for label in (seed, *labels))
    # 63 bits fit a signed integer, whatever generator is seeded with it
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def batch_order(seed: int, epoch: int, samples: int, batch_size: int, order: int = 0) -> Tensor:
    """Indices [steps, batch_size] of an epoch: a permutation made from (seed, epoch, order) alone.

    The rest that fills no batch is left out.
    """
    # a generator of its own: what a model draws from the global stream must not reorder data
    generator = torch.Generator().manual_seed(
        # order 0 adds no label: a run recorded without an order replays with the same batches
        stream_seed(seed, "order", epoch, *([order] if order else []))
    )
    steps = samples // batch_size
    return torch.randperm(samples, generator=generator)[: steps * batch_size].view(
        steps, batch_size
    )


def shadow_turns(growing: GrowingModel, state: RunState, step: int, most: int) -> list[Place]:
    """The TRAINING seeds that have a shadow pass in this step: at most `most`, taking turns."""
    training = [
        (seed.layer, seed.seed)
        for seed in state.seeds
        if seed.stage == "TRAINING" and (seed.layer, seed.seed) in growing.kernels
    ]
    passes = min(most, len(training))
    # from the step alone: a resumed run has no memory of whose turn it was
    return [training[(step * passes + index) % len(training)] for index in range(passes)]


def numerics_of(run: RunSection) -> Numerics:
    """How the forward passes of a run go.

    Raises:
        UsageError: the recipe names a GPU and there is none.
    """
    return Numerics(run.precision, run.channels_last, device_of(run.device))


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Figures of one step: the task's loss and metrics, Euclidean norm of the host's gradient
    before clipping, and what failed.
    """

    loss: float
    metrics: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    faults: tuple[KernelFault, ...] = ()

    @property
    def accuracy(self) -> float:
        """The metric of that name, a fraction; 0 where the task has none."""
        return self.metrics.get("accuracy", 0.0)


class Stepper:
    """Steps a growing model by a method: task, optimizer and schedule, over `total_steps`.

    `scaler` is the host's, in float16 only.

    Raises:
        UsageError: optimizer or schedule do not take what the recipe gives them.
    """

    def __init__(
        self, growing: GrowingModel, recipe: Recipe, total_steps: int, method: Method
    ) -> None:
        self._growing = growing
        self._task = method.task
        self._recipe = recipe
        self._name = recipe.optimizer.name
        self.host_optimizer = host_optimizer(growing, recipe.optimizer, method.optimizer)
        self._host_state = HostState(recipe.optimizer.name, self.host_optimizer)
        # the schedule multiplies these, never the rates of the step before: rounding would pile up
        self._rates = [group["lr"] for group in self.host_optimizer.param_groups]
        self._fractions = fractions_of(recipe.schedule, method.schedule, total_steps, self._rates)
        self.scaler = (
            torch.amp.GradScaler(growing.numerics.device.type) if growing.numerics.scales else None
        )
        if self.scaler is not None:
            self.scaler.scale(
                torch.zeros((), device=growing.numerics.device)
            )  # it makes its tensors at the first call

    def state_dict(self) -> dict[str, Any]:
        """What a snapshot keeps of it beside the optimizer's tensors: the state of the scaler, and
        what the optimizer holds that is no tensor.
        """
        optimizer = self._host_state.state_dict()
        return {
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            **({"optimizer": optimizer} if optimizer else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self.scaler is not None:
            self.scaler.load_state_dict(dict(state["scaler"]))
        # snapshots leave an empty note out, and it still resets what the optimizer has moved
        self._host_state.load_state_dict(state.get("optimizer", {}))

    def turns(self, state: RunState, step: int) -> list[Place]:
        """The TRAINING seeds that have a shadow pass in this step: at most `kernels.shadow_passes`,
        taking turns.
        """
        return shadow_turns(self._growing, state, step, self._recipe.kernels.shadow_passes)

    def step(
        self,
        state: RunState,
        step: int,
        batch: Batch,
        *,
        sample: bool,
        forced: frozenset[Place] = frozenset(),
    ) -> StepFigures:
        """Do step number `step` (from 0) on inputs [B, ...] and targets [B, ...].

        With `sample`, seed statistics are taken.

        Kernels at `forced` places run on their fallback, and are counted as failed: so a journal
        that names them is re-executed.
        """
        growing = self._growing
        fractions = self._fractions(step)
        groups = self.host_optimizer.param_groups
        for group, rate, fraction in zip(groups, self._rates, fractions, strict=True):
            # set anew from the step: resuming needs no state of a scheduler
            group["lr"] = rate * fraction
        # a seed in ERROR_RECOVERY keeps its stage, but its kernel is released
        live = [
            (seed.layer, seed.seed)
            for seed in state.seeds
            if seed.stage in LIVE and (seed.layer, seed.seed) in growing.kernels
        ]
        turns = self.turns(state, step)
        attempts = _Attempts(
            growing,
            self._task,
            self.scaler,
            self._micro_batches(step, batch),
            # a kernel that failed in the record must not run: this time it might not fail
            live=[place for place in live if place not in forced],
            shadowed=[place for place in turns if place not in forced],
            forced=forced,
            sample=sample,
        )
        done = attempts.settle()
        self._finish(done, sample=sample)
        # after `_finish`: a scale set before `scaler.update` would be overwritten by it
        overflowed = self._optimise(attempts, done, fractions[0])
        # where no kernel took part, this is the only wait for the device, after the optimizer
        read = attempts.read or done.read()
        faults = count_faults(
            growing, [*live, *turns], attempts.faults, forced=forced, spared=overflowed
        )
        metrics = self._task.finished(read.metrics)
        return StepFigures(read.loss, metrics, read.norm, groups[0]["lr"], faults)

    def _micro_batches(self, step: int, batch: Batch) -> list[_MicroBatch]:
        """Each micro-batch with its random seed, on the device."""
        growing, seed, parts = self._growing, self._recipe.run.seed, self._recipe.run.accumulate
        # a seed for each step, not a running stream: a step replays without those before it
        first = stream_seed(seed, "forward", step)
        # each micro-batch needs its own stream: one for all would repeat the dropout masks
        seeds = [first, *(stream_seed(seed, "forward", step, micro) for micro in range(1, parts))]
        # counted before they are on the device, where it would wait for it
        units = [self._task.counted(part) for part in divided(batch, parts)]
        if sum(units) < 1:
            self._task.count(batch)
        total, placed = sum(units), mapped(growing.numerics.inputs, batch)
        return [
            _MicroBatch(seed, part, counted, counted / total)
            for seed, part, counted in zip(seeds, divided(placed, parts), units, strict=True)
            # one whose labels are all left out has no mean
            if counted
        ]

    def _finish(self, done: Pass, *, sample: bool) -> None:
        """Let the host's optimizer move."""
        if self.scaler is not None:
            # before clipping: the recipe's limit is for true gradients
            self.scaler.unscale_(self.host_optimizer)
        # before clipping: statistics show what training gave, not what was cut off
        if sample:
            self._growing.observe_gradients()
        # an infinite limit gives the factor 1.0, which keeps every bit
        nn.utils.clip_grads_with_norm_(
            self._growing.host_parameters, self._recipe.optimizer.clip_norm or math.inf, done.norm
        )
        what, optimizer, scaler = (
            f"optimizer.name = {self._name!r}",
            self.host_optimizer,
            self.scaler,
        )
        if scaler is None:
            own_code(what, optimizer.step)
        else:
            own_code(what, lambda: scaler.step(optimizer))
            scaler.update()

    def _optimise(self, attempts: _Attempts, done: Pass, fraction: float) -> set[Place]:
        """Let the kernels' optimizers move, but for those that failed or overflowed.

        Gives those that only overflowed.
        """
        growing, bad = self._growing, set(attempts.read.norms if attempts.read else ())
        overflowed = set(attempts.overflowed)
        # a set's order does no harm: faults are reported in the order of the seeds
        for place in bad - attempts.faults.keys():
            if attempts.blameless(place):
                overflowed.add(place)
            else:
                attempts.faults[place] = ("NON_FINITE", GRADIENT_NOT_FINITE)
        for place in overflowed & set(attempts.shadowed):
            # halved as a scaler backs off (Micikevicius et al. 2018, arXiv:1710.03740); a shadow
            # pass has a scale of its own
            growing.kernels[place].scale = max(1.0, growing.kernels[place].scale / 2)
        if (
            self.scaler is not None
            and overflowed & set(attempts.live)
            and attempts.read is not None
            and attempts.read.finite
        ):
            self.scaler.update(
                max(1.0, self.scaler.get_scale() / 2)
            )  # the host's step went through, so its scaler saw nothing
        step_kernels(growing, done, bad | attempts.faults.keys(), fraction)
        return overflowed


@dataclass(frozen=True, slots=True)
class _MicroBatch:
    """A part of a step's batch, the random seed of its passes, its units and their share of all."""

    seed: int
    batch: Batch
    units: int
    share: float


class _Attempts:
    """The attempts at one step: again without the kernel that spoilt the last one, until one is fit
    for the optimizers.
    """

    def __init__(
        self,
        growing: GrowingModel,
        task: Task,
        scaler: torch.amp.GradScaler | None,
        batches: Sequence[_MicroBatch],
        *,
        live: Sequence[Place],
        shadowed: Sequence[Place],
        forced: frozenset[Place],
        sample: bool,
    ) -> None:
        self.shadowed = shadowed
        self.faults: Faults = {}
        self.overflowed: set[Place] = set()
        self.read: PassFigures | None = None
        # read once: all attempts at a step share one scale, or their norms could not be compared
        self.scale = scaler.get_scale() if scaler is not None else 1.0
        self._growing = growing
        self._task = task
        self._batches = batches
        self.live = live
        self._off = forced
        self._sample = sample
        # before the first pass: each attempt starts from these. Without live kernels there is one
        self._kept = growing.kept() if live else None

    def blameless(self, place: Place) -> bool:
        """Whether a gradient of the kernel at `place` that is not finite is the host's doing, or
        float16's.
        """
        assert self.read is not None  # noqa: S101  # the caller found it in there
        if place in self.shadowed:
            return not math.isfinite(self.read.loss) or (
                self._growing.numerics.scales and self._growing.kernels[place].scale > 1
            )
        return not self.read.finite or self.scale > 1

    def settle(self) -> Pass:
        """The attempt that the optimizers may use."""
        done = self._again(self._off)
        # nothing can be blamed, so nothing is read: that would wait for the device
        if not self.live and not self.shadowed:
            return done
        self.read = done.read()
        # each round takes away one kernel at least, so it ends
        while running := [place for place in self.live if place not in self._off]:
            blamed = self._blamed(done, running)
            if not blamed:
                break
            # a whole new attempt: what the kernel gave has changed every activation behind it
            self._off |= blamed
            done = self._again(self._off)
            self.read = done.read()
        # only now: what a shadow pass did in an attempt that was thrown away does not count
        self.faults |= {
            place: ("FORWARD", error)
            for place, error in done.raised.items()
            if place in self.shadowed
        }
        return done

    def _blamed(self, done: Pass, running: Sequence[Place]) -> set[Place]:
        """The live kernels that the last attempt has to be done again without."""
        assert self.read is not None  # noqa: S101  # the caller has read it
        # before any figure: a pass that raised has NaN for its loss, which would blame others
        raised = {place: error for place, error in done.raised.items() if place in running}
        if raised:
            self.faults |= {place: ("FORWARD", error) for place, error in raised.items()}
            return set(raised)
        if self.read.outputs:  # what comes after it may only have passed it on
            self.faults[self.read.outputs[0]] = ("NON_FINITE", NOT_FINITE)
            return {self.read.outputs[0]}
        if self.read.finite:
            return set()
        overflow = (
            # loss and statistics finite, gradient not: the scaled gradient has left float16's range
            self.scale > 1 and math.isfinite(self.read.loss) and math.isfinite(self.read.kept)
        )
        spoilt = self._suspects(running)
        if spoilt and overflow:
            # no fault: an overflow must not bring the kernel nearer to the breaker
            self.overflowed |= spoilt
        else:
            self.faults |= dict.fromkeys(spoilt, ("NON_FINITE", STEP_NOT_FINITE))
        return spoilt

    def _suspects(self, running: Sequence[Place]) -> set[Place]:
        """The kernel without which the step is finite, or all of them.

        None when it is the host's own fault.
        """
        # first without any: if the host alone is not finite, no kernel is to blame
        if not self._again(self._off | set(running)).read().finite:
            # the search overwrote gradients and statistics: back to the attempt that stands
            self._again(self._off)
            return set()
        return next(
            (
                {place}
                for place in running
                # with one kernel running, the pass above was the attempt without it
                if len(running) > 1 and self._again(self._off | {place}).read().finite
            ),
            set(running),
        )

    def _again(self, off: frozenset[Place]) -> Pass:
        """Run live and shadow passes from the beginning, with the seeds in `off` on
        their fallback.
        """
        with self._growing.switches.set_aside(off):
            return self._passes(off)

    def _passes(self, off: frozenset[Place]) -> Pass:
        growing, switches = self._growing, self._growing.switches
        if self._kept is not None:
            # the last attempt moved the running statistics
            self._kept.restore()
        live = [place for place in self.live if place not in off]
        growing.zero_gradients()
        for parameter in growing.host_parameters:
            # None, not zeros: optimizers skip a parameter without gradient, and decay one with
            # zeros
            parameter.grad = None
        total = sum(micro.units for micro in self._batches)
        losses = []
        sums: dict[str, list[Tensor]] = {metric.name: [] for metric in self._task.metrics}
        for micro in self._batches:
            # each attempt, and the shadow pass below, must draw the same dropout masks
            seed_streams(micro.seed)
            last = micro is self._batches[-1]
            with switches.live_pass(watching=bool(live), sampling=self._sample and last):
                loss, batch_sums = self._live_pass(micro, guarded=bool(live))
            losses.append(loss)
            for name, values in sums.items():
                values.append(batch_sums[name])
            for place in self.shadowed:
                growing.shadow_step(place, micro.seed, partial(self._loss, micro))
        # stays on the device until `read`: to ask here would wait for the backward
        norm = total_norm(
            [parameter.grad for parameter in growing.host_parameters if parameter.grad is not None]
        ).to(losses[0].device)
        norms = {place: growing.kernels[place].norm(self.scale) for place in live}
        for place in self.shadowed:
            if place not in switches.notes.raised:
                grown = growing.kernels[place]
                norms[place] = grown.norm(grown.scale if growing.numerics.scales else 1.0)
        return Pass(
            torch.stack(losses).sum() if len(losses) > 1 else losses[0],
            {name: torch.stack(values).sum() / total for name, values in sums.items()},
            norm if self.scale == 1.0 else norm / self.scale,
            torch.zeros_like(norm) if self._kept is None else self._kept.norm().to(norm.device),
            norms,
            dict(switches.notes.finite),
            dict(switches.notes.raised),
        )

    def _live_pass(
        self, micro: _MicroBatch, *, guarded: bool
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Forward and backward of one micro-batch: its part of the loss, and its sums of metrics.

        NaN when `guarded` and something raised.
        """
        try:
            outcome = self._task.outcome(self._growing, micro.batch)
            loss = _part(outcome.loss, micro.share)
            (loss if self.scale == 1.0 else loss * self.scale).backward()
        except Exception as error:
            # without live kernels the error is the host's or the task's, and has to surface
            if not guarded:
                if isinstance(error, EsperError):
                    raise
                raise blamed(self._growing, self._task, error) from error
            # NaN marks the attempt as unfit; which kernel raised stands in the notes
            none = torch.zeros((), device=self._growing.numerics.device)
            return none + math.nan, {metric.name: none for metric in self._task.metrics}
        return loss.detach(), outcome.sums

    def _loss(self, micro: _MicroBatch) -> Tensor:
        return _part(self._task.outcome(self._growing, micro.batch).loss, micro.share)


def _part(loss: Tensor, share: float) -> Tensor:
    """A micro-batch's part of the step's loss: it has `share` of the units."""
    return loss if share == 1 else loss * share
