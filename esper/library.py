"""`esper.grow`: growth in a training loop of one's own, on the local stack or the cluster of
ESPER_KAFKA__BOOTSTRAP.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from esper import stack
from esper.bounded import limits_of, open_named
from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import UnavailableError, UsageError
from esper.history.queries import source
from esper.kasmina.plain.files import load_into, read_file, unpacked
from esper.oona.bus.access import Access
from esper.tolaria.recipes.run_names import named, require_run_id
from esper.tolaria.record.resume import Wanted
from esper.tolaria.run.own_script import running
from esper.tolaria.run.own_start import OwnLoop, begin, earlier_losses
from esper.tolaria.run.tracking import RunTracker, Tracked, tracking
from esper.tolaria.run.wiring import RunContext, place_of
from esper.tolaria.session.model_file import read_model
from esper.tolaria.session.progress import Progress
from esper.urza.opening import open_store
from esper.vault.boxes import BOX_BYTES, MODELS, is_sealed, open_box

if TYPE_CHECKING:
    from esper.tolaria.run.own_loop import Growth
    from esper.tolaria.step.tasks import Task


@contextmanager
def grow(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    held_out: Any,
    steps: int,
    run_id: str = "",
    seed: int = 0,
    task: Task | str | Mapping[str, object] = "classification",
    resume: bool = False,
    accumulate: int = 1,
    **settings: Any,
) -> Iterator[Growth]:
    """Within: `model` grows while the caller trains it.

    The stack is started when it is not up, and ends with the block if it was.

        with esper.grow(model, optimizer, held_out=(x_val, y_val), steps=epochs * len(batches)) as
            growth:
            for x, y in growth.batches(loader, epochs=epochs):
                optimizer.zero_grad()
                growth.backward(growth.loss(x, y))
                growth.step()
                optimizer.step()
        print(growth.report())

    Killed, the same script with a `run_id` and `resume=True` goes on where it was.

    Args:
        model: a module germinated by `esper.germinate`, with the outputs that the task needs:
            class logits for classification.
        optimizer: the caller's own, made before: it moves the host and is only looked at; kernels
            have their own.
        held_out: inputs [N, ...] and targets [N, ...] that the caller does not train on: gates and
            Tamiyo judge kernels by them. Either may be a tuple or mapping of tensors; so may the
            whole be a mapping, with its targets under `labels`.
        steps: optimizer steps that the loop will do in all: the schedule of growth and of the
            kernels' learning rates.
        run_id: the run's name in journal and history; one is made when none is given.
        seed: of the shadow passes and of Tamiyo's choices.
        task: what is optimised: classification, multi_label, regression, language_model, a task of
            an installed package, or an esper.Task; with arguments as a mapping, such as
            `{"name": "classification", "label_smoothing": 0.1}`.
        resume: go on with the run `run_id` from its last snapshot: with the same model, optimizer,
            held-out split, settings and batches. Model, optimizer and what is registered get their
            values back, also where the model was just made.
        accumulate: batches of a step. Each has its `loss` and `backward`, which shares the step
            among them; `if growth.due:` the step and the optimizer follow, and `zero_grad` after
            them. `steps` counts steps; the last of an epoch may have fewer batches.
        settings: sections of a recipe, such as `kernels={"learning_rate": 1e-3}`,
            `schedule={"name": "linear"}` (of the kernels' rates) or `tamiyo={"policy": {...}}`.

    Raises:
        EsperError: the stack cannot be started, or the arguments make no sense.
    """
    script = running()
    asked = OwnLoop(model, optimizer, held_out, steps, seed, task, settings, accumulate)
    if script is not None and script.staging is not None:
        with script.staging.growing(asked) as growth:
            yield growth
        return
    with opened(asked, run_id=run_id, resume=resume) as growth:
        yield growth


@contextmanager
def opened(
    asked: OwnLoop, *, run_id: str, resume: bool, wanted: Wanted | None = None
) -> Iterator[Growth]:
    """Within: the run of `grow`, on a stack that is up; resumed, at a snapshot that is `wanted`.

    Raises EsperError as `grow` does.
    """
    script = running()
    if script is not None and script.staging is not None:
        raise UsageError(
            "A run in the loop of a framework is not executed again: `esper replay fold` and "
            "`esper replay state` read its journal, and its checkpoints hold what it had."
        )
    stem = "own-loop"
    if script is not None:
        run_id, resume = script.asked(run_id, resume=resume)
        if script.told and not script.begun:
            stem = script.path.stem
            if script.fork is not None:
                resume = False  # whatever the script finds: the fork has an id that is new
    with _placed(run_id, resume=resume, stem=stem) as (place, url), ExitStack() as resources:
        growth = begin(asked, place, resources, resume=resume, script=script, wanted=wanted)
        if resume:
            with (
                suppress(UsageError, UnavailableError),  # without the history, nothing is held
                source(place.settings, url) as history,
            ):
                growth.earlier = earlier_losses(history, growth)
        place.progress.start()
        resources.callback(place.progress.stop)
        try:
            yield growth
        # Ctrl-C too has to end the journal
        except BaseException as error:
            growth.end(error)
            raise
        # outside the try: its own error must not end the run a second time
        growth.end(None)


@contextmanager
def _placed(run_id: str, *, resume: bool, stem: str) -> Iterator[tuple[RunContext, str]]:
    """The place of a run on a stack that is up, and the address of its history; without a run id,
    one is made of `stem`.
    """
    clock, installation, console = (
        SystemClock(),
        Settings.load(guest=True),
        Console(stderr=True, quiet=not sys.stderr.isatty()),
    )
    if resume and not run_id:
        raise UsageError("resume=True goes on with a run: say which by run_id.")
    run_id = run_id or named(stem, clock)
    require_run_id(run_id)
    # after the id is checked: to start the stack takes seconds
    endpoints = stack.up(
        installation, owner_pid=os.getpid(), progress=lambda line: console.print(line, style="dim")
    )
    try:
        with place_of(
            installation,
            run_id,
            Access.of(installation, "trainer", bootstrap=endpoints.bootstrap),
            clock,
            Progress(console),
            resumed=resume,
        ) as place:
            yield place, endpoints.history_url
    finally:
        stack.release(installation, os.getpid())


class GrowthTracker:
    """For a loop in which nothing grows: its figures become the run's events, and no model is
    touched.

        with GrowthTracker(run_id="mine", score="accuracy", higher_is_better=True) as tracker:
            tracker.step(loss, learning_rate=rate, accuracy=accuracy)  # after each optimizer step
            tracker.epoch(held_out_loss, accuracy=held_out_accuracy)  # after each epoch

    Journal, topics and history then have the run as they have those that grow; it has no seeds, so
    nobody is asked to graft anything, and no snapshots: where the loop goes on from a checkpoint of
    its own, it says so by `resume`, `step` and `epoch`.

    Args:
        steps: optimizer steps that the loop will do in all; 0 if nobody knows.
        run_id: the run's name in journal and history; one is made when none is given.
        score: the figure of an epoch by which runs are compared: `loss`, or a metric.
        higher_is_better: whether more of it is better.
        parameters: of the model.
        seed: of the run, on record.
        resume: go on with the run `run_id`, whose loop has been killed or left.
        step: optimizer steps that were done before, by the checkpoint.
        epoch: epochs that were over before.

    Raises:
        EsperError: the stack cannot be started, or the arguments make no sense.
    """

    def __init__(
        self,
        *,
        steps: int = 0,
        run_id: str = "",
        score: str = "loss",
        higher_is_better: bool = False,
        parameters: int = 0,
        seed: int = 0,
        resume: bool = False,
        step: int = 0,
        epoch: int = 0,
    ) -> None:
        self._asked = Tracked(steps, score, higher_is_better, seed, parameters, step, epoch)
        self._asked.recipe()  # before the stack is started
        self._run_id, self._resume = run_id, resume
        self._stack = ExitStack()

    def __enter__(self) -> RunTracker:
        """The run begins, or goes on."""
        script = running()
        if script is not None:
            if script.staging is not None:
                raise UsageError(
                    "A run that esper.GrowthTracker tells of is not executed again: `esper replay "
                    "fold` reads its journal."
                )
            if script.fork is None:  # which the run that grows is to be
                self._run_id, self._resume = script.asked(self._run_id, resume=self._resume)
        with ExitStack() as resources:
            place, _ = resources.enter_context(
                _placed(self._run_id, resume=self._resume, stem="tracked")
            )
            tracker = resources.enter_context(tracking(self._asked, place, resume=self._resume))
            self._stack = resources.pop_all()
        if script is not None:
            script.track(tracker)
        return tracker

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The run is completed, or after an error paused."""
        self._stack.__exit__(kind, error, traceback)


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Give `model` what a file holds, and return it: parameters, buffers, seeds and kernels.

    Args:
        path: a run's final model as `esper model` writes it, or as it lies sealed in this
            installation; or a `state_dict` of a grown model, saved by safetensors or torch.
        model: a model of the class that was trained, plain or just germinated.

    Raises:
        UsageError: the file cannot be read, or is of another model. The model is as it was then.
        CorruptError: the file is damaged, holds more than tensors, or is larger than
            ESPER_IMPORTS__* allows.
    """
    installation, path = Settings.load(guest=True), Path(path)
    limits = limits_of(installation.imports)
    with open_named(path, limits.file) as file:
        sealed = is_sealed(file.read(BOX_BYTES))
    if not sealed:
        return load_into(model, read_file(path, limits), str(path))
    box = open_box(installation, open_store(installation), MODELS)
    return load_into(model, unpacked(read_model(path.resolve(), box), limits, str(path)), str(path))


def load_model(run_id: str) -> dict[str, Tensor]:
    """The parameters and buffers of a run's final model, by name: what `state_dict` gave at its
    end.

    Raises:
        UsageError: the run has no model here.
        CorruptError: its file was changed, or is sealed with another key.
    """
    require_run_id(run_id)
    installation = Settings.load()
    box = open_box(installation, open_store(installation), MODELS)
    return load_tensors(read_model(installation.runs_dir / run_id / "model.safetensors", box))
