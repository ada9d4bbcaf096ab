"""An MLP whose training runs away some epochs after a graft: a fault that the gates cannot see,
because it comes later. All of it is state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# training passes with a kernel in the first layer that go well, those of its shadow passes included
PATIENCE = 150


class Runaway(nn.Module):
    """40-64-10.

    After a kernel in `first` for longer than PATIENCE logits grow with each pass, and go on to when
    it is culled.

    Inputs [B, 40], logits [B, 10].
    """

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 64)
        self.second = nn.Linear(64, 10)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        grafted = not torch.equal(
            hidden.detach(), functional.linear(x, self.first.weight, self.first.bias).detach()
        )
        if self.training and (grafted or int(self.passes) > PATIENCE):
            self.passes += 1
        over = float(self.passes) - PATIENCE
        logits: Tensor = self.second(functional.relu(hidden))
        return logits * (1.0 + max(0.0, over) ** 2)


def model() -> nn.Module:
    """The host."""
    return Runaway()
