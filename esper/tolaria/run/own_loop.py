"""Growth in a user's own training loop: the user steps the host, Esper the kernels, and the journal
has it all.

A loop over `Growth.batches` can go on after any death: Esper draws its batches, and snapshots hold
what the loop moves. One that draws batches itself has a journal and a history, and no snapshots.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from esper.checkpoint import Snapshot
from esper.errors import EsperError, FencedError, UsageError
from esper.events.records import Outcome
from esper.kasmina import Place
from esper.lifecycle import LIVE
from esper.lifecycle.commands import Complete, Fail, Pause
from esper.tolaria.recipes.structures import Structure, plain, size
from esper.tolaria.record.snapshot_content import address, place_of
from esper.tolaria.run.own_batches import Batches, batches_of
from esper.tolaria.run.trainer import start_of
from esper.tolaria.run.wiring import Runtime
from esper.tolaria.session.composition import Interrupted, RolledBack, Standing
from esper.tolaria.session.model_file import save_model
from esper.tolaria.session.registered import Stateful
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
    """The batch of the present step, its figures as tensors, and the random seed of its shadow
    passes.
    """

    data: Batch
    loss: Tensor
    metrics: dict[str, Tensor]
    seed: int


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


@dataclass(slots=True)
class Growth:
    """A run in a user's own loop.

    For each batch: `loss`, backward, `step`, the own optimizer. `batches` gives them and ends the
    epochs; without it, call `epoch` after each.

    `run_id` names the run in the journal and the history, `fractions` are the factors of the
    kernels' learning rates. `beginning` is the snapshot that a resumed run goes on from.
    """

    run_id: str
    rigged: Runtime
    own: OwnOptimizer
    begun: float
    fractions: Fractions
    beginning: Snapshot | None = None
    _batch: _Batch | None = None
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
        if epochs * len(found) != session.total_steps:
            raise UsageError(
                f"esper.grow was given steps={session.total_steps}, and {epochs} epochs of "
                f"{len(found)} batches are {epochs * len(found)}: give one of them another value."
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
                        session.ask_again()
                while session.state.epoch < epochs:
                    with suppress(RolledBack):  # the loop goes on from there
                        yield from self._one_epoch(found, after_epoch)
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
        for batch in found.epoch(session.state.epoch, done):
            session.between_steps()
            wanted = session.step + 1
            yield batch
            if session.step != wanted:
                raise UsageError(
                    "Call growth.loss(...), its backward() and growth.step() once for each batch "
                    "of growth.batches(...)."
                )
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
        if self._batch is not None:
            raise UsageError(
                "growth.loss(...) was called twice without growth.step(): each batch has one loss "
                "and one step."
            )
        if not self._driven:
            if self.beginning is not None:
                raise UsageError(
                    f"Run {self.run_id} goes on with the batches of growth.batches(...), as it "
                    "began."
                )
            if session.state.status == "NEW":
                self._start()
                session.open_dialogue()
            session.between_steps()
        data: Batch = plain(batch[0] if len(batch) == 1 else batch, "What growth.loss was given")
        with self.live_pass():
            outcome = session.parts.task.outcome(session.parts.growing, data)
        self.took(data, outcome.loss, outcome.sums)
        return outcome.loss

    @contextmanager
    def live_pass(self) -> Iterator[None]:
        """Within: the forward whose loss the next step is of; `took` says then what came of it."""
        parts, step = self.rigged.session.parts, self.rigged.session.step
        growing, telemetry = parts.growing, parts.recipe.telemetry
        self.begun = parts.clock.monotonic()
        switches = growing.switches
        # until the next loss, not for this call alone: backward may compute layers once more
        switches.fallback = frozenset(self.own.spared)
        switches.notes.clear(watching=False)
        sampling = (step + 1) % telemetry.every_steps == 0
        with switches.live_pass(watching=bool(growing.kernels), sampling=sampling):
            yield

    def took(self, data: Batch, loss: Tensor, sums: Mapping[str, Tensor]) -> None:
        """Note what a `live_pass` over a batch gave, for the step: its loss, and the sum of each
        metric over the batch's units.
        """
        parts, step = self.rigged.session.parts, self.rigged.session.step
        units = parts.task.count(data)
        self._batch = _Batch(
            data,
            loss.detach(),
            {name: value / units for name, value in sums.items()},
            stream_seed(parts.recipe.run.seed, "forward", step),
        )

    def hand_over(self, content: dict[str, Any]) -> None:
        """Leave the loop to a framework (`esper.tolaria.run.driven`), which opens passes, ends
        epochs and says when snapshots are taken. `content` says what it trains on.

        Raises:
            UsageError: a resumed run was begun with something else.
        """
        session = self.rigged.session
        self._require_content(content)
        self.own.content = content
        self.own.state_dict()  # what no snapshot can hold is refused before the first step
        session.parts.stepper, session.standing.defers, self._driven = self.own, True, True
        self._start()

    def _require_content(self, content: Mapping[str, Any]) -> None:
        if self.own.content and self.own.content != content:
            changed = next(key for key in content if content[key] != self.own.content.get(key))
            raise UsageError(
                f"Run {self.run_id} was begun with other data "
                f"({'another first batch' if changed == 'first' else changed + ' differs'}): a run "
                "goes on with the data that it began with."
            )

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
        batch, session = self._batch, self.rigged.session
        if batch is None:
            raise UsageError(
                "Call growth.step() after growth.loss(inputs, targets) and its backward()."
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
        self._batch = None
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
        scale = self._scale()
        norm = nn.utils.get_total_norm(host)
        done = Pass(
            batch.loss,
            batch.metrics,
            norm if scale == 1.0 else norm / scale,
            torch.zeros_like(norm),
            {
                # a shadow pass has its own backward, which nobody has scaled
                place: growing.kernels[place].norm(scale if place in live else 1.0)
                for place in (*live, *turns)
            },
            finite,
            raised,
        )
        read = done.read()
        faults, excused = _blamed(done, read, turns, scaled=scale > 1.0)
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
        self.rigged.session.end_epoch()
        self.rigged.session.consult()

    def _start(self) -> None:
        """Begin the journal, unless the run is resumed."""
        session = self.rigged.session
        if session.state.status != "NEW":
            return
        session.do(start_of(session))
        if self._driven:
            # at once: the model's first parameters are the caller's, and no seed gives them again
            session.snapshots.begin("begun")
            session.snapshots.record(wait=True)

    def _scale(self) -> float:
        """What the loss is multiplied by before its backward: by a registered GradScaler."""
        parts = self.rigged.session.parts.registered.parts.values()
        return next((one.get_scale() for one in parts if isinstance(one, GradScaler)), 1.0)

    def _require_open(self) -> None:
        if self._ended:
            raise UsageError(
                f"Run {self.run_id} has ended with its `with esper.grow(...)`: train within it."
            )

    @property
    def steps(self) -> int:
        """Optimizer steps completed."""
        return self.rigged.session.step

    @property
    def within_step(self) -> bool:
        """Whether a loss was given whose `step` is still to come."""
        return self._batch is not None

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
    done: Pass, read: PassFigures, shadowed: Collection[Place], *, scaled: bool = False
) -> tuple[Faults, set[Place]]:
    """What kernels have done wrong in a step, and those whose gradient is not finite because the
    host's loss is not, or because it was `scaled`: a shadow pass trains on what the host gave, and
    a scaled loss may leave the range of float16.
    """
    faults: Faults = {place: ("FORWARD", error) for place, error in done.raised.items()}
    excused = set[Place]()
    for place in read.outputs:
        faults.setdefault(place, ("NON_FINITE", NOT_FINITE))
    for place in read.norms:
        if not math.isfinite(read.loss) if place in shadowed else scaled:
            excused.add(place)
        else:
            faults.setdefault(place, ("NON_FINITE", GRADIENT_NOT_FINITE))
    return faults, excused - faults.keys()


@contextmanager
def signals(standing: Standing) -> Iterator[None]:
    """Within: Ctrl-C and SIGTERM end the run between two steps, twice at once.

    What the caller has of its own stays.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if standing.stop:
            raise KeyboardInterrupt
        # a flag alone: an exception from here could strike between the outbox and the fold
        standing.stop = True

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
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
