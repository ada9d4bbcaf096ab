"""Loops of one's own around models that are wrapped, of another type, or behind checkpoints: prints
a line of JSON for each that its arguments name, with what its kernels came to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import esper

EPOCHS, BATCH = 12, 20
QUICK: dict[str, Any] = {
    "kernels": {"blend_steps": 10, "warmup_steps": 4, "shadow_passes": 4},
    "gates": {
        "min_training_steps": 30,
        "max_training_steps": 60,
        "z": 0.5,
        "min_gap": 0.001,
        "shadow_epochs": 1,
        "embargo_epochs": 1,
    },
    "guardrails": {"cooldown": 0, "per_epoch": 4, "urgency": 0.0, "confidence": 0.0},
    "tamiyo": {
        "policy": {
            "first_epoch": 1,
            "every_epochs": 1,
            "last_fraction": 0.8,
            "max_active": 4,
            "max_training": 4,
            "fossilise_after_epochs": 1,
            "parameter_budget": 2000,
            "min_urgency": 0.0,
            "min_confidence": 0.0,
        }
    },
    "telemetry": {"every_steps": 8},
    "decisions": "lockstep",
}


class Net(nn.Module):
    """Three layers for a task that one could not do."""

    def __init__(self, *, checkpoints: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        self.checkpoints = checkpoints

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        # the checkpoint's input needs gradients, so it is the second layer that has one
        y = checkpoint(self.second, x, use_reentrant=True) if self.checkpoints else self.second(x)
        logits: Tensor = self.third(torch.relu(y))
        return logits


class Holder(nn.Module):
    """As a trainer's module holds the model."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(x)
        return logits


def seeded(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return esper.germinate(Net(**settings), seeds=2, include=["second"])


def of(dtype: torch.dtype) -> nn.Module:
    return seeded().to(dtype)


def compiled(model: nn.Module) -> nn.Module:
    made: Any = torch.compile(model, backend="eager")
    wrapper: nn.Module = made
    return wrapper


WAYS: dict[str, Callable[[], nn.Module]] = {
    "plain": seeded,
    "compiled": lambda: compiled(seeded()),
    "held": lambda: Holder(seeded()),
    "parallel": lambda: nn.DataParallel(seeded()),
    "double": lambda: of(torch.float64),
    "bfloat16": lambda: of(torch.bfloat16),
    "checkpointed": lambda: seeded(checkpoints=True),
}


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (count,), generator=generator)
    sides = torch.stack([centres[labels], -centres[labels]])
    mixed = sides[torch.randint(0, 2, (count,), generator=generator), torch.arange(count)]
    return mixed + 0.7 * torch.randn(count, 12, generator=generator), labels


def grown(way: str) -> dict[str, Any]:
    model = WAYS[way]()
    dtype = next(model.parameters()).dtype
    (x, y), (held_x, held_y) = samples(320, 1), samples(200, 2)
    x, held_x = x.to(dtype), held_x.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    steps, gaps = EPOCHS * len(batches), list[float]()
    with esper.grow(
        model, optimizer, held_out=(held_x, held_y), steps=steps, run_id=f"way-{way}", **QUICK
    ) as growth:
        for _ in range(EPOCHS):
            for inputs, labels in batches:
                optimizer.zero_grad()
                growth.loss(inputs, labels).backward()
                growth.step()
                optimizer.step()
            growth.epoch()
            gaps += [
                evidence.shadow_gap for evidence in growth.rigged.session.cursor.evidence.values()
            ]
    return {"way": way, "run": growth.run_id, "report": growth.report(), "gaps": gaps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        print(json.dumps(grown(name)), flush=True)  # noqa: T201  # what the test reads
