"""The `digits` recipe: the 8 x 8 images that come with scikit-learn, and a small CNN host."""

from __future__ import annotations

from collections import OrderedDict
from importlib import metadata

import numpy as np
import torch
from torch import nn

from esper.tolaria.recipes.splits import Splits

TEST, HELD_OUT = (
    500,
    300,
)  # of 1,797 images; gates and Tamiyo see the held-out ones, never the test split
SHUFFLE = 20_260_101  # seed of the split: writers come one after the other in the file


def model() -> nn.Module:
    """A CNN of 754 parameters. Inputs [B, 1, 8, 8] of float32 from 0 to 1, logits [B, 10]."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 8, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            second=nn.Conv2d(8, 8, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(8, 10),
        )
    )


def data() -> Splits:
    """997 training images, 300 held out, 500 for the test, in an order made from a fixed seed.

    The images are a file in the scikit-learn package: read by `load_digits`, they cost seconds of
    imports.
    """
    file = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",", dtype=np.float32)
    x = torch.from_numpy(rows[:, :-1].copy()).reshape(-1, 1, 8, 8) / 16
    y = torch.from_numpy(rows[:, -1].astype(np.int64))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SHUFFLE))
    x, y = x[order], y[order]
    test, train = slice(0, TEST), slice(TEST + HELD_OUT, None)
    held_out = slice(TEST, TEST + HELD_OUT)
    return Splits(
        train=(x[train], y[train]), validation=(x[held_out], y[held_out]), test=(x[test], y[test])
    )
