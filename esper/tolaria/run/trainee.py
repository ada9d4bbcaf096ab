"""What a recipe trains: the growing model with its stepper and data, built the same way to be
trained, resumed or re-executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from esper.blame import own_code
from esper.bounded import DEFAULT, read_in
from esper.errors import CorruptError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.journal.provenance import DATA, FILE, provenance
from esper.kasmina import GrowingModel, germinate
from esper.kasmina.growth import KernelTraining
from esper.kasmina.seeded.hosts import known
from esper.plugins import HOST_KINDS
from esper.tolaria.recipes.environment import DATA as DATA_VERSION
from esper.tolaria.recipes.recipe import Permit, Recipe, function, require_permit
from esper.tolaria.recipes.sources import versions_of
from esper.tolaria.recipes.splits import (
    Split,
    Splits,
    digest_of,
    keep,
    kept,
    kept_in,
    read_splits,
)
from esper.tolaria.recipes.streamed import Streamed
from esper.tolaria.recipes.structures import size
from esper.tolaria.record.resume import recorded as recorded_versions
from esper.tolaria.run.random_streams import begin_streams
from esper.tolaria.run.training_batches import batches, looked_at
from esper.tolaria.step.method import Method
from esper.tolaria.step.preflight import probe
from esper.tolaria.step.stepping import Stepper, numerics_of
from esper.tolaria.step.tasks import Task


@dataclass(frozen=True, slots=True)
class Trainee:
    """A model that can grow, its task, what steps it, its data, and the optimizer steps that the
    schedule foresees.
    """

    growing: GrowingModel
    task: Task
    stepper: Stepper
    splits: Splits
    steps: int


def trainee_of(
    recipe: Recipe, make: Callable[[], nn.Module], splits: Splits, method: Method
) -> Trainee:
    """The trainee of a recipe at step 0, its host made by `make`.

    Raises:
        UsageError: the recipe names a GPU and there is none, no layer can grow, or optimizer or
            schedule do not take what the recipe gives them.
    """
    numerics = numerics_of(recipe.run)
    module = germinate(
        numerics.place(seeded_model(recipe, make)),
        seeds=recipe.kasmina.seeds,
        chunk=recipe.kasmina.chunk,
        include=recipe.kasmina.include,
        exclude=recipe.kasmina.exclude,
    )
    growing = GrowingModel(module, training=kernel_training(recipe), numerics=numerics)
    # before the optimizer is made: layers that lose their seeds here are the host's alone
    probe(growing, looked_at(splits.train, recipe.run), method.task)
    steps = total_steps(recipe, splits.train)
    stepper = Stepper(growing, recipe, steps, method)
    return Trainee(growing, method.task, stepper, splits, steps)


def model_of(
    recipe: Recipe, permit: Permit, events: Sequence[JournalEvent]
) -> Callable[[], nn.Module]:
    """The function that makes the host model of a run whose journal so far is `events`.

    Raises:
        UsageError: the function does not exist or may not be called, or the run has layers of a
            kind that is not known here.
    """
    try:
        make: Callable[[], nn.Module] = function(recipe.model, "model", permit)
    except UsageError:
        require_kinds(events)  # a package that is missing is the cause, and can be named
        raise
    require_kinds(events)
    return make


def require_kinds(events: Sequence[JournalEvent]) -> None:
    """Refuse a run whose layers are of a kind that is not known here.

    Raises:
        UsageError: the kinds are named.
    """
    recorded_kinds = {
        layer.kind
        for event in events[:1]
        if isinstance(event, RunStarted)
        for layer in event.layers
    }
    if missing := sorted(recorded_kinds - set(known(recorded_kinds))):
        raise UsageError(
            f"Run {events[0].run_id} has layers of the kind {printable(', '.join(missing))}, which "
            f"is not known here: install the package that brings it (entry points {HOST_KINDS})."
        )


def load_data(
    recipe: Recipe,
    permit: Permit,
    *,
    run_dir: Path,
    shared: Path,
    recorded: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Splits:
    """The data of a run: its own, where it came here with data; else those of the digest that was
    `recorded` when it began, where `shared` has kept them; else what the recipe's function gives.

    A new run always calls the function: what data depend on (its arguments, modules that it
    imports, files that it reads) cannot all be seen from outside, so a copy of before may be
    another run's.

    Raises:
        UsageError: the function does not exist, may not be called, raises, or returns something
            else.
        CorruptError: the run's own data is not what it came with.
    """
    if (own := own_data(run_dir)) is not None:
        return own
    # even where nothing is called: a stranger's run gets no data of this installation unasked
    require_permit(recipe.data, "data", permit)
    if (splits := kept(shared, recorded, say=say)) is not None:
        return splits
    splits = made_data(recipe, permit)
    if recorded and (digest := digest_of(splits)) != recorded:
        say(
            f"{recipe.data} gives other data than the run was begun with (SHA-256 {digest[:16]}, "
            f"not {printable(recorded)[:16]}), and no copy of those is in {shared}: steps from "
            "here on differ."
        )
    keep(splits, recipe.name, shared, say=say)
    return splits


def made_data(recipe: Recipe, permit: Permit) -> Splits:
    """What the data function of a recipe gives.

    Whatever it draws from the global random streams is the same in each run, whatever the seed: so
    runs of different seeds are compared on the same samples.

    Raises:
        UsageError: the function does not exist, may not be called, raises, or returns something
            else.
    """
    make = function(recipe.data, "data", permit)
    with torch.random.fork_rng():
        begin_streams(0, "data")
        splits = own_code(f"data = {recipe.data!r}", make)
    if not isinstance(splits, Splits):
        raise UsageError(
            f"data = {recipe.data!r} returns {type(splits).__name__}, and must return "
            "esper.Splits(train, validation, test), each of inputs and targets."
        )
    return splits


def own_data(run_dir: Path) -> Splits | None:
    """The data that a run brought along into its folder; None for a run that has none of its own.

    Raises:
        CorruptError: the file is gone, or is not the one that it came with.
    """
    origin = provenance(run_dir)
    for name, sha256 in sorted(origin.data.items()) if origin else ():
        path = run_dir / DATA / name
        try:
            content = read_in(run_dir, f"{DATA}/{name}", DEFAULT.file)
        except FileNotFoundError:
            raise CorruptError(
                f"{path}, the data that the run came with, is gone; import the run again."
            ) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise CorruptError(
                f"{path}, the data that the run came with, has another hash than {FILE} "
                "gives; import the run again."
            )
        return read_splits(content, str(path))
    return None


def data_of_journal(events: Sequence[JournalEvent], *, run_dir: Path, shared: Path) -> list[Path]:
    """The files that keep the data of the run of a journal: its own, or those in `shared` with the
    digest that the journal has recorded.

    Calls and imports nothing that the recipe names.
    """
    origin = provenance(run_dir)
    if origin and origin.data:
        files = [run_dir / DATA / name for name in sorted(origin.data)]
        return [path for path in files if path.is_file()]
    return kept_in(shared, data_digest(events))


def data_digest(events: Sequence[JournalEvent]) -> str:
    """The digest of its data that a run has recorded; empty where it has none."""
    if not events:
        return ""
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # every journal begins so
    return recorded_versions(started).get(DATA_VERSION, "")


def inputs_of(recipe: Recipe, splits: Splits) -> dict[str, str]:
    """What RunStarted records, among the versions, of what is not Esper's: the digest of the data,
    and hashes of a user's own source files.
    """
    return {DATA_VERSION: digest_of(splits), **versions_of(recipe)}


def seen(splits: Splits, recipe: Recipe) -> Splits:
    """The splits as they are looked at before the first step: of a streamed one its first batch.

    Raises:
        UsageError: the data raise, or give what is no batch.
    """
    if not isinstance(splits.train, Streamed):
        return splits
    return replace(splits, train=looked_at(splits.train, recipe.run))


def total_steps(recipe: Recipe, train: Split) -> int:
    """Steps that the schedule foresees.

    Raises:
        UsageError: the training split fills no batch.
    """
    if not (many := batches(train, recipe.run)):
        raise UsageError(
            f"run.batch_size = {recipe.run.batch_size} is more than the {size(train)} training "
            "samples; lower it."
        )
    return recipe.run.epochs * many


def kernel_training(recipe: Recipe) -> KernelTraining:
    """Kasmina's settings from a recipe."""
    return KernelTraining(**recipe.kernels.model_dump(exclude={"shadow_passes"}))


def seeded_model(recipe: Recipe, make: Callable[[], nn.Module]) -> nn.Module:
    """The host model of a run, initialised from the run's seed alone.

    Raises:
        UsageError: the recipe's function raises, or gives no module.
    """
    # how much a model draws for its weights must not move the streams of training
    with torch.random.fork_rng():
        begin_streams(recipe.run.seed, "model")
        model: object = own_code(f"model = {recipe.model!r}", make)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model = {recipe.model!r} returns {type(model).__name__}, and must return a "
            "torch.nn.Module."
        )
    return model
