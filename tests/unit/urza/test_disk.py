"""The disk tier: bounded, shared by processes, and harmless to those who took a file out of it."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from esper.urza.disk_tier import DiskCache


def put(cache: DiskCache, folder: Path, name: str, size: int, *, used_s: int) -> None:
    """Keep a file of `size` bytes, last used at second `used_s`."""
    source = folder / f"source-{name}"
    source.write_bytes(name[:1].encode() * size)
    cache.keep(source, name)
    os.utime(cache.folder / name, (used_s, used_s))


def test_the_least_recently_used_leave_until_the_rest_fits(tmp_path: Path) -> None:
    """At 100 bytes, a fourth file of 50 pushes out the two that were used longest ago: `take`
    counts as use.
    """
    cache = DiskCache(tmp_path / "shared", 100)
    for second, name in enumerate("abc", start=1):
        put(cache, tmp_path, name, 30, used_s=second)
    assert cache.take("a", tmp_path / "mine")
    put(cache, tmp_path, "d", 50, used_s=4)
    assert sorted(path.name for path in cache.folder.iterdir()) == ["a", "d"]


def test_what_was_taken_outlives_its_eviction(tmp_path: Path) -> None:
    """A file that is evicted, or replaced, after it was taken stays as it was under the taker's
    name.
    """
    cache = DiskCache(tmp_path / "shared", 100)
    put(cache, tmp_path, "a", 60, used_s=1)
    assert cache.take("a", tmp_path / "mine")
    put(cache, tmp_path, "b", 60, used_s=2)
    assert not (cache.folder / "a").exists()
    assert (tmp_path / "mine").read_bytes() == b"a" * 60
    assert not cache.take("a", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_too_large_and_a_folder_that_takes_nothing_are_no_errors(tmp_path: Path) -> None:
    """A file above the limit pushes nothing out, and where the folder cannot be made nothing is
    kept.
    """
    cache = DiskCache(tmp_path / "shared", 50)
    put(cache, tmp_path, "a", 40, used_s=1)
    (tmp_path / "large").write_bytes(b"x" * 51)
    cache.keep(tmp_path / "large", "large")
    assert [path.name for path in cache.folder.iterdir()] == ["a"]
    (tmp_path / "file").touch()
    DiskCache(tmp_path / "file" / "shared", 50).keep(tmp_path / "large", "a")


@pytest.mark.parametrize("failure", [OSError, PermissionError])
def test_another_file_system_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[OSError]
) -> None:
    """Where no hard link can be made, keeping and taking copy."""

    def refuse(*_: object) -> None:
        raise failure(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    cache = DiskCache(tmp_path / "shared", 100)
    put(cache, tmp_path, "a", 10, used_s=1)
    assert cache.take("a", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == b"a" * 10


def work(folder: Path, worker: int) -> list[str]:
    """Keep and take the same ten names over and over; gives the contents that were not whole."""
    cache, own, wrong = DiskCache(folder / "shared", 400), folder / str(worker), []
    own.mkdir()
    for number in range(400):
        name = "abcdefghij"[(number * (worker + 1)) % 10]
        mine = own / f"{number}"
        if cache.take(name, mine):
            if mine.read_bytes() != name.encode() * 100:
                wrong.append(name)
        else:
            mine.write_bytes(name.encode() * 100)
            cache.keep(mine, name)
    return wrong


def test_many_processes_share_it(tmp_path: Path) -> None:
    """Four processes that keep, take and evict the same names never see half a file and leave no
    more than the limit.
    """
    with ProcessPoolExecutor(4) as pool:
        assert [
            wrong for worker in pool.map(work, [tmp_path] * 4, range(4)) for wrong in worker
        ] == []
    left = list((tmp_path / "shared").iterdir())
    assert sum(path.stat().st_size for path in left) <= 400
    assert all(len(path.name) == 1 for path in left)
