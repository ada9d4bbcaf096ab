"""Data that is made once a user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esper.tolaria.recipes.kept_data import kept

ARRAYS = {"x": np.arange(6, dtype=np.float64).reshape(2, 3), "y": np.arange(2)}


def once() -> Callable[[], dict[str, np.ndarray]]:
    """Makes the arrays, the first time that it is called."""
    left = [ARRAYS]
    return left.pop


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user with an empty cache finds the data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "esper" / "data"


def test_data_is_made_once(cache: Path) -> None:
    """The second call reads what the first has made, with its types and shapes; the file is its
    owner's alone.
    """
    make = once()
    for _ in range(2):
        found = kept("numbers", ("numpy",), make)
        assert {name: (one.dtype, one.tolist()) for name, one in found.items()} == {
            name: (one.dtype, one.tolist()) for name, one in ARRAYS.items()
        }
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_other_packages_make_other_data(cache: Path) -> None:
    """What other packages than these have made is not read."""
    kept("numbers", ("numpy",), once())
    kept("numbers", ("numpy", "torch"), once())
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("left", [0, 10, 32, -1])
def test_a_damaged_file_is_made_again(cache: Path, left: int) -> None:
    """One that was cut short, and one with a changed byte, is replaced by a whole one."""
    kept("numbers", ("numpy",), once())
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:left] if left >= 0 else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert kept("numbers", ("numpy",), once())["x"].tolist() == ARRAYS["x"].tolist()
    assert file.read_bytes() == whole


def test_data_that_cannot_be_kept_is_given_all_the_same(cache: Path) -> None:
    """A cache that takes no file costs nothing but the time."""
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("not a folder")
    assert kept("numbers", ("numpy",), once()).keys() == ARRAYS.keys()
