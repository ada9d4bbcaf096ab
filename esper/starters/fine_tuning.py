"""Fine-tuning: a frozen backbone that has learnt one thing, and a head that grows for another."""

from __future__ import annotations

from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from esper import Splits

FEATURES = 32


def backbone() -> nn.Module:
    """A network [B, 1, 8, 8] to [B, FEATURES] that has learnt to tell the digits 0 to 4 apart.

    Put yours here, such as `timm.create_model(..., pretrained=True, num_classes=0)`.
    """
    layers = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, FEATURES, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    learner = nn.Sequential(layers, nn.Linear(FEATURES, 5))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    x, y = digits()
    x, y = x[y < 5], y[y < 5]
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(learner(x), y).backward()
        optimizer.step()
    return layers


def model() -> nn.Module:
    """The backbone, frozen, and a head whose layers get seeds."""
    frozen = backbone().requires_grad_(requires_grad=False)
    head = nn.Sequential(
        OrderedDict(first=nn.Linear(FEATURES, 16), relu=nn.ReLU(), output=nn.Linear(16, 5))
    )
    return nn.Sequential(OrderedDict(backbone=frozen, head=head))


def data() -> Splits:
    """Images [N, 1, 8, 8] of the digits 5 to 9, and labels [N] from 0 to 4, for each split."""
    x, y = digits()
    x, y = x[y >= 5], y[y >= 5] - 5
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Splits(
        train=(x[:500], y[:500]), validation=(x[500:700], y[500:700]), test=(x[700:], y[700:])
    )


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 images of scikit-learn, and their labels."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(found.target, dtype=torch.long)
