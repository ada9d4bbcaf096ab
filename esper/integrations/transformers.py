"""Growth in Hugging Face's `Trainer`.

    trainer = Trainer(esper.germinate(model), args, train_dataset=..., callbacks=[
        GrowthCallback(held_out=held_out, run_id="mine")])
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir))

The Trainer's checkpoints are what a run goes on from: each names a snapshot of the same moment. The
Trainer clips gradients before Esper sees them, those of kernels in use together with the host's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.trainer_callback import ExportableState

from esper.bounded import limits_of
from esper.config import Settings
from esper.errors import UsageError
from esper.integrations.attachment import Attachment, reported
from esper.integrations.loaded_state import HeldBack, optimizer_within, tensors_of
from esper.kasmina.plain.files import ModelFile, load_into, read_file
from esper.kasmina.seeded.structure import LayerNote
from esper.tolaria.recipes.splits import Split
from esper.tolaria.recipes.structures import fingerprint
from esper.tolaria.run.driven import Mark, OtherLossError
from esper.tolaria.run.own_batches import streams
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_start import OwnLoop
from esper.tolaria.step.tasks import LABELS, Task

_NAME: Final = "the Trainer"
_REFUSED: Final[tuple[tuple[str, Callable[[TrainingArguments], Any], str], ...]] = (
    (
        "more than one process or GPU",
        lambda args: args.world_size > 1 or args.n_gpu > 1,
        "each would grow another model: run it in one process with CUDA_VISIBLE_DEVICES=0",
    ),
    (
        "deepspeed",
        lambda args: args.deepspeed,
        "it splits the parameters that kernels stand beside",
    ),
    ("fsdp", lambda args: args.fsdp, "it splits the parameters that kernels stand beside"),
    ("fp16", lambda args: args.fp16, "its scaled gradients are not Esper's to judge: take bf16"),
    ("torch_compile", lambda args: args.torch_compile, "a compiled forward has no place for hooks"),
    (
        "label_smoothing_factor",
        lambda args: args.label_smoothing_factor,
        "the Trainer takes the labels away: let the model's own loss smooth them",
    ),
    (
        "load_best_model_at_end",
        lambda args: args.load_best_model_at_end,
        "the run would end with another model than its journal: load the best by esper.load",
    ),
    ("save_only_model", lambda args: args.save_only_model, "nothing goes on from such checkpoints"),
    (
        "ignore_data_skip",
        lambda args: args.ignore_data_skip,
        "a run that goes on has to see the batches that it would have seen",
    ),
    (
        "auto_find_batch_size",
        lambda args: args.auto_find_batch_size,
        "a run that fails is begun anew: give per_device_train_batch_size",
    ),
    (
        "restore_callback_states_from_checkpoint",
        lambda args: args.restore_callback_states_from_checkpoint,
        "it would make this callback anew, without its held-out split",
    ),
)
"""What cannot work, by the argument that asks for it, and why."""
_DRAWS: Final = (
    "Samples of the train dataset, or its collator, draw from global random streams, which the "
    "Trainer moves otherwise when it goes on from a checkpoint: such a run is not bit for bit the "
    "one that nobody disturbed. Let each sample draw from a generator of its own."
)
_ITEMS: Final = "num_items_in_batch"
_NO_INPUT: Final = (_ITEMS, "return_loss")


class GrowthCallback(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is not read for types
    """Grows the model that a Trainer trains; give it as `Trainer(..., callbacks=[...])`.

    Args:
        held_out: inputs and targets that the Trainer does not train on, as `esper.grow` takes them:
            such as what the data collator makes of the held-out samples, with its `labels`.
        run_id: the run's name; one is made when none is given. A checkpoint names its run.
        resume: where the Trainer begins at its first step, go on with the run `run_id` from there:
            it was killed before its first checkpoint.
        seed, task, settings: as of `esper.grow`. The task has to make the loss that the model
            returns.
    """

    def __init__(
        self,
        *,
        held_out: Split,
        run_id: str = "",
        resume: bool = False,
        seed: int = 0,
        task: Task | str | Mapping[str, object] = "classification",
        **settings: Any,
    ) -> None:
        self._held_out, self._run_id, self._resume = held_out, run_id, resume
        self._seed, self._task, self._settings = seed, task, settings
        self._attachment = Attachment(_NAME)
        self._held_back: HeldBack | None = None
        self._hooks: list[Any] = []
        self._armed = False
        self._seen: tuple[dict[str, Tensor], Any] | None = None
        self._gradient: Tensor | None = None
        self._weighed = self._counted = False
        self._units = 0
        self._items: Any = None
        self._last: Growth | None = None

    @property
    def growth(self) -> Growth:
        """The run, during and after training.

        Raises:
            UsageError: training has not begun.
        """
        if self._last is None:
            raise UsageError("There is no run yet: call trainer.train() first.")
        return self._last

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps of it in a checkpoint; a snapshot is taken of the same moment."""
        driven = self._attachment.driven
        mark = driven.save() if driven is not None else None
        return {"args": {}, "attributes": {} if mark is None else mark.as_json()}

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        """Refuse what cannot work, and hold back what a checkpoint would load."""
        del state, control
        _require_suited(args)
        if given.get("model") is not None:
            self._held_back = HeldBack(given["model"])

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Any,
        train_dataloader: Any,
        **given: Any,
    ) -> None:
        """The run begins, or goes on from the snapshot that the loaded checkpoint names."""
        del given
        _require_suited(args)
        if self._held_back is None or self._held_back.model is not model:
            raise UsageError(
                "Give the model and this callback to Trainer(model, ..., callbacks=[...]) itself: "
                "with model_init, or added later, it would miss what a checkpoint loads."
            )
        try:
            batches = len(train_dataloader)
        except TypeError:
            raise UsageError(
                "The train dataset has no length: a run needs to know where its epochs end."
            ) from None
        if _draws(train_dataloader):
            warnings.warn(_DRAWS, stacklevel=2)
        mark = None
        if state.global_step:
            note = state.stateful_callbacks.get(type(self).__name__) or {}
            mark = Mark.of(note.get("attributes"), f"The checkpoint of step {state.global_step}")
        self._held_back.release(mark)
        loaded, self._held_back = self._held_back.loaded, None
        driven = self._attachment.begin(
            OwnLoop(
                model,
                optimizer_within(optimizer),
                self._held_out,
                state.max_steps,
                self._seed,
                self._task,
                self._settings,
                args.gradient_accumulation_steps,
            ),
            batches=batches,
            run_id=self._run_id,
            resume=self._resume,
            mark=mark,
            loaded=loaded,
        )
        self._last = driven.growth
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True),
        ]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Between two steps: what has come in takes effect."""
        reported(self._attachment).before_step()
        self._armed, self._seen, self._gradient, self._units = True, None, None, 0

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """A batch of a step that has several had its backward, and another comes."""
        self._take()
        self._armed, self._seen, self._gradient = True, None, None

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Kernels learn, and the step is told."""
        self._take()
        driven = reported(self._attachment)
        if driven.growth.expected > 1:
            # of one batch the loss itself was compared
            self._require_counted()
        driven.step()

    def _take(self) -> None:
        if self._seen is None or not self._trained_on():
            raise UsageError(
                "The Trainer did not train on the loss that its model returned for a batch with "
                "labels: leave compute_loss_func and other losses out, and let the model compute "
                "its own."
            )
        batch, output = self._seen
        driven, loss = reported(self._attachment), _loss(output)
        many, count = driven.growth.expected > 1, driven.growth.rigged.session.parts.task.count
        if self._items is not None and many:
            units = count(batch)
            self._units += units
            # the Trainer divides by the labels of the whole step, the task by those of the batch
            loss = loss * (self._items / units)
        try:
            driven.took(batch, output, loss)
        except OtherLossError:
            if not many:
                self._units = count(batch)
                self._require_counted()
            raise

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """From here on a checkpoint can be saved."""
        reported(self._attachment).after_step()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Validation, gates, Tamiyo's answer."""
        reported(self._attachment).end_epoch()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The run is finished."""
        reported(self._attachment).end_epoch()
        for hook in self._hooks:
            hook.remove()
        self._attachment.end()

    def _before_forward(self, module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        del module, inputs
        # Esper's own passes, and evaluations, are not the one that is stepped on
        if self._armed and LABELS in named:
            reported(self._attachment).open_pass()

    def _after_forward(
        self, module: nn.Module, inputs: Any, named: dict[str, Any], output: Any
    ) -> None:
        del module, inputs
        if not self._armed or LABELS not in named:
            return
        self._armed = False
        reported(self._attachment).close_pass()
        if output is None or (loss := _loss(output)) is None:
            return
        batch = {name: one for name, one in tensors_of(named).items() if name not in _NO_INPUT}
        self._seen, self._items = (batch, output), named.get(_ITEMS)
        if loss.requires_grad:
            loss.register_hook(self._note_gradient)

    def _require_counted(self) -> None:
        """Refuse a loss that the Trainer divides by other labels than it sums: looked at once,
        because it waits for the device.

        Raises:
            UsageError: the remedy for a language model is named.
        """
        if self._counted or self._items is None or int(self._items) == self._units:
            self._counted = True
            return
        raise UsageError(
            f"The Trainer divides the loss of {self._units} labels by {int(self._items)}: where "
            "transformers does not know that the model shifts its labels, say it before the "
            'Trainer is made, model.loss_type = "ForCausalLM"; else name the task that counts as '
            "the Trainer does."
        ) from None

    def _note_gradient(self, gradient: Tensor) -> None:
        self._gradient = gradient

    def _trained_on(self) -> bool:
        """Whether backward began at the loss that the model returned, or at its share of the step,
        and not at a multiple of it: its value is looked at once, because that waits for the device.
        """
        if self._gradient is None:
            return False
        many = 1 if self._items is not None else reported(self._attachment).growth.expected
        share = self._gradient.item() * many if not self._weighed else 1.0
        # a third has three digits in bfloat16
        self._weighed = math.isclose(share, 1.0, rel_tol=1e-2 if many > 1 else 0.0)
        return self._weighed


def _draws(loader: Any) -> bool:
    """Whether the first batch is another one where the global random streams begin otherwise."""
    data, made = loader.dataset, list[str]()
    if not hasattr(data, "__getitem__"):
        return False
    for seed in range(2):
        with streams(seed, "draws"):
            batch = loader.collate_fn([data[number] for number in range(min(2, len(data)))])
            made.append(fingerprint(batch))
    return made[0] != made[1]


def _require_suited(args: TrainingArguments) -> None:
    """Refuse what cannot work.

    Raises:
        UsageError: the argument that asks for it is named.
    """
    for what, asked, why in _REFUSED:
        if asked(args):
            raise UsageError(f"Esper cannot grow a model with {what}: {why}.")


def _loss(output: Any) -> Any:
    """The loss that a model returned, as the Trainer looks for it."""
    if isinstance(output, Mapping):
        return output.get("loss")
    return output[0] if isinstance(output, tuple) and output else None


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """Give `model` what a checkpoint of the Trainer holds, and return it: weights, seeds, kernels.

    `from_pretrained` reads the same folder, without what has grown.

    Args:
        folder: `checkpoint-N` of a Trainer, or what `save_pretrained` wrote.
        model: a model of the class that was trained, plain or just germinated.

    Raises:
        UsageError, CorruptError: as `esper.load`.
    """
    paths = sorted(Path(folder).glob("model*.safetensors"))
    if not paths:
        raise UsageError(f"{folder} has no model.safetensors: give a checkpoint of the Trainer.")
    limits = limits_of(Settings.load(guest=True).imports)
    names, owners = _own_names(model)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, LayerNote] = {}
    for path in paths:
        file = read_file(path, limits)
        tensors |= {_own_name(key, names, owners): one for key, one in file.tensors.items()}
        layers |= {owners.get(key, key): note for key, note in file.layers.items()}
    # a Trainer writes tied tensors once
    own = model.state_dict(keep_vars=True)
    places = {id(own[name]): name for name in own if name in tensors}
    for name, one in own.items():
        if name not in tensors and id(one) in places:
            tensors[name] = tensors[places[id(one)]]
    return load_into(model, ModelFile(tensors, layers), str(folder))


def _own_names(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """The model's names of tensors, and of the modules that own them, by those in files:
    transformers writes some models by the names that they had in older versions.
    """
    if not isinstance(model, PreTrainedModel):
        return {}, {}
    own = dict(model.state_dict())
    by_identity = {id(one): name for name, one in own.items()}
    names = {
        saved: by_identity[id(one)]
        for saved, one in revert_weight_conversion(model, own).items()
        if id(one) in by_identity
    }
    owners = {
        saved.rpartition(".")[0]: name.rpartition(".")[0]
        for saved, name in names.items()
        if saved.rpartition(".")[2] == name.rpartition(".")[2]
    }
    return names, owners


def _own_name(key: str, names: Mapping[str, str], owners: Mapping[str, str]) -> str:
    """A tensor's name in the model; those of a kernel follow its layer's."""
    if key in names:
        return names[key]
    owner, rest = key, ""
    while owner:
        owner, _, last = owner.rpartition(".")
        rest = f"{last}.{rest}" if rest else last
        if owner in owners:
            return f"{owners[owner]}.{rest}" if owners[owner] else rest
    return key
