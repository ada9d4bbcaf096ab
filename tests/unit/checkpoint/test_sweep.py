"""The sweep deletes what nobody needs and nothing else, whoever writes meanwhile and wherever it is
killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from esper.checkpoint import Snapshot, Stored, TensorStore, chunks
from esper.checkpoint.chunks import Chunk
from esper.checkpoint.manifest import condemnations, manifest_at
from esper.checkpoint.retention import NamedSnapshot
from esper.checkpoint.sweep import Rules, sweep
from esper.clock import ManualClock
from esper.errors import CorruptError
from esper.urza.memory import MemoryStore
from esper.urza.store import Listed
from tests.tensorstores import family
from tests.unit.checkpoint.sweeping import ended
from tests.waiting import PATIENCE_S

HOUR, DAY = 3600.0, 86_400.0
RULES = Rules()
SCRIPT = Path(__file__).with_name("sweeping.py")


class HookedStore(MemoryStore):
    """Calls `hook` before each of its operations, once `hook` is set; not within it."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.hook: Callable[[], None] | None = None

    def _before(self) -> None:
        if (hook := self.hook) is not None:
            self.hook = None
            hook()
            self.hook = self.hook or hook

    def put_if_absent(self, key: str, content: bytes) -> bool:
        self._before()
        return super().put_if_absent(key, content)

    def get(self, key: str) -> bytes | None:
        self._before()
        return super().get(key)

    def exists(self, key: str) -> bool:
        self._before()
        return super().exists(key)

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        self._before()
        return iter(list(super().objects(prefix)))

    def delete(self, key: str) -> bool:
        self._before()
        return super().delete(key)


class Yard:
    """A family's stores, on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hot, self.cold = HookedStore(self.clock), MemoryStore(self.clock)
        self.tensors = TensorStore(self.hot, family(), self.cold, readers=1)
        self.held: dict[str, NamedSnapshot] = {}

    def write(self, **values: float) -> Stored:
        """A snapshot of tensors that are full of these values, which a journal names."""
        stored = self.tensors.write(snapshot(**values))
        self.held[stored.address] = NamedSnapshot(self.clock.now_us())
        return stored

    def sweep(self, rules: Rules = RULES, *, dry_run: bool = False) -> tuple[int, int, int, int]:
        """Snapshots kept and deleted, chunks deleted and moved."""
        done = sweep(
            self.tensors, self.held, rules, now_us=self.clock.now_us(), owner="me", dry_run=dry_run
        )
        return done.kept, done.deleted, done.chunks, done.moved

    def reads(self, stored: Stored) -> dict[str, float]:
        """What a snapshot's tensors are full of."""
        found = self.tensors.read(stored.address, stored.sha256).tensors
        assert all(bool((tensor == tensor[0]).all()) for tensor in found.values())
        return {name.removeprefix("model/"): float(tensor[0]) for name, tensor in found.items()}

    def keys(self) -> list[str]:
        return [
            key for store in (self.hot, self.cold) for key in store.list(chunks.chunks(family()))
        ]


def snapshot(**values: float) -> Snapshot:
    return Snapshot(
        {f"model/{name}": torch.full((5_000,), value) for name, value in values.items()}, {}
    )


def test_a_snapshot_goes_after_seven_days_with_what_only_it_had() -> None:
    """Its chunks go, those that a younger one shares stay; what is kept is read as it was."""
    yard = Yard()
    first = yard.write(a=1, shared=5)
    yard.clock.advance(6.9 * DAY)
    second = yard.write(a=2, shared=5)
    assert yard.sweep(Rules(cold_after_us=RULES.keep_us)) == (2, 0, 0, 0)
    yard.clock.advance(0.2 * DAY)
    assert yard.sweep(dry_run=True) == (1, 1, 1, 0)
    assert len(yard.keys()) == 3
    assert yard.sweep() == (1, 1, 1, 0)
    assert len(yard.keys()) == 2
    assert yard.reads(second) == {"a": 2, "shared": 5}
    with pytest.raises(CorruptError, match=f"^Manifest {first.address} is not in the store"):
        yard.reads(first)
    assert yard.sweep() == (1, 0, 0, 0)
    assert list(yard.hot.list("condemned")) == []


@pytest.mark.parametrize("why", ["pinned", "last", "forked"])
def test_what_is_held_stays_for_ever(why: str) -> None:
    """Pinned, the last of a run that has not ended, or the beginning of a fork: after a year it is
    there, in the cold store.
    """
    yard = Yard()
    stored = yard.write(a=1)
    yard.held[stored.address] = NamedSnapshot(yard.held[stored.address].taken_us, why)  # type: ignore[arg-type]  # one of the literals
    yard.clock.advance(365 * DAY)
    assert yard.sweep() == (1, 0, 0, 1)
    assert yard.reads(stored) == {"a": 1}
    yard.held[stored.address] = NamedSnapshot(yard.held[stored.address].taken_us)
    yard.clock.advance(2 * HOUR)
    assert yard.sweep() == (0, 1, 1, 0)
    assert yard.keys() == []


def test_old_chunks_move_and_are_read_from_where_they_are() -> None:
    """After a day, what no younger snapshot has moves to the cold store; manifests stay.

    A snapshot that needs it again stores it anew, hot.
    """
    yard = Yard()
    first = yard.write(a=1, shared=5)
    yard.clock.advance(0.9 * DAY)
    second = yard.write(a=2, shared=5)
    assert yard.sweep() == (2, 0, 0, 0)
    yard.clock.advance(0.2 * DAY)
    assert yard.sweep() == (2, 0, 0, 1)
    assert (len(list(yard.hot.list("chunks"))), len(list(yard.cold.list()))) == (2, 1)
    assert yard.reads(first) == {"a": 1, "shared": 5}
    third = yard.write(a=1)
    assert len(list(yard.hot.list("chunks"))) == 3
    yard.clock.advance(2 * DAY)
    assert yard.sweep() == (3, 0, 0, 3)
    assert list(yard.hot.list("chunks")) == []
    for stored, values in (
        (first, {"a": 1, "shared": 5}),
        (second, {"a": 2, "shared": 5}),
        (third, {"a": 1}),
    ):
        assert yard.reads(stored) == values


def test_a_damaged_copy_in_the_cold_store_is_replaced_before_the_hot_one_goes() -> None:
    """The move trusts nothing that lies there already."""
    yard = Yard()
    stored = yard.write(a=1)
    (key,) = yard.keys()
    yard.cold.put_if_absent(key, b"damaged")
    yard.clock.advance(2 * DAY)
    assert yard.sweep() == (1, 0, 0, 1)
    assert list(yard.hot.list("chunks")) == []
    assert yard.reads(stored) == {"a": 1}


def test_what_no_journal_names_stays_as_long_as_if_one_did() -> None:
    """A snapshot whose event is under way, or waits in an outbox, is there for seven days.

    Chunks that no manifest names go after an hour.
    """
    yard = Yard()
    unnamed = yard.write(a=1)
    yard.held.clear()
    chunks.put(yard.hot, family(), b"left by a writer that was killed", set())
    yard.clock.advance(0.9 * HOUR)
    assert yard.sweep() == (1, 0, 0, 0)
    yard.clock.advance(0.2 * HOUR)
    assert yard.sweep() == (1, 0, 1, 0)
    yard.clock.advance(6.9 * DAY)
    assert yard.sweep() == (1, 0, 0, 1)
    assert yard.reads(unnamed) == {"a": 1}
    yard.clock.advance(0.1 * DAY)
    assert yard.sweep() == (0, 1, 1, 0)
    assert yard.keys() == []


def test_nothing_is_deleted_where_a_manifest_cannot_be_read() -> None:
    """Nobody knows which chunks it needs: the sweep names it and leaves the family as it is."""
    yard = Yard()
    yard.write(a=1)
    kept = yard.write(a=2)
    yard.clock.advance(8 * DAY)
    yard.held[kept.address] = NamedSnapshot(yard.held[kept.address].taken_us, "last")
    content = yard.hot.get(kept.address)
    assert content is not None
    yard.hot.delete(kept.address)
    yard.hot.put_if_absent(kept.address, content[:-1] + b"x")
    before = sorted(yard.hot.list())
    with pytest.raises(CorruptError, match=f"^Manifest {kept.address} is damaged"):
        yard.sweep()
    assert sorted(yard.hot.list()) == before


HARSH = Rules(keep_us=int(7 * DAY * 1e6), cold_after_us=int(DAY * 1e6), grace_us=-1)
"""No grace: every chunk that no manifest names is deleted at once, even one that a writer has just
put.
"""


def prepared() -> Yard:
    """A store with one snapshot to delete, whose chunks the next snapshot will have in part."""
    yard = Yard()
    yard.write(a=1, b=2, c=3)
    yard.clock.advance(8 * DAY)
    return yard


def step(store: HookedStore, number: int, act: Callable[[], None]) -> Callable[[], bool]:
    """Let `act` happen before the operation `number` of the store from now on.

    Gives whether it did.
    """
    left = [number]

    def hook() -> None:
        left[0] -= 1
        if left[0] == -1:
            act()

    store.hook = hook
    return lambda: left[0] < 0


def test_a_snapshot_is_whole_wherever_it_is_written_within_a_sweep() -> None:
    """A trainer stores a snapshot, with chunks that the sweep is deleting, before each single
    operation of the sweep in turn.
    """
    for number in range(200):
        yard, written = prepared(), list[Stored]()
        happened = step(
            yard.hot,
            number,
            lambda yard=yard, written=written: written.append(yard.write(a=1, b=2, d=4)),  # type: ignore[misc]
        )
        yard.sweep(HARSH)
        yard.hot.hook = None
        if not happened():
            break
        assert yard.reads(written[0]) == {"a": 1, "b": 2, "d": 4}, number
        yard.sweep(HARSH)
        assert yard.reads(written[0]) == {"a": 1, "b": 2, "d": 4}, number
        assert len(yard.keys()) == 3
        assert list(yard.hot.list(condemnations(family()))) == []
    assert 9 < number < 199


def test_a_snapshot_is_whole_wherever_a_sweep_happens_within_its_writing() -> None:
    """A whole sweep before each single operation of a writer in turn, and then at each pair of
    them.
    """
    for first in range(60):
        for second in range(60):
            yard = prepared()

            def again(yard: Yard = yard, second: int = second) -> None:
                yard.sweep(HARSH)
                step(yard.hot, second, lambda: void(yard.sweep(HARSH)))

            hooked = step(yard.hot, first, again)
            stored = yard.write(a=1, b=2, d=4)
            happened = hooked()
            yard.hot.hook = None
            assert yard.reads(stored) == {"a": 1, "b": 2, "d": 4}, (first, second)
            if second > 0 and not happened:
                break
        if not happened:
            break
    assert 8 < first < 59


def void(_: object) -> None:
    """Nothing."""


def test_a_sweep_paused_anywhere_while_a_writer_is_paused_anywhere() -> None:
    """The sweep stops before its operation i, a writer begins and stops before its operation j, the
    sweep ends, the writer ends: nothing is missing.

    Both are threads that take turns, so each of the interleavings really happens.
    """
    missing = []
    for i in range(40):
        for j in range(14):
            yard, stored = prepared(), list[Stored]()
            turn, swept = threading.Event(), threading.Event()
            writer = threading.Thread(target=write_paused, args=(yard, j, turn, swept, stored))
            happened = step(yard.hot, i, lambda writer=writer, turn=turn: began(writer, turn))  # type: ignore[misc]
            yard.sweep(HARSH)
            yard.hot.hook = None
            swept.set()
            if not happened():
                break
            writer.join(20)
            try:
                assert yard.reads(stored[0]) == {"a": 1, "b": 2, "d": 4}
            except CorruptError as error:
                missing.append((i, j, str(error)))
        if not happened():
            break
    assert missing == []
    assert i > 9


def began(writer: threading.Thread, turn: threading.Event) -> None:
    """Let a writer begin, and wait until it stops."""
    writer.start()
    assert turn.wait(20)


def passed(turn: threading.Event, swept: threading.Event) -> None:
    """Let the sweep go on to its end."""
    turn.set()
    assert swept.wait(20)


def write_paused(
    yard: Yard, at: int, turn: threading.Event, swept: threading.Event, stored: list[Stored]
) -> None:
    """Write a snapshot; before the operation `at`, or at the end, it is the other's turn."""
    view = HookedStore(yard.clock)
    view._objects = yard.hot._objects  # the same objects, without the sweep's hook
    step(view, at, lambda: passed(turn, swept))
    stored.append(TensorStore(view, family(), yard.cold).write(snapshot(a=1, b=2, d=4)))
    turn.set()


def test_a_sweep_killed_before_each_of_its_operations_is_finished_by_the_next(
    tmp_path: Path,
) -> None:
    """Kill -9 before every link and unlink of a sweep that deletes, moves and condemns: what is
    kept is whole at once, and the next sweep ends clean.
    """
    assert ended("kills", tmp_path) >= 12


@pytest.mark.slow
def test_processes_that_write_and_sweep_the_same_store(tmp_path: Path) -> None:
    """Two trainers store snapshots that share and drop chunks, while a third process sweeps without
    a pause: each is whole after its writing.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    roles = [("write", "1"), ("write", "2"), ("sweep", "")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), role, str(tmp_path), seed],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for role, seed in roles
    ]
    try:
        said = [one.communicate(timeout=150)[0] for one in processes[:2]]
        (tmp_path / "stop").touch()
        deleted = processes[2].communicate(timeout=PATIENCE_S)[0]
    finally:
        for one in processes:
            one.kill()
    assert [one.returncode for one in processes] == [0, 0, 0], said
    assert sum(int(one) for one in said) >= 100
    assert int(deleted) > 100


def test_the_manifest_names_the_copy(tmp_path: Path) -> None:
    """A chunk that is condemned is not used: the snapshot has a copy of its own, which is found by
    the manifest.
    """
    del tmp_path
    yard = Yard()
    yard.write(a=1)
    (key,) = yard.keys()
    yard.hot.put_if_absent(f"{condemnations(family())}other-1", f'["{key}"]'.encode())
    second = yard.write(a=1)
    manifest = manifest_at(yard.hot, family(), second.address, second.sha256)
    (chunk,) = [Chunk(**one) for one in manifest["chunks"]]
    assert chunk.copy != ""
    assert chunk.key(family()) != key
    yard.hot.delete(key)
    assert yard.reads(second) == {"a": 1}
