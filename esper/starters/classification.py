"""Classification of one-dimensional digits (MNIST-1D): replace model and data by your own."""

from __future__ import annotations

from collections import OrderedDict

import torch
from mnist1d.data import get_dataset_args, make_dataset
from torch import nn

from esper import Splits


def model() -> nn.Module:
    """Any module that maps inputs [B, 40] to logits [B, 10].

    Its Linear and convolution layers get seeds; `include` in recipe.toml says which.
    """
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(40, 100),
            relu1=nn.ReLU(),
            second=nn.Linear(100, 100),
            relu2=nn.ReLU(),
            classifier=nn.Linear(100, 10),
        )
    )


def data() -> Splits:
    """Pairs of inputs [N, 40] and labels [N], from 0 to 9, for each split.

    Kernels are judged on `validation`; only the last report sees `test`.
    """
    made = make_dataset(get_dataset_args())
    x, y = torch.tensor(made["x"], dtype=torch.float32), torch.tensor(made["y"])
    test = torch.tensor(made["x_test"], dtype=torch.float32), torch.tensor(made["y_test"])
    return Splits(train=(x[:-500], y[:-500]), validation=(x[-500:], y[-500:]), test=test)
