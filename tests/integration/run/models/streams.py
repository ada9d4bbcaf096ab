"""A recipe over data sets of every kind, with augmentation that draws from every global stream.

KILL_AT is the training step at which the process kills itself.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from esper import Splits
from esper.tolaria.recipes.digits import data as digits
from esper.tolaria.recipes.digits import model as narrow

_KILL_AT = int(os.environ.get("KILL_AT", "-1"))


class Mortal(nn.Module):
    """The model of `digits` with dropout, which counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dropout, self.steps = narrow(), nn.Dropout(0.1), 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.steps += 1
            if self.steps == _KILL_AT:
                os.kill(os.getpid(), signal.SIGKILL)
        out: Tensor = self.net(self.dropout(x))
        return out


def noise(image: Tensor) -> Tensor:
    return random.random() * 0.01 * torch.randn_like(image) + np.random.rand() * 0.01  # noqa: NPY002, S311  # as users write it


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Images with noise of their own in each epoch."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.images, self.labels = pair

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index] + noise(self.images[index]), self.labels[index]


class Flowing(IterableDataset[tuple[Tensor, Tensor]]):
    """The same without positions, divided among workers."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.images, self.labels = pair

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, len(self), step):
            yield self.images[index] + noise(self.images[index]), self.labels[index]


def model() -> nn.Module:
    return Mortal()


def positions() -> Splits:
    """A data set; held-out splits as a data set and a DataLoader."""
    plain = digits()
    held_out = torch.utils.data.TensorDataset(*plain.validation)
    test = DataLoader(torch.utils.data.TensorDataset(*plain.test), 64)
    return Splits(train=Noisy(plain.train), validation=held_out, test=test)


def forked() -> Splits:
    """A DataLoader that keeps the last, uneven batch, with two workers."""
    plain = digits()
    train = DataLoader(Noisy(plain.train), 50, shuffle=True, num_workers=2)
    return Splits(train=train, validation=plain.validation, test=plain.test)


def spawned() -> Splits:
    """The same with a worker that is spawned."""
    plain = digits()
    train = DataLoader(
        Noisy(plain.train), 50, shuffle=True, num_workers=1, multiprocessing_context="spawn"
    )
    return Splits(train=train, validation=plain.validation, test=plain.test)


def flowing() -> Splits:
    """An iterable data set."""
    plain = digits()
    return Splits(train=Flowing(plain.train), validation=plain.validation, test=plain.test)


def flowing_workers() -> Splits:
    """The same in a DataLoader with two workers."""
    plain = digits()
    train = DataLoader(Flowing(plain.train), 50, num_workers=2)
    return Splits(train=train, validation=plain.validation, test=plain.test)
