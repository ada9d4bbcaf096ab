"""Regression on a function of ten numbers (Friedman, 1991): replace model and data by your own."""

from __future__ import annotations

from collections import OrderedDict

import torch
from sklearn.datasets import make_friedman1
from torch import nn

from esper import Splits


def model() -> nn.Module:
    """Any module that maps inputs [B, 10] to as many numbers as the targets have, here [B, 1]."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(10, 16),
            relu=nn.ReLU(),
            second=nn.Linear(16, 16),
            relu2=nn.ReLU(),
            output=nn.Linear(16, 1),
        )
    )


def data() -> Splits:
    """Pairs of inputs [N, 10] and targets [N, 1], both standardised, for each split.

    Five of the ten numbers matter: 10 sin(pi a b) + 20 (c - 0.5)^2 + 10 d + 5 e, and noise.
    """
    inputs, values = make_friedman1(4000, noise=0.5, random_state=0)
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(values, dtype=torch.float32)
    x, y = (x - x[:3000].mean(0)) / x[:3000].std(0), (y - y[:3000].mean()) / y[:3000].std()
    y = y.unsqueeze(1)
    return Splits(
        train=(x[:3000], y[:3000]),
        validation=(x[3000:3500], y[3000:3500]),
        test=(x[3500:], y[3500:]),
    )
