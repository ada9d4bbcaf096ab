"""Growth in Lightning's `Trainer`.

    growing = GrowthCallback(held_out=held_out, run_id="mine")
    trainer = Trainer(callbacks=[growing, ModelCheckpoint(every_n_train_steps=100, save_last=True)])
    trainer.fit(module, growing.loader(train_loader), ckpt_path="last")

Lightning's checkpoints are what a run goes on from: each names a snapshot of the same moment. The
order of the batches is Esper's, so that a run goes on in the middle of an epoch, where Lightning
would begin the epoch anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from esper.errors import UsageError
from esper.integrations.attachment import Attachment, reported
from esper.integrations.loaded_state import HeldBack, optimizer_within
from esper.tolaria.recipes.splits import Split
from esper.tolaria.run.driven import Mark
from esper.tolaria.run.own_batches import Batches, batches_of
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_start import OwnLoop
from esper.tolaria.step.tasks import Task

_NAME: Final = "Lightning"
_PRECISIONS: Final = ("32-true", "64-true", "bf16-mixed")
_AVERAGING: Final = ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging")
_REFUSED: Final[tuple[tuple[str, Callable[[Trainer], Any], str], ...]] = (
    (
        "more than one device, or a strategy of its own",
        lambda trainer: not isinstance(trainer.strategy, SingleDeviceStrategy),
        "each process would grow another model: give Trainer(devices=1)",
    ),
    (
        "a precision other than 32-true, 64-true and bf16-mixed",
        lambda trainer: trainer.precision not in _PRECISIONS,
        "scaled gradients are not Esper's to judge: take bf16-mixed",
    ),
    (
        "overfit_batches",
        lambda trainer: trainer.overfit_batches,
        "the order of the batches is Esper's",
    ),
    (
        "several optimizers",
        lambda trainer: len(trainer.optimizers) != 1,
        "one moves the host: give one, with groups",
    ),
    (
        "manual optimization",
        lambda trainer: not trainer.lightning_module.automatic_optimization,
        "its steps have no hooks: use esper.grow in a loop of your own",
    ),
    (
        "averaged weights",
        lambda trainer: any(type(one).__name__ in _AVERAGING for one in trainer.callbacks),
        "they average by position, and kernels add parameters",
    ),
)
"""What cannot work, what asks for it, and why."""


class OrderedLoader:
    """The batches of a data set in Esper's order, from where the run is on."""

    def __init__(self, batches: Batches, attachment: Attachment) -> None:
        self.batches = batches
        self.attachment = attachment

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the present epoch that are left.

        Lightning makes an iterator before its loop has begun: where it begins is asked at the first
        batch.
        """
        yield from self.batches.epoch(*reported(self.attachment).position())

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the run knows where it is. It tells Lightning that it can go on in an epoch."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing back, as `state_dict` gave nothing."""


class GrowthCallback(Callback):  # type: ignore[misc]  # lightning is not read for types
    """Grows the model that Lightning trains.

    Args:
        held_out: inputs and targets that Lightning does not train on, as of `esper.grow`.
        part: the name of the module within the LightningModule whose output the task reads, such as
            `net`; empty where it is the LightningModule's own `forward`.
        run_id: the run's name; one is made when none is given. A checkpoint names its run.
        resume: where fit begins at its first step, go on with the run `run_id` from there, if it
            has begun: it was killed before its first checkpoint.
        seed, task, settings: as of `esper.grow`. The task has to make the loss of `training_step`.
    """

    def __init__(
        self,
        *,
        held_out: Split,
        part: str = "",
        run_id: str = "",
        resume: bool = False,
        seed: int = 0,
        task: Task | str | Mapping[str, object] = "classification",
        **settings: Any,
    ) -> None:
        super().__init__()
        self._held_out, self._part, self._run_id, self._resume = held_out, part, run_id, resume
        self._seed, self._task, self._settings = seed, task, settings
        self._attachment = Attachment(_NAME)
        self._held_back: HeldBack | None = None
        self._note: object = None
        self._hooks: list[Any] = []
        self._batch: Any = None
        self._outputs: list[Any] | None = None
        self._loss: Tensor | None = None
        self._last: Growth | None = None

    @property
    def growth(self) -> Growth:
        """The run, during and after fit.

        Raises:
            UsageError: fit has not begun.
        """
        if self._last is None:
            raise UsageError("There is no run yet: call trainer.fit(...) first.")
        return self._last

    def loader(
        self,
        data: Any,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> OrderedLoader:
        """What `fit` trains on: the batches of `data`, as `growth.batches` takes it.

        Raises:
            UsageError: the order of `data` cannot be Esper's.
        """
        found = batches_of(
            data, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=self._seed
        )
        return OrderedLoader(found, self._attachment)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; a snapshot is taken of the same moment."""
        driven = self._attachment.driven
        mark = driven.save() if driven is not None else None
        return {} if mark is None else mark.as_json()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the loaded checkpoint has of it."""
        self._note = state_dict

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold back what a checkpoint loads: the optimizer is made after that."""
        del trainer
        if stage == "fit":
            self._held_back, self._note = HeldBack(pl_module), None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run begins, or goes on from the snapshot that the loaded checkpoint names."""
        for what, asked, why in _REFUSED:
            if asked(trainer):
                raise UsageError(f"Esper cannot grow a model with {what}: {why}.")
        loader = trainer.train_dataloader
        if not isinstance(loader, OrderedLoader) or loader.attachment is not self._attachment:
            raise UsageError(
                "Give trainer.fit(module, growing.loader(train_loader)), with this callback as "
                "growing: Lightning does not go on in the middle of an epoch, and Esper's order "
                "does."
            )
        steps = trainer.estimated_stepping_batches
        if not isinstance(steps, int):
            raise UsageError("Training has no end: give Trainer(max_epochs=...) or max_steps.")
        mark = None
        if trainer.global_step:
            mark = Mark.of(self._note, f"The checkpoint of step {trainer.global_step}")
        loaded = self._release(mark)
        model = self._trained(pl_module)
        driven = self._attachment.begin(
            OwnLoop(
                model,
                optimizer_within(trainer.optimizers[0]),
                self._held_out,
                steps,
                self._seed,
                self._task,
                self._settings,
                trainer.accumulate_grad_batches,
            ),
            batches=int(trainer.num_training_batches),
            content=loader.batches.content,
            run_id=self._run_id,
            resume=self._resume,
            mark=mark,
            loaded=loaded,
        )
        self._last = driven.growth
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_forward_hook(self._after_forward, always_call=True),
        ]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: what has come in takes effect."""
        del pl_module, batch_idx
        driven = reported(self._attachment)
        if trainer.accumulate_grad_batches != driven.accumulate:
            raise UsageError(
                f"accumulate_grad_batches is {trainer.accumulate_grad_batches} now, and a step of "
                f"this run has {driven.accumulate} batches: leave it as it was."
            )
        if not driven.growth.within_step:
            driven.before_step()
        self._batch, self._outputs, self._loss = batch, [], None

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """The loss is there, divided by the batches of a step."""
        del trainer, pl_module
        self._loss = loss

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The batch is one of the step."""
        del trainer
        self._require_trained(pl_module)
        assert self._loss is not None  # noqa: S101  # looked at above
        assert self._outputs is not None  # noqa: S101
        driven = reported(self._attachment)
        loss = self._loss if driven.accumulate == 1 else self._loss * driven.accumulate
        driven.took(self._batch, self._outputs[0], loss)
        self._batch = self._outputs = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Kernels learn, and the step is told."""
        del trainer, optimizer
        self._require_trained(pl_module)
        reported(self._attachment).step()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """After a step, from here on a checkpoint can be saved."""
        del trainer
        self._require_trained(pl_module)
        driven = reported(self._attachment)
        if not driven.growth.within_step:
            driven.after_step()

    def _require_trained(self, pl_module: LightningModule) -> None:
        """Refuse a batch without a backward of what the model gave for it; one that was taken has
        no outputs any more.
        """
        outputs = self._outputs
        if outputs is None or (self._loss is not None and len(outputs) == 1):
            return
        name = self._part or type(pl_module).__name__
        raise UsageError(
            f"training_step has called {name} {len(outputs)} times and given "
            f"{'a' if self._loss is not None else 'no'} loss: let it call it once and return a "
            "loss, and name the module whose output the task reads by part."
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation on the held-out split, gates, Tamiyo's answer."""
        del trainer, pl_module
        reported(self._attachment).end_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is finished."""
        del trainer, pl_module
        reported(self._attachment).end_epoch()
        self._attachment.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The run stands paused, and goes on from a checkpoint."""
        del trainer, pl_module
        self._attachment.end(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing on the model."""
        del trainer, pl_module, stage
        if self._held_back is not None:
            with suppress(UsageError):  # what went wrong before is the one to be said
                self._release(None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _release(self, mark: Mark | None) -> set[str]:
        """The names of the host's tensors that were loaded, in the trained module."""
        assert self._held_back is not None  # noqa: S101  # `setup` comes first
        self._held_back.release(mark)
        prefix = f"{self._part}." if self._part else ""
        loaded = {
            name.removeprefix(prefix) for name in self._held_back.loaded if name.startswith(prefix)
        }
        self._held_back = None
        return loaded

    def _trained(self, pl_module: LightningModule) -> nn.Module:
        try:
            found: nn.Module = pl_module.get_submodule(self._part)
        except AttributeError:
            raise UsageError(
                f"{type(pl_module).__name__} has no part {self._part!r}: name the module whose "
                "output the task reads."
            ) from None
        return found

    @property
    def _stepped_on(self) -> bool:
        """Whether a forward is the one of the step: not Esper's own, and not a validation's."""
        return self._outputs is not None and self._loss is None

    def _before_forward(self, module: nn.Module, inputs: Any) -> None:
        del module, inputs
        if self._stepped_on and not self._outputs:
            reported(self._attachment).open_pass()

    def _after_forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        if not self._stepped_on:
            return
        assert self._outputs is not None  # noqa: S101  # just asked
        # here, where Lightning's autocast still stands
        reported(self._attachment).close_pass()
        self._outputs.append(output)
