"""Recipes over data sets and DataLoaders: batches are functions of seed, epoch and number, nothing
is read before it is needed, and what cannot be trained on is named.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from esper import Splits
from esper.errors import UsageError
from esper.tolaria.recipes.recipe import RunSection
from esper.tolaria.recipes.splits import digest_of
from esper.tolaria.recipes.streamed import Streamed
from esper.tolaria.recipes.structures import fingerprint
from esper.tolaria.run.training_batches import batches, epoch_of, looked_at

HELD_OUT = (torch.zeros(40, 2), torch.zeros(40, dtype=torch.long))
RUN = RunSection(batch_size=4, seed=3)
FETCHED: list[int] = []


class Noisy(Dataset[tuple[Tensor, int]]):
    """22 samples with noise from every global stream; what is fetched in this process is noted."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < 22:
            raise IndexError(index)
        FETCHED.append(index)
        noise = random.random() + np.random.rand() + torch.rand(2)  # noqa: NPY002, S311  # as users write them
        return index + noise / 10, index % 2


class Flowing(IterableDataset[tuple[Tensor, int]]):
    """22 samples one after the other, divided among workers, in another order each epoch."""

    def __init__(self, gives: int = 22) -> None:
        self.gives = gives
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 22

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, self.gives, step):
            noise = random.random() + np.random.rand() + torch.rand(2)  # noqa: NPY002, S311  # as above
            yield (index + self.epoch) % 22 + noise / 10, index % 2


def streamed(source: Any) -> Streamed:
    splits = Splits(train=source, validation=HELD_OUT, test=HELD_OUT)
    assert isinstance(splits.train, Streamed)
    return splits.train


def prints(source: Any, epoch: int = 0, first: int = 0, run: RunSection = RUN) -> list[str]:
    return [fingerprint(batch) for batch in epoch_of(streamed(source), run, epoch, first)]


def loader(data: Any, **more: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=4, **more)


KINDS: dict[str, Callable[[], Any]] = {
    "data set": Noisy,
    "loader": lambda: loader(Noisy(), shuffle=True),
    "loader in order": lambda: loader(Noisy()),
    "two workers": lambda: loader(Noisy(), shuffle=True, num_workers=2),
    "spawned worker": lambda: loader(
        Noisy(), shuffle=True, num_workers=1, multiprocessing_context="spawn"
    ),
    "iterable": Flowing,
    "iterable loader": lambda: loader(Flowing()),
    "iterable, two workers": lambda: loader(Flowing(), num_workers=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_goes_on_anywhere_with_the_same_bits(kind: str) -> None:
    """Whatever the process has drawn before; another epoch or seed has others; nothing of the
    model's random streams is drawn.
    """
    torch.manual_seed(1)
    whole = prints(KINDS[kind]())
    expected = 5 if kind in ("data set", "iterable") else 6
    assert len(whole) == len(set(whole)) == expected == batches(streamed(KINDS[kind]()), RUN)
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002  # as users do
    source = streamed(KINDS[kind]())
    state, others = torch.get_rng_state(), (random.getstate(), repr(np.random.get_state()))  # noqa: NPY002  # as above
    for first in (0, 3):
        given = list(epoch_of(source, RUN, 0, first))
        assert [fingerprint(batch) for batch in given] == whole[first:]
        assert all(isinstance(batch, tuple) for batch in given)
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), repr(np.random.get_state())) == others  # noqa: NPY002  # as above
    assert not set(prints(KINDS[kind](), epoch=1)) & set(whole)
    if "order" not in kind:
        other = prints(KINDS[kind](), run=RUN.model_copy(update={"seed": 4}))
        variant = prints(KINDS[kind](), run=RUN.model_copy(update={"order": 1}))
        assert not set(whole) & ({*other} | {*variant})


def test_workers_change_nothing_of_a_data_set_with_positions() -> None:
    """None, two forked ones or a spawned one: the same bits."""
    assert prints(KINDS["loader"]()) == prints(KINDS["two workers"]())
    assert prints(KINDS["loader"]()) == prints(KINDS["spawned worker"]())


def test_the_last_batch_is_uneven_where_a_loader_keeps_it() -> None:
    """`drop_last` of a DataLoader counts; a bare data set leaves the rest out, as tensors do."""
    sizes = [len(batch[1]) for batch in epoch_of(streamed(loader(Noisy())), RUN, 0, 0)]
    assert sizes == [4, 4, 4, 4, 4, 2]
    dropped = streamed(loader(Noisy(), drop_last=True))
    assert [len(batch[1]) for batch in epoch_of(dropped, RUN, 0, 0)] == [4] * 5


def test_nothing_is_read_before_it_is_needed() -> None:
    """Eight samples for the digest, one batch to look at, and then what is trained on."""
    FETCHED.clear()
    source = streamed(Noisy())
    assert sorted(FETCHED) == [0, 3, 6, 9, 12, 15, 18, 21]
    FETCHED.clear()
    looked_at(source, RUN)
    assert len(FETCHED) <= 8
    FETCHED.clear()
    given = epoch_of(source, RUN, 0, 0)
    next(given)
    given.close()
    assert len(FETCHED) == 4
    FETCHED.clear()
    list(epoch_of(source, RUN, 0, 4))
    assert len(FETCHED) == 4, "what was trained on before is not read again"


def test_the_digest_says_which_data_they_are() -> None:
    """The same again; another for other samples, another length, another held-out split."""

    def digest(source: Any, held_out: Any = HELD_OUT) -> str:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # as in a data function, whose streams begin alike
        return digest_of(Splits(train=source, validation=held_out, test=HELD_OUT))

    x = torch.arange(20.0)
    whole = digest(TensorDataset(x, x))
    assert whole == digest(TensorDataset(x, x))
    others = [
        digest(TensorDataset(x, x + 1)),
        digest(TensorDataset(x[:-1], x[:-1])),
        digest(TensorDataset(x, x), (HELD_OUT[0] + 1, HELD_OUT[1])),
        digest(Noisy()),
    ]
    assert len({whole, *others}) == 5
    assert digest(Noisy()) == digest(Noisy())
    assert digest(Flowing()) == digest(Flowing())


def test_held_out_data_sets_are_read_at_once() -> None:
    """They become tensors, in order, all of them, whichever way they come."""
    x, y = torch.arange(150.0).view(75, 2), torch.arange(75)
    for source in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), 16, num_workers=1)):
        splits = Splits(train=(x, y), validation=source, test=source)
        assert torch.equal(splits.validation[0], x)
        assert torch.equal(splits.test[1], y)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class Empty(Noisy):
    def __len__(self) -> int:
        return 0


class Ragged(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(index % 3 + 1), 0


class Wordy(Dataset[Any]):
    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[str, int]:
        return "a word", index


class Failing(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise ValueError("a damaged file")


class FailingLate(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 5:
            raise ValueError("a damaged file")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Endless, "without a length"),
        (Empty, "without a sample"),
        (lambda: loader(Noisy(), sampler=WeightedRandomSampler([1.0] * 22, 22)), "A recipe draws"),
        (lambda: DataLoader(Noisy(), batch_size=5), "run.batch_size is 4: make them the same"),
        (lambda: DataLoader(Flowing(), batch_size=5), "run.batch_size is 4: make them the same"),
        (lambda: DataLoader(Flowing(), batch_size=None), "without a batch size"),
        (partial(Flowing, gives=9), "gave 2 batches in epoch 0, and 22 samples make 5"),
        (Wordy, "A batch of the train split"),
        (Ragged, "raised RuntimeError"),
        (FailingLate, "ValueError: a damaged file in .*test_streamed_data.py, line"),
        (lambda: loader(FailingLate(), num_workers=1), "ValueError: a damaged file in .*data.py"),
        (
            lambda: loader(
                Noisy(), num_workers=1, collate_fn=lambda _: _, multiprocessing_context="spawn"
            ),
            "The train split, in epoch 0, raised",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_named(source: Callable[[], Any], said: str) -> None:
    """By a sentence, before the first step or at the batch that fails."""

    def train() -> None:
        train_split = streamed(source())
        batches(train_split, RUN)
        list(epoch_of(train_split, RUN, 0, 0))

    with pytest.raises(UsageError, match=said):
        train()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Ragged, "raised|different shapes"),
        (lambda: loader([]), "without a sample"),
        (lambda: DataLoader(Noisy(), batch_size=4, collate_fn=lambda _: {"x": "text"}), "str"),
    ],
)
def test_what_cannot_be_held_out_is_named(source: Callable[[], Any], said: str) -> None:
    """A split that is compared batch by batch has to be tensors."""
    with pytest.raises((UsageError, RuntimeError), match=f"{said}|stack"):
        Splits(train=HELD_OUT, validation=source(), test=HELD_OUT)
