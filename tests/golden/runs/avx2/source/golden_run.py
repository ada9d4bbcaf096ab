"""The host and data of the golden run: small, with everything that has state."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from esper import Splits


def model() -> nn.Module:
    """Batch statistics, dropout, and two layers that can grow."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(6, 4),
            norm=nn.BatchNorm1d(4),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.05),
            second=nn.Linear(4, 2),
        )
    )


def pair(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points labelled by the sign of a product: four hidden units learn little of it."""
    inputs = torch.randn(samples, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def data() -> Splits:
    """Forty batches to train on, and two splits of 300."""
    return Splits(pair(800, 1), pair(300, 2), pair(300, 3))
