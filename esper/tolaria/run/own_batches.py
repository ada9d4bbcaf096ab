"""The batches of a user's own loop, in an order that Esper decides: each batch is a function of
seed, epoch and position, so that a resumed run goes on in the middle of an epoch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from esper.errors import UsageError
from esper.tolaria.recipes.splits import checked
from esper.tolaria.recipes.structures import fingerprint, mapped, size
from esper.tolaria.run.random_streams import begin_streams
from esper.tolaria.step.stepping import stream_seed

_LONGEST: Final = 2**31


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of `data`, by their positions in it.

    `kind` says what the data are: `ready` batches, which are given in their order, `rows` of
    tensors, or `samples` that a DataLoader with the arguments `loader` fetches.
    """

    kind: Literal["ready", "rows", "samples"]
    data: Any
    samples: int
    batch_size: int
    seed: int
    shuffle: bool = False
    drop_last: bool = False
    loader: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Batches of an epoch."""
        if self.drop_last:
            return self.samples // self.batch_size
        return math.ceil(self.samples / self.batch_size)

    def epoch(self, epoch: int, first: int, variant: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from number `first` on; `variant` is of their order."""
        if self.kind == "ready":
            yield from (self.data[number] for number in range(first, len(self)))
            return
        positions = self._positions(epoch, variant, first)
        if self.kind == "rows":
            for rows in positions:
                yield mapped(itemgetter(rows), self.data)
            return
        loader = DataLoader(
            _Seeded(self.data, self.seed, epoch),
            batch_sampler=positions,
            # a generator of its own: the loader draws a seed for its workers, and from the global
            # stream that draw would move the model's dropout after a resumption
            generator=torch.Generator().manual_seed(stream_seed(self.seed, "workers", epoch)),
            **self.loader,
        )
        yield from loader

    @property
    def content(self) -> dict[str, Any]:
        """What a resumed run has to be given again: sizes, and a digest of its first batch."""
        # made in this process: workers would start, and fetch far more than one batch
        alone = {name: value for name, value in self.loader.items() if name == "collate_fn"}
        first = next(replace(self, loader=alone).epoch(0, 0))
        return {
            "samples": self.samples,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "first": fingerprint(first),
        }

    def _positions(self, epoch: int, variant: int, first: int) -> _Positions:
        # variant 0 adds no label, as in `batch_order`
        labels = ("order", epoch, *([variant] if variant else []))
        order = (
            torch.randperm(
                self.samples,
                generator=torch.Generator().manual_seed(stream_seed(self.seed, *labels)),
            )
            if self.shuffle
            else None
        )
        return _Positions(order, self.samples, self.batch_size, range(first, len(self)))


@dataclass(frozen=True, slots=True)
class _Positions:
    """The positions of each batch of an epoch, by `numbers`; in order where there is no `order`.

    Made when they are asked for: lists of all positions would take more than many data sets.
    """

    order: Tensor | None
    samples: int
    batch_size: int
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.numbers:
            begin = number * self.batch_size
            end = min(begin + self.batch_size, self.samples)
            yield (
                list(range(begin, end)) if self.order is None else self.order[begin:end].tolist()
            )


class _Seeded(Dataset[Any]):
    """A data set each of whose samples draws from streams of its own, whatever worker makes it."""

    def __init__(self, data: Any, seed: int, epoch: int) -> None:
        self._data = data
        self._seed = seed
        self._epoch = epoch

    def __getitem__(self, index: int) -> Any:
        """The sample at a position, with its augmentation."""
        with streams(self._seed, "sample", self._epoch, index):
            return self._data[index]

    def __len__(self) -> int:
        """Samples."""
        return len(self._data)


@contextmanager
def streams(seed: int, *labels: object) -> Iterator[None]:
    """Within: the global random streams of this process begin at what `labels` say; after it, they
    are as before.
    """
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002  # a data set may draw from the global stream
    begin_streams(seed, *labels)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002  # as above


def batches_of(
    data: Any,
    *,
    batch_size: int | None,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    asker: str = "growth.batches",
) -> Batches:
    """Batches of what a user trains on: a DataLoader, a sequence of ready batches, or, with a batch
    size, a data set or tensors [N, ...] in a tuple or mapping.

    A DataLoader gives its data set, batch size, `collate_fn` and workers; Esper draws the order.
    `asker` names in messages who was given them.

    Raises:
        UsageError: the order of `data` cannot be Esper's, or there is no batch in it.
    """
    if isinstance(data, DataLoader):
        if batch_size is not None:
            raise UsageError("A DataLoader has a batch size already: leave batch_size out.")
        found = _of_loader(data, seed, asker)
    elif isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise UsageError(
            f"{asker} cannot train on {type(data).__name__}: what is only iterable cannot "
            "go on in the middle. Give a DataLoader over a data set with positions, a list of "
            "batches, or tensors."
        )
    elif batch_size is None:
        if isinstance(data, Tensor | Mapping) or (
            isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data)
        ):
            raise UsageError("Tensors make no batches by themselves: give batch_size, too.")
        found = Batches("ready", data, len(data), 1, seed)
    else:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size has to be a whole number above 0, not {batch_size!r}.")
        rows = isinstance(data, tuple | Mapping)
        whole = checked(data, f"What {asker} was given") if rows else data
        found = Batches(
            "rows" if rows else "samples",
            whole,
            size(whole) if rows else len(data),
            batch_size,
            seed,
            shuffle,
            drop_last,
        )
    if not 0 < len(found) < _LONGEST:
        raise UsageError(
            f"{found.samples} samples make {len(found)} batches of {found.batch_size}: give more "
            "samples, or a smaller batch size."
        )
    return found


def _of_loader(loader: DataLoader[Any], seed: int, asker: str) -> Batches:
    data = loader.dataset
    orders = (RandomSampler, SequentialSampler)
    if (
        isinstance(data, IterableDataset)
        or loader.batch_size is None
        or type(loader.batch_sampler) is not BatchSampler
        or type(loader.sampler) not in orders
        or getattr(loader.sampler, "replacement", False)
    ):
        raise UsageError(
            f"{asker} draws the order of a DataLoader itself: it takes one with a batch_size "
            "and shuffle true or false, over a data set with positions, and no sampler of its own."
        )
    return Batches(
        "samples",
        data,
        len(data),  # type: ignore[arg-type]  # a data set with positions has a length
        loader.batch_size,
        seed,
        isinstance(loader.sampler, RandomSampler),
        loader.drop_last,
        settings_of(loader),
    )


def settings_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """How a DataLoader fetches samples, apart from which and in what order."""
    given = {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }
    if loader.num_workers:
        given["prefetch_factor"] = loader.prefetch_factor
    return given
