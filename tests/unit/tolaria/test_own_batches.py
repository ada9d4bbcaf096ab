"""Batches of a user's own loop: a function of seed, epoch and position, whoever fetches them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from esper.errors import UsageError
from esper.tolaria.recipes.structures import fingerprint
from esper.tolaria.run.own_batches import Batches, batches_of
from esper.tolaria.session.registered import Registered, flattened, rebuilt


class Drawn(Dataset[tuple[Tensor, float, float]]):
    """Samples that draw from every global stream."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[Tensor, float, float]:
        return torch.rand(2) + index, random.random(), float(np.random.rand())  # noqa: S311, NPY002  # what data sets do


def made(data: Any, **more: Any) -> Batches:
    return batches_of(
        data, **{"batch_size": None, "shuffle": True, "drop_last": False, "seed": 3} | more
    )


def digests(batches: Batches, epoch: int, first: int = 0) -> list[str]:
    return [fingerprint(batch) for batch in batches.epoch(epoch, first)]


ROWS = (torch.arange(23.0).view(23, 1), torch.arange(23))
KINDS: dict[str, Any] = {
    "rows": lambda: made(ROWS, batch_size=5),
    "mapping": lambda: made({"inputs": (ROWS[0], ROWS[0]), "labels": ROWS[1]}, batch_size=5),
    "samples": lambda: made(Drawn(), batch_size=5),
    "loader": lambda: made(DataLoader(Drawn(), 5, shuffle=True)),
    "workers": lambda: made(DataLoader(Drawn(), 5, shuffle=True, num_workers=2)),
    "in order": lambda: made(DataLoader(Drawn(), 5)),
    "ready": lambda: made([(ROWS[0][n : n + 5], ROWS[1][n : n + 5]) for n in range(0, 23, 5)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_goes_on_anywhere_with_the_same_batches(kind: str) -> None:
    """From any position the rest of an epoch is what it is from its beginning, whatever the global
    streams were at, and these are not moved.
    """
    batches, again = KINDS[kind](), KINDS[kind]()
    whole = [digests(batches, epoch) for epoch in range(2)]
    assert [len(one) for one in whole] == [len(batches)] * 2 == [5, 5]
    torch.manual_seed(99)
    random.seed(99)
    before = (torch.get_rng_state(), random.getstate())
    for first in (1, 4):
        assert digests(again, 1, first) == whole[1][first:]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    # epochs differ wherever order or samples are drawn
    assert (whole[0] == whole[1]) == (kind == "ready")


def test_workers_make_what_this_process_makes() -> None:
    """Samples do not depend on who makes them."""
    assert digests(KINDS["workers"](), 0) == digests(KINDS["loader"](), 0)
    assert KINDS["workers"]().content == KINDS["loader"]().content
    assert KINDS["workers"]().content["first"] == digests(KINDS["workers"](), 0)[0]


def test_every_sample_comes_once_an_epoch() -> None:
    """Shuffled or not, with an uneven last batch unless it is left out."""
    for shuffle in (True, False):
        batches = made(ROWS, batch_size=5, shuffle=shuffle)
        rows = torch.cat([labels for _, labels in batches.epoch(0, 0)]).tolist()
        assert sorted(rows) == list(range(23))
        assert (rows == list(range(23))) == (not shuffle)
    assert len(made(ROWS, batch_size=5, drop_last=True)) == 4


def test_what_the_run_began_with_is_told_from_other_data() -> None:
    """Sizes, order and the first batch."""
    content = made(ROWS, batch_size=5).content
    assert content == made(ROWS, batch_size=5).content
    assert content != made((ROWS[0] + 1, ROWS[1]), batch_size=5).content
    assert content != made(ROWS, batch_size=6).content
    assert content != made((ROWS[0].double(), ROWS[1]), batch_size=5).content


@pytest.mark.parametrize(
    "given",
    [
        {"data": []},
        {"data": DataLoader(Drawn(), None)},
        {"data": (ROWS[0], 3), "batch_size": 5},
        {"data": (), "batch_size": 5},
        {"data": ROWS, "batch_size": True},
        {"data": ROWS, "batch_size": 24, "drop_last": True},
        {"data": torch.zeros(3)},
        {"data": 7},
        {"data": DataLoader(Drawn(), 5), "batch_size": 5},
    ],
)
def test_what_makes_no_batches_is_refused(given: Mapping[str, Any]) -> None:
    """In a sentence."""
    with pytest.raises(UsageError):
        made(given["data"], **{key: value for key, value in given.items() if key != "data"})


STATES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.integers(0, 3).map(lambda n: torch.arange(float(n))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


@given(STATES)
def test_a_state_comes_back_as_it_was(state: Any) -> None:
    """Types, order and every value, through JSON too."""
    import json  # noqa: PLC0415  # beside its only use

    note, tensors = flattened(state, "part")
    assert same(rebuilt(json.loads(json.dumps(note, allow_nan=False)), tensors), state)


def test_keys_that_read_alike_are_kept_apart() -> None:
    """Tensors are named by numbers, whatever the keys above them are."""
    state = {
        "a": {"b": torch.zeros(2)},
        "a/b": torch.ones(2),
        1: torch.full((2,), 2.0),
        "1": torch.full((2,), 3.0),
    }
    note, tensors = flattened(state, "part")
    assert len(tensors) == 4
    assert same(rebuilt(note, tensors), state)


def test_a_restored_state_waits_for_its_part() -> None:
    """What is registered after a restore gets its state then; tensors are copies."""
    weights = torch.ones(2)

    class Part:
        def __init__(self) -> None:
            self.state: dict[str, Any] = {"weights": weights, "count": 3}

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    first, second = Registered(), Registered()
    first.register("average", Part())
    notes, tensors = first.state_dict()
    assert list(tensors) == ["registered/average/0"]
    second.load_state_dict(notes, tensors)
    assert list(second.waiting) == ["average"]
    part = Part()
    part.state = {"weights": torch.zeros(2), "count": 0}
    second.register("average", part)
    assert not second.waiting
    weights.zero_()
    assert part.state["weights"].tolist() == [1.0, 1.0]
    assert part.state["count"] == 3
    with pytest.raises(UsageError, match="word"):
        second.register("two words", Part())
