"""A small model, data and a task for each kind of work, with dropout and noise of their own.

KILL_AT is the forward pass in training, counted since the run began, in which the process kills
itself. As a program,
`python task_cases.py KIND RUN [--resume]`, it trains one in a loop of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper import Metric, Outcome, Splits, Task
from esper.tolaria.recipes.splits import Split

_KILL_AT: Final = int(os.environ.get("KILL_AT", "-1"))
BATCH, BATCHES, EPOCHS = 20, 16, 8
CLASSES, WIDTH, LENGTH = 4, 12, 10


class Mortal(nn.Module):
    """Counts its forward passes in training, in snapshots too: over all lives of its run."""

    passes: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.dropout = net, nn.Dropout(0.1)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        if self.training and torch.is_grad_enabled():
            self.passes += 1
            if self.passes == _KILL_AT:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.net(self.dropout(x) if x.is_floating_point() else x)


class Language(nn.Module):
    """Tokens [B, T] to logits [B, T, V]; a token is guessed from itself alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.net = wide(CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.net(self.embedding(tokens))
        return logits


class Pair(nn.Module):
    """Features [B, F] to an embedding and, as an auxiliary output, class logits."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = wide(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = self.trunk(x)
        return {"embedding": embedding, "logits": self.head(torch.relu(embedding))}


def wide(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs)
    )


def _contrast(model: Callable[..., Any], batch: Any) -> Outcome:
    """Two noisy views of a sample shall be alike, and unlike those of others (InfoNCE), with the
    labels as an auxiliary loss.
    """
    x, labels = batch
    noise = 0.1 * torch.randn_like(x)
    first, second = model(x), model(x + noise)
    near, far = (functional.normalize(one["embedding"], dim=1) for one in (first, second))
    alike = near @ far.T / 0.2
    own = torch.arange(len(x))
    loss = functional.cross_entropy(alike, own)
    loss = loss + 0.5 * functional.cross_entropy(first["logits"], labels)
    return Outcome(loss, {"matched": (alike.argmax(1) == own).sum()})


CONTRASTIVE: Final = Task("contrastive", _contrast, (Metric("matched", "fraction"),), "matched")


def classes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points [N, F] around the centres of their classes, on both sides of the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    sides = 2 * torch.randint(0, 2, (count, 1), generator=generator) - 1
    return sides * centres[labels] + 0.7 * torch.randn(count, WIDTH, generator=generator), labels


def soft(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, labels = classes(count, seed)
    return x, 0.8 * functional.one_hot(labels, CLASSES) + 0.2 / CLASSES


def several(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, labels = classes(count, seed)
    return x, torch.stack([labels == 0, labels % 2 == 1, x[:, 0] > 0], 1).float()


def numbers(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, labels = classes(count, seed)
    return x, torch.stack([(x[:, 0] * x[:, 1]).tanh(), labels - 1.5], 1)


def tokens(count: int, seed: int) -> dict[str, Tensor]:
    """A walk through the tokens; the first that is to be told counts in no loss."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randint(0, 2, (count, LENGTH + 1), generator=generator)
    walk = (moves.cumsum(1) + torch.randint(0, CLASSES, (count, 1), generator=generator)) % CLASSES
    labels = walk[:, 1:].clone()
    labels[:, 0] = -100
    return {"x": walk[:, :-1], "labels": labels}


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8], and for each pixel whether its neighbourhood is bright: 0, 1, or -100
    on the border.
    """
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = (functional.avg_pool2d(x, 3, 1, 1)[:, 0] > 0.5).long()
    labels[:, 0] = -100
    return x, labels


def segmenting() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work. `task` is what a loop is given, `named` what a recipe says."""

    net: Callable[[], nn.Module]
    samples: Callable[[int, int], Split]
    task: Any
    named: str
    include: tuple[str, ...] = ("net.0", "net.2")


_WEIGHTED: Final[Mapping[str, Any]] = {
    "name": "classification",
    "class_weights": [1.0, 2.0, 1.0, 0.5],
    "label_smoothing": 0.1,
}
CASES: Final[Mapping[str, Case]] = {
    "weighted": Case(
        lambda: wide(CLASSES),
        classes,
        _WEIGHTED,
        '{name="classification", class_weights=[1.0, 2.0, 1.0, 0.5], label_smoothing=0.1}',
    ),
    "soft": Case(lambda: wide(CLASSES), soft, "classification", '"classification"'),
    "multi_label": Case(lambda: wide(3), several, "multi_label", '"multi_label"'),
    "regression": Case(lambda: wide(2), numbers, "regression", '"regression"'),
    "language": Case(
        Language, tokens, "language_model", '"language_model"', ("net.net.0", "net.net.2")
    ),
    "segmentation": Case(segmenting, pictures, "classification", '"classification"'),
    "contrastive": Case(
        Pair,
        classes,
        CONTRASTIVE,
        '"task_cases:CONTRASTIVE"',
        ("net.trunk.0", "net.trunk.2"),
    ),
}


def _case() -> Case:
    return CASES[os.environ["KIND"]]


def model() -> nn.Module:
    return Mortal(_case().net())


def data() -> Splits:
    made = _case().samples
    return Splits(made(BATCH * BATCHES, 1), made(300, 2), made(300, 3))


class _Rows(torch.utils.data.Dataset[Any]):
    """Samples of a mapping of tensors."""

    def __init__(self, split: Mapping[str, Tensor]) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(next(iter(self.split.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: one[index] for name, one in self.split.items()}


def main(kind: str, run_id: str, *, resume: bool) -> None:
    """Train one in an own loop; prints the digest."""
    from tests.early import early  # noqa: PLC0415  # recipes need no such thing

    torch.set_num_threads(1)
    torch.manual_seed(5)
    case = CASES[kind]
    net = esper.germinate(Mortal(case.net()), seeds=2, include=list(case.include))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    train: Any = case.samples(BATCH * BATCHES, 1)
    rows = _Rows(train) if isinstance(train, dict) else TensorDataset(*train)
    with esper.grow(
        net,
        optimizer,
        held_out=case.samples(300, 2),
        steps=EPOCHS * BATCHES,
        run_id=run_id,
        resume=resume,
        task=case.task,
        decisions="lockstep",
        checkpoints={"every_steps": 7},
        **early(BATCHES),
    ) as growth:
        for batch in growth.batches(DataLoader(rows, BATCH, shuffle=True), epochs=EPOCHS):
            optimizer.zero_grad()
            given = batch if isinstance(batch, dict) else tuple(batch)
            growth.backward(growth.loss(given))
            growth.step()
            optimizer.step()
    print(growth.as_json()["digest"])  # noqa: T201  # its answer


if __name__ == "__main__":
    # by `esper run` it is told nothing of its run
    KIND, RUN = [*sys.argv[1:3], ""][:2]
    main(KIND, RUN, resume="--resume" in sys.argv)
