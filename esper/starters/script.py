"""A training loop of your own around a model that grows: `esper run train.py`.

Killed by anything, `esper run train.py --resume` goes on where it was.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper

EPOCHS = 30
SETTINGS: dict[str, Any] = {  # sections of a recipe: `esper recipes show digits`
    "kernels": {"blend_steps": 81, "shadow_passes": 3},
    "gates": {"min_training_steps": 108, "max_training_steps": 324, "min_gap": 0.03},
    "guardrails": {"cooldown": 2},
    "tamiyo": {
        "policy": {
            "first_epoch": 4,
            "every_epochs": 1,
            "last_fraction": 0.6,
            "max_active": 4,
            "max_training": 3,
            "cull_training_after_steps": 216,
            "fossilise_after_epochs": 3,
        }
    },
}


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images [N, 1, 8, 8] and labels [N], for training and to judge kernels."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(found.target, dtype=torch.long)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[400:], y[400:]), (x[:400], y[:400])


def model() -> nn.Module:
    """A network that is too narrow for its task."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def main() -> None:
    """Train, and say what grew."""
    torch.set_num_threads(1)  # a small model is faster so, and each number gives other bits
    torch.manual_seed(0)
    train, held_out = data()
    net = esper.germinate(model(), seeds=2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(*train), batch_size=50, shuffle=True)
    steps = EPOCHS * len(loader)
    with esper.grow(net, optimizer, held_out=held_out, steps=steps, **SETTINGS) as growth:
        for images, labels in growth.batches(loader, epochs=EPOCHS):
            optimizer.zero_grad()
            growth.loss(images, labels).backward()
            growth.step()  # kernels learn beside the host
            optimizer.step()
    net.eval()
    with torch.no_grad():
        correct = (net(held_out[0]).argmax(-1) == held_out[1]).float().mean()
    print(f"accuracy on held-out images {correct:.1%}; {growth.report()}")  # noqa: T201  # its answer


if __name__ == "__main__":
    main()
