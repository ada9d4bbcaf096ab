"""Data of recipes: what a new run gets, what a resumed one gets, and data in structures."""

from __future__ import annotations

import importlib
import sys
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from esper.checkpoint.digests import tensors_digest
from esper.errors import CorruptError, UsageError
from esper.tolaria.recipes.recipe import OWNER, Permit, Recipe
from esper.tolaria.recipes.splits import Splits, digest_of, keep, kept_in, packed, read_splits
from esper.tolaria.recipes.structures import divided, leaves, mapped, split
from esper.tolaria.run.trainee import data_of_journal, inputs_of, load_data
from tests.unit.tolaria.laboratory import Laboratory
from tests.unit.tolaria.laboratory import data as laboratory_data
from tests.unit.tolaria.laboratory import recipe as laboratory_recipe

MODULE = """
from pathlib import Path
import torch
import numpy
import random
from esper import Splits
import esper_data_helper

def splits(value):
    part = (torch.full((6, 2), float(value)), torch.zeros(6, dtype=torch.long))
    return Splits(part, part, part)

def one():
    return splits(1)

def two():
    return splits(2)

def helped():
    return splits(esper_data_helper.VALUE)

def read():
    return splits((Path(__file__).parent / "value.txt").read_text())

def drawn():
    return splits(float(torch.rand(())) + numpy.random.rand() + random.random())
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a user's data functions, a module that they import and a file that they read;
    it is on the path.
    """
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "esper_data_own.py").write_text(MODULE)
    (folder / "esper_data_helper.py").write_text("VALUE = 3\n")
    (folder / "value.txt").write_text("4")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    forget()


def forget() -> None:
    """Let both modules be imported again, as in another process."""
    for name in ("esper_data_own", "esper_data_helper"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def named(function: str) -> Recipe:
    return laboratory_recipe(data=f"esper_data_own:{function}")


def value(
    tmp_path: Path, function: str, recorded: str = "", said: list[str] | None = None
) -> float:
    """What the first input of a run of that function is."""
    forget()
    say = (lambda _: None) if said is None else said.append
    found = load_data(
        named(function),
        OWNER,
        run_dir=tmp_path / "runs" / "mine",
        shared=tmp_path / "data",
        recorded=recorded,
        say=say,
    )
    return float(found.train[0][0, 0])


def test_a_new_run_never_gets_the_data_of_another(tmp_path: Path, own: Path) -> None:
    """Another function of the same file under the same recipe's name, an imported module that was
    changed, a file that was changed: each gives what its function gives now.
    """
    assert value(tmp_path, "one") == 1
    assert value(tmp_path, "two") == 2
    assert value(tmp_path, "one") == 1
    assert value(tmp_path, "helped") == 3
    (own / "esper_data_helper.py").write_text("VALUE = 30  # changed\n")
    assert value(tmp_path, "helped") == 30
    assert value(tmp_path, "read") == 4
    (own / "value.txt").write_text("40")
    assert value(tmp_path, "read") == 40


def test_what_a_function_draws_is_the_same_in_each_run(tmp_path: Path, own: Path) -> None:
    """From the global streams of torch, numpy and Python: and torch's stays where it was."""
    assert own
    torch.manual_seed(1)
    first = value(tmp_path, "drawn")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert value(tmp_path, "drawn") == first
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_that_goes_on_has_the_data_that_it_was_begun_with(tmp_path: Path, own: Path) -> None:
    """Whatever the function gives now; where no copy is left, that it differs is said."""
    said = list[str]()
    assert value(tmp_path, "read") == 4
    forget()
    digest = digest_of(importlib.import_module("esper_data_own").splits(4))
    (own / "value.txt").write_text("40")
    assert value(tmp_path, "read", digest, said) == 4
    assert said == []
    for path in kept_in(tmp_path / "data", digest):
        path.unlink()
    assert value(tmp_path, "read", digest, said) == 40
    (sentence,) = said
    assert "esper_data_own:read gives other data than the run was begun with" in sentence
    assert digest[:16] in sentence
    (own / "value.txt").write_text("4")
    assert value(tmp_path, "read", digest, said) == 4
    assert len(said) == 1


def test_kept_data_need_the_same_permission(tmp_path: Path, own: Path) -> None:
    """A stranger's run that names a digest of this installation gets nothing of it unasked."""
    assert own
    assert value(tmp_path, "one") == 1
    digest = digest_of(importlib.import_module("esper_data_own").splits(1))
    with pytest.raises(UsageError, match="--allow esper_data_own:one"):
        load_data(
            named("one"),
            Permit(),
            run_dir=tmp_path / "runs" / "mine",
            shared=tmp_path / "data",
            recorded=digest,
        )
    for hostile in ("*", "", f"../{digest}", f"{digest}/../x"):
        assert kept_in(tmp_path / "data", hostile) == []


def test_a_run_records_its_data_and_an_export_finds_them(tmp_path: Path) -> None:
    """By the digest of RunStarted, in the folder that all runs share."""
    lab = Laboratory(tmp_path, laboratory_recipe(run={"epochs": 1}))
    made = laboratory_data()
    recorded = inputs_of(lab.recipe, made)["data"]
    assert recorded == digest_of(made)
    lab.run()
    events = lab.journal()
    shared = lab.settings.data_dir
    assert data_of_journal(events, run_dir=tmp_path / "nowhere", shared=shared) == []
    keep(made, "laboratory", shared)
    keep(Splits(made.test, made.test, made.test), "laboratory", shared)
    (found,) = data_of_journal(events, run_dir=tmp_path / "nowhere", shared=shared)
    assert recorded in found.name


X, Y = torch.arange(12.0).view(6, 2), torch.arange(6)
STRUCTURES: dict[str, Any] = {
    "pair": (X, Y),
    "mapping": {"input_ids": X, "attention_mask": X, "labels": Y},
    "mapping and labels": ({"a": X, "b": (X, {"c/d[0]": X})}, Y),
    "three": (X, X + 1, Y),
    "tuple and labels": ((X, X + 1), Y),
    "two targets": (X, {"one": Y, "other": (Y, Y + 1)}),
    "pair of one": ((X,), Y),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_data_in_any_structure_come_back_as_they_were(name: str) -> None:
    """Out of a file, with the same digest, and no other structure has that digest."""
    part = STRUCTURES[name]
    made = Splits(part, part, part)
    again = read_splits(packed(made), "it")
    assert digest_of(again) == digest_of(made)
    assert described(again.train) == described(made.train)
    others = [Splits(one, one, one) for key, one in STRUCTURES.items() if key != name]
    assert digest_of(made) not in {digest_of(one) for one in others}


def described(structure: Any) -> Any:
    return mapped(lambda one: (one.shape, one.sum().item()), structure)


def test_the_digest_of_plain_pairs_is_what_it_was() -> None:
    """Journals of before have recorded it, and files of before are read."""
    tensors = {
        f"{name}_{axis}": one
        for name in ("train", "validation", "test")
        for axis, one in (("x", X), ("y", Y))
    }
    made = Splits((X, Y), (X, Y), (X, Y))
    assert digest_of(made) == tensors_digest(tensors)
    content = save({name: one.clone() for name, one in tensors.items()})
    assert digest_of(read_splits(content, "it")) == digest_of(made)


def test_any_mapping_and_list_is_taken() -> None:
    """A BatchEncoding is a UserDict."""
    part = [UserDict({"input_ids": X}), Y]
    made = Splits(part, part, part)
    assert type(made.train) is tuple
    assert type(made.train[0]) is dict
    assert [path for path, _ in leaves(made.train)] == [(0, "input_ids"), (1,)]


@pytest.mark.parametrize(
    "names",
    [
        ("train_x", "train_y", "validation_x", "validation_y"),
        ("train_x", "train_y", "validation_x", "validation_y", "test_x", "other"),
        ("train_x", "train_x[0]", "train_y", "validation_x", "test_x"),
        ("train[1]", "validation_x", "test_x"),
        ("train[true]", "validation_x", "test_x"),
        ("train[[0]]", "validation_x", "test_x"),
        ("train[0 ]", "train[1]", "validation_x", "test_x"),
        ('train["a"]', "train[0]", "validation_x", "test_x"),
        ("train_x[" + "0," * 20 + "0]", "train_y", "validation_x", "test_x"),
        ("train", "validation", "test"),
        ("train_x", "validation_x", "test_x"),
        ("train[" + "[" * 5000, "validation_x", "test_x"),
    ],
)
def test_a_file_with_other_names_is_no_data(names: tuple[str, ...]) -> None:
    """Whatever somebody wrote there."""
    with pytest.raises(CorruptError, match="it holds no data of a run"):
        read_splits(save({name: torch.zeros(2) for name in names}), "it")


def test_structures_are_cut_like_their_tensors() -> None:
    """Into batches and parts, with the bits of torch's own cuts."""
    for part in STRUCTURES.values():
        for found, cut in ((list(split(part, 4)), Tensor.split), (divided(part, 4), tensor_split)):
            for index, piece in enumerate(found):
                pairs = zip(leaves(piece), leaves(part), strict=True)
                assert all(torch.equal(one, cut(whole, 4)[index]) for (_, one), (_, whole) in pairs)


def tensor_split(tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
    return tensor.tensor_split(parts)


BAD: list[tuple[Any, str]] = [
    (X, r"The train split is one tensor: give inputs and targets"),
    ((X,), r"The train split is one tensor: give inputs and targets"),
    ((X.numpy(), Y), r"split\[0\] is a numpy ndarray: give torch.from_numpy"),
    ((X, Y.tolist()), r"split\[1\] is a list of int: give torch.tensor"),
    ((X, None), r"split\[1\] is NoneType. Give torch tensors"),
    (
        (torch.utils.data.TensorDataset(X), Y),
        r"split\[0\] is a TensorDataset: read it into tensors",
    ),
    (
        (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X)), Y),
        r"split\[0\] is a DataLoader: read it into tensors",
    ),
    ((X, Y[:5]), "has 6 inputs and 5 labels; it needs as many of one as of the other"),
    ((X[:0], Y[:0]), "has 0 inputs and 0 labels"),
    ({"a": X, "labels": Y[:5]}, r"has 6 \['a'\] and 5 \['labels'\]"),
    (({"a": X}, Y[:5]), r"has 6 inputs\['a'\] and 5 labels"),
    ((X, torch.tensor(1)), "has labels without a dimension"),
    ((X.to_sparse(), Y), "has sparse inputs: give a dense tensor"),
    (({}, Y), r"split\[0\] is empty"),
    (({1: X}, Y), "has the key 1, which is no text"),
    ([[[[[[[[[[X]]]]]]]]], Y], "is nested more than 8 deep"),
    ("train.csv", "is str. Give torch tensors"),
]


@pytest.mark.parametrize(("part", "sentence"), BAD)
def test_a_split_that_is_none_is_named(part: Any, sentence: str) -> None:
    """When it is made: the sentence says which, what is wrong, and what to do."""
    with pytest.raises(UsageError, match=sentence):
        Splits(part, (X, Y), (X, Y))
    good: Tensor = Splits((X, Y), (X, Y), (X, Y)).train[0]
    assert good is X
