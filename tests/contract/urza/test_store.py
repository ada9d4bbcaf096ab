"""What every object store has to do."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.errors import UsageError
from esper.urza.local import LocalStore
from esper.urza.memory import MemoryStore
from esper.urza.opening import store_at
from esper.urza.store import Store
from tests.stackfixtures import S3Place


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """One of the implementations, empty."""
    if request.param == "s3":
        place: S3Place = request.getfixturevalue("s3")
        return store_at(place.location, place.server.endpoint)
    return LocalStore(tmp_path / "store") if request.param == "local" else MemoryStore()


def test_what_is_put_is_there(store: Store) -> None:
    """An object is whole, by any bytes, the empty ones too."""
    for key, content in (("a", b""), ("kernels/b.safetensors", bytes(range(256)) * 5000)):
        assert (store.exists(key), store.get(key)) == (False, None)
        assert store.put_if_absent(key, content)
        assert (store.exists(key), store.get(key)) == (True, content)


def test_a_key_is_taken_once(store: Store) -> None:
    """A second put changes nothing and says so; after a delete the key is free again."""
    assert store.put_if_absent("kernels/a", b"first")
    assert not store.put_if_absent("kernels/a", b"second")
    assert store.get("kernels/a") == b"first"
    assert store.delete("kernels/a")
    assert not store.delete("kernels/a")
    assert store.put_if_absent("kernels/a", b"third")
    assert store.get("kernels/a") == b"third"


def test_listing_is_sorted_and_by_prefix(store: Store) -> None:
    """Keys come sorted; a prefix is one of characters, not of folders."""
    for key in ("kernels/b", "kernels/a", "kern", "other/deep/c"):
        store.put_if_absent(key, b"x")
    assert list(store.list()) == ["kern", "kernels/a", "kernels/b", "other/deep/c"]
    assert list(store.list("kern")) == ["kern", "kernels/a", "kernels/b"]
    assert list(store.list("kernels/")) == ["kernels/a", "kernels/b"]
    assert list(store.list("nothing")) == []


def test_a_listing_says_how_large_and_how_old(store: Store) -> None:
    """Size in bytes, and the time of the put by a clock that is near ours.

    What was deleted is not listed.
    """
    before = SystemClock().now_us()
    store.put_if_absent("kernels/a", bytes(70_000))
    store.put_if_absent("kernels/b", b"")
    store.put_if_absent("kernels/c", b"")
    store.delete("kernels/c")
    found = list(store.objects("kernels/"))
    assert [(one.key, one.size) for one in found] == [("kernels/a", 70_000), ("kernels/b", 0)]
    assert all(
        before - 5_000_000 < one.stored_us < SystemClock().now_us() + 5_000_000 for one in found
    )


def test_a_large_object_is_whole(store: Store) -> None:
    """20 MiB and a bit, which S3 takes in parts, is put once and read as it was."""
    content = bytes(range(256)) * (80 << 10) + b"end"
    assert store.put_if_absent("kernels/large", content)
    assert not store.put_if_absent("kernels/large", content + b"other")
    assert store.get("kernels/large") == content


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".incoming/x", "a\0b", "a b", "a/", "a\n"]
)
def test_a_malformed_key_is_refused(store: Store, key: str) -> None:
    """No key leads out of the store or into its own files."""
    for call in (
        store.get,
        store.exists,
        store.delete,
        lambda name: store.put_if_absent(name, b"x"),
    ):
        with pytest.raises(UsageError, match="object key"):
            call(key)


def test_of_racing_threads_one_wins(store: Store) -> None:
    """Eight threads put different bytes under one key: one is told that it stored, and its bytes
    are there.
    """
    start, won = threading.Barrier(8), []

    def put(number: int) -> None:
        start.wait()
        if store.put_if_absent("kernels/a", bytes([number]) * 10_000):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("kernels/a") == bytes(won) * 10_000


def _race(root: Path, number: int, start: Barrier, won: Path) -> None:
    store = LocalStore(root)
    for turn in range(50):
        start.wait(20)
        if store.put_if_absent(f"kernels/{turn}", bytes([number]) * 50_000):
            (won / f"{turn}-{number}").touch()


def test_of_racing_processes_one_wins(tmp_path: Path) -> None:
    """Two processes race for 50 keys: each key has one winner, whose bytes it holds whole, and
    nothing is left over.
    """
    root, won = tmp_path / "store", tmp_path / "won"
    won.mkdir()
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    racers = [context.Process(target=_race, args=(root, number, start, won)) for number in (1, 2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    store = LocalStore(root)
    winners = dict(path.name.split("-") for path in won.iterdir())
    assert len(winners) == len(list(won.iterdir())) == 50
    assert all(
        store.get(f"kernels/{turn}") == bytes([int(number)]) * 50_000
        for turn, number in winners.items()
    )
    assert list((root / ".incoming").iterdir()) == []
