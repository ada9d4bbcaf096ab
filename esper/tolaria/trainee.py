"""What a recipe trains: the growing model with its stepper and data, built the same way to be trained, resumed or executed again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from esper.errors import UsageError
from esper.kasmina import GrowingModel, germinate
from esper.kasmina.growth import KernelTraining
from esper.tolaria.recipe import Recipe, function
from esper.tolaria.splits import Pair, Splits, cached, kept_at
from esper.tolaria.stepping import Stepper, numerics_of, stream_seed

PROBED = 3  # samples of the forward in which layers show their geometry


@dataclass(frozen=True, slots=True)
class Trainee:
    """A model that can grow, what steps it, its data, and the optimizer steps that the schedule foresees."""

    growing: GrowingModel
    stepper: Stepper
    splits: Splits
    steps: int


def trainee_of(recipe: Recipe, make: Callable[[], nn.Module], splits: Splits) -> Trainee:
    """The trainee of a recipe at step 0, its host made by `make`.

    Raises:
        UsageError: the recipe names a GPU and there is none, or no layer can grow.
    """
    numerics = numerics_of(recipe.run)
    module = germinate(
        numerics.place(seeded_model(recipe, make)),
        seeds=recipe.kasmina.seeds,
        include=recipe.kasmina.include,
        exclude=recipe.kasmina.exclude,
    )
    growing = GrowingModel(module, training=kernel_training(recipe), numerics=numerics)
    growing.probe(splits.train[0][:PROBED])
    steps = total_steps(recipe, splits.train)
    return Trainee(growing, Stepper(growing, recipe, steps), splits, steps)


def load_data(recipe: Recipe, folder: Path) -> Splits:
    """The recipe's data, made once and kept in `folder`.

    Raises:
        UsageError: the function does not exist or returns something else.
    """
    make = function(recipe.data, "data")
    made = cached(recipe.name, make, Path(make.__code__.co_filename), folder)
    if not isinstance(made, Splits):
        raise UsageError(f"data = {recipe.data!r} returns {type(made).__name__}; it has to return esper.tolaria.splits.Splits.")
    return made


def data_file(recipe: Recipe, folder: Path) -> Path:
    """The file in `folder` that keeps the recipe's data; raises as `load_data` does."""
    return kept_at(recipe.name, Path(function(recipe.data, "data").__code__.co_filename), folder)


def total_steps(recipe: Recipe, train: Pair) -> int:
    """Steps that the schedule foresees."""
    return recipe.run.epochs * (len(train[1]) // recipe.run.batch_size)


def kernel_training(recipe: Recipe) -> KernelTraining:
    """Kasmina's settings from a recipe."""
    return KernelTraining(**recipe.kernels.model_dump(exclude={"shadow_passes"}))


def seeded_model(recipe: Recipe, make: Callable[[], nn.Module]) -> nn.Module:
    """The host model of a run, initialised from the run's seed alone."""
    with torch.random.fork_rng():
        begin_streams(recipe.run.seed, "model")
        return make()


def begin_streams(seed: int, *labels: object) -> None:
    """Put torch's, numpy's and Python's global random streams to their beginning: a model may draw from any of them."""
    first = stream_seed(seed, *labels)
    torch.manual_seed(first)
    random.seed(first)
    np.random.seed(first % (1 << 32))  # noqa: NPY002  # the global stream, which a user's model may draw from
