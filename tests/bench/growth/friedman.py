"""A host that is too narrow for Friedman's first problem (1991)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def model() -> nn.Module:
    """Ten numbers [B, 10] to one [B, 1]; 169 parameters."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(10, 8),
            relu=nn.ReLU(),
            second=nn.Linear(8, 8),
            relu2=nn.ReLU(),
            output=nn.Linear(8, 1),
        )
    )
