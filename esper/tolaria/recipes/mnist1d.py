"""The `mnist1d` recipe: data made by the mnist1d package, and an MLP host."""

from __future__ import annotations

import random
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from esper.tolaria.recipes.kept_data import kept
from esper.tolaria.recipes.splits import Splits

HELD_OUT = 500  # of the 4,000 training samples: gates and Tamiyo see these, never the test split


def model() -> nn.Module:
    """An MLP 40-100-100-10. Inputs [B, 40] of float32, logits [B, 10]."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(40, 100),
            relu1=nn.ReLU(),
            second=nn.Linear(100, 100),
            relu2=nn.ReLU(),
            third=nn.Linear(100, 10),
        )
    )


def data() -> Splits:
    """4,000 training samples, the last 500 of them held out, and 1,000 test samples, made by
    `make_dataset` with its own fixed seed.

    They are made once a user, which takes seconds.
    """
    dataset = kept("mnist1d", ("mnist1d", "numpy", "scipy"), _made)
    x, y = (
        torch.tensor(dataset["x"], dtype=torch.float32),
        torch.tensor(dataset["y"], dtype=torch.long),
    )
    x_test, y_test = (
        torch.tensor(dataset["x_test"], dtype=torch.float32),
        torch.tensor(dataset["y_test"], dtype=torch.long),
    )
    return Splits(
        train=(x[:-HELD_OUT], y[:-HELD_OUT]),
        validation=(x[-HELD_OUT:], y[-HELD_OUT:]),
        test=(x_test, y_test),
    )


def _made() -> dict[str, np.ndarray]:
    """What `make_dataset` gives, which seeds the global generators; they are put back."""
    from mnist1d.data import get_dataset_args, make_dataset  # noqa: PLC0415  # it imports matplotlib: seconds

    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # what make_dataset moves
    with torch.random.fork_rng():
        dataset = make_dataset(get_dataset_args())
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    return {name: np.asarray(dataset[name]) for name in ("x", "y", "x_test", "y_test")}
