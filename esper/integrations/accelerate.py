"""Growth in a loop of one's own with Hugging Face's Accelerate.

    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    growing = Growing(accelerator, model, optimizer, held_out=held_out, steps=..., run_id="mine")
    accelerator.load_state(folder)                       # a checkpoint, if there is one
    with growing as growth:
        growth.register(scheduler=scheduler)
        for x, y in growth.batches(loader, epochs=...):  # the loader is not prepared
            optimizer.zero_grad()
            accelerator.backward(growth.loss(x.to(accelerator.device), y.to(accelerator.device)))
            growth.step()
            optimizer.step()
            scheduler.step()
            accelerator.save_state(folder)

A checkpoint of `save_state` names a snapshot of the same moment, and the run goes on from that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from esper.bounded import json_of, limits_of, open_named
from esper.config import Settings
from esper.disk import write_file
from esper.errors import UsageError
from esper.integrations.attachment import has_begun
from esper.integrations.loaded_state import HeldBack, host_digest, optimizer_within, require_same
from esper.library import opened
from esper.tolaria.recipes.splits import Split
from esper.tolaria.run.driven import Driven, Mark
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_start import OwnLoop
from esper.tolaria.step.tasks import Task

MARK: Final = "esper.json"
"""The file of a checkpoint that names its snapshot."""
_NAME: Final = "Accelerate"
_SPLIT: Final = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


class Growing:
    """A run whose checkpoints are those of an `Accelerator`: make it after `prepare` and before
    `load_state`, and enter it to train.

    Args:
        accelerator: of one process, without fp16.
        model: the germinated model, prepared.
        optimizer: its optimizer, prepared.
        resume: where no checkpoint was loaded, go on with the run `run_id` from its last snapshot,
            if it has begun.
        held_out, steps, run_id, seed, task, accumulate, settings: as of `esper.grow`.

    Raises:
        UsageError: the accelerator is one that cannot grow a model.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        *,
        held_out: Split,
        steps: int,
        run_id: str = "",
        resume: bool = False,
        seed: int = 0,
        task: Task | str | Mapping[str, object] = "classification",
        accumulate: int = 1,
        **settings: Any,
    ) -> None:
        _require_one(accelerator)
        self._model = model
        self._asked = OwnLoop(
            model, optimizer_within(optimizer), held_out, steps, seed, task, settings, accumulate
        )
        self._run_id, self._resume = run_id, resume
        self._held_back = HeldBack(model)
        self._note: object = None
        self._driven: Driven | None = None
        self._stack = ExitStack()
        # a file of its own: of registered objects `load_state` wants as many as were saved, also
        # where nobody trains
        self._hooks = [
            accelerator.register_save_state_pre_hook(self._save),
            accelerator.register_load_state_pre_hook(self._load),
        ]

    def __enter__(self) -> Growth:
        """The run begins, or goes on from the snapshot that the loaded checkpoint names.

        Raises:
            EsperError: it cannot.
        """
        mark = Mark.of(self._note, "The checkpoint") if self._note is not None else None
        if mark is not None and self._run_id not in ("", mark.run_id):
            raise UsageError(
                f"The checkpoint is of run {mark.run_id}, not of {self._run_id}: leave run_id out, "
                "or take a checkpoint of that run."
            )
        self._held_back.release(mark)
        loaded = host_digest(self._model, self._held_back.loaded)
        growth = self._stack.enter_context(
            opened(
                self._asked,
                run_id=mark.run_id if mark is not None else self._run_id,
                resume=mark is not None or (self._resume and has_begun(self._run_id)),
                wanted=mark.wanted if mark is not None else None,
            )
        )
        with self._stack:
            if mark is not None:
                require_same(self._model, self._held_back.loaded, loaded, mark)
            self._driven = Driven(growth, _NAME)
            moved = self._asked.optimizer.register_step_post_hook(self._moved)
            self._stack.callback(moved.remove)
            self._stack = self._stack.pop_all()
        return growth

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The run ends as that of `esper.grow` does."""
        self._driven = None
        for hook in self._hooks:
            hook.remove()
        self._stack.__exit__(kind, error, traceback)

    def _moved(self, *_: Any) -> None:
        if self._driven is not None:
            self._driven.after_step()

    def _save(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        """A checkpoint is saved: take a snapshot of the same moment, and name it there."""
        del models, weights
        mark = self._driven.save() if self._driven is not None else None
        # nothing is written, too: the folder may hold an older checkpoint
        note = {} if mark is None else mark.as_json()
        write_file(Path(folder) / MARK, json.dumps(note).encode())

    def _load(self, models: list[nn.Module], folder: str) -> None:
        """A checkpoint is loaded: note what it names.

        Raises:
            UsageError: the run has begun.
            CorruptError: the note is damaged.
        """
        del models
        if self._driven is not None:
            raise UsageError(
                f"The run {self._driven.growth.run_id} has begun: call accelerator.load_state"
                f"({str(folder)!r}) before `with growing`, so that it goes on from there."
            )
        limits, path = limits_of(Settings.load(guest=True).imports), Path(folder) / MARK
        self._note = {}
        if path.is_file():
            with open_named(path, limits.json) as file:
                self._note = json_of(file.read(), limits, str(path))


def _require_one(accelerator: Accelerator) -> None:
    """Refuse what cannot grow a model.

    Raises:
        UsageError: the sentence says why.
    """
    if accelerator.num_processes > 1:
        raise UsageError(
            f"Accelerate trains in {accelerator.num_processes} processes, and each would grow "
            "another model: launch one."
        )
    if accelerator.distributed_type in _SPLIT:
        raise UsageError(
            f"{accelerator.distributed_type.value} splits the parameters that kernels stand "
            "beside: use Accelerate without it."
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise UsageError(
            f"mixed_precision={accelerator.mixed_precision!r} scales gradients, which are then not "
            "Esper's to judge: take bf16."
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise UsageError(
            "Accelerate would end a step where Esper does not: leave gradient_accumulation_steps "
            "out, give Growing(..., accumulate=N), and let each optimizer step be `if growth.due:`."
        )
