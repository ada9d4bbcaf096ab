"""Processes of test_sweep.py and test_keys.py: one that writes snapshots, one that sweeps, and
those that kill sweeps and rotations.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch

from esper.checkpoint import Snapshot, Stored, TensorStore, open_tensors
from esper.checkpoint.retention import NamedSnapshot
from esper.checkpoint.rotation import rotate
from esper.checkpoint.sweep import Rules, sweep
from esper.clock import SystemClock
from esper.config import Settings
from esper.urza.local import LocalStore
from esper.urza.opening import open_store
from esper.vault.family_keys import listed
from esper.vault.masters import masters
from tests.tensorstores import family

CLOCK = SystemClock()


def tensors_at(folder: Path) -> TensorStore:
    return TensorStore(
        LocalStore(folder / "store"), family(), LocalStore(folder / "cold"), readers=1
    )


def swept(tensors: TensorStore, held: dict[str, NamedSnapshot], rules: Rules) -> int:
    return sweep(tensors, held, rules, now_us=CLOCK.now_us(), owner="me").chunks


def of(*values: int) -> Snapshot:
    return Snapshot({f"model/{value}": torch.full((5_000,), float(value)) for value in values}, {})


def right(tensors: TensorStore, stored: Stored, values: tuple[int, ...]) -> bool:
    found = tensors.read(stored.address, stored.sha256).tensors
    return set(found) == {f"model/{value}" for value in values} and all(
        bool((tensor == float(name.removeprefix("model/"))).all()) for name, tensor in found.items()
    )


def write(folder: Path, seed: int) -> None:
    """Snapshots of four of six tensors.

    Each is deleted at once by its own writer, so that its chunks are garbage when the next wants
    them.

    It goes on until the sweeper has deleted enough, however fast the machine is.
    """
    tensors, chance, count = tensors_at(folder), random.Random(seed), 0  # noqa: S311  # no secret
    while count < 60 or not (folder / "enough").exists():
        values = tuple(chance.sample(range(6), 4))
        stored = tensors.write(of(*values))
        CLOCK.sleep(chance.random() * 0.02)
        if not right(tensors, stored, values):
            raise SystemExit(1)
        tensors.store.delete(stored.address)
        count += 1
    sys.stdout.write(str(count))


def sweeps(folder: Path) -> None:
    tensors, count = tensors_at(folder), 0
    while not (folder / "stop").exists():
        count += swept(
            tensors, {}, Rules(keep_us=60_000_000, cold_after_us=60_000_000, grace_us=200_000)
        )
        if count > 100:
            (folder / "enough").touch()
    sys.stdout.write(str(count))


def kills(folder: Path) -> None:
    """Fork a sweep for each of its operations, kill it there, look, and sweep again."""
    tensors = tensors_at(folder / "first")
    torch.set_num_threads(1)
    tensors.write(of(1, 2, 3))
    CLOCK.sleep(0.01)
    middle = CLOCK.now_us()
    kept = tensors.write(of(3, 4))
    named = {kept.address: NamedSnapshot(middle, "last")}
    CLOCK.sleep(0.01)
    rules = Rules(keep_us=0, cold_after_us=0, grace_us=0)
    number = 0
    while True:
        place = folder / str(number)
        shutil.copytree(folder / "first", place)
        child = os.fork()
        if child == 0:
            _die_at(number)
            swept(tensors_at(place), named, rules)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        copy = tensors_at(place)
        assert right(copy, kept, (3, 4)), number
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        swept(copy, named, rules)
        assert right(copy, kept, (3, 4)), number
        assert [key.partition("/")[0] for key in copy.store.list()] == ["manifests"], number
        assert len(list(copy.stores.both[1].list())) == 2, number
        shutil.rmtree(place)
        number += 1
    sys.stdout.write(str(number))


def rotations(folder: Path) -> None:
    """Fork a rotation of the master key for each of its operations, kill it there, read a snapshot
    of each family, and rotate again.
    """
    first = Settings(home=folder / "first")
    torch.set_num_threads(1)
    stored = {
        name: open_tensors(first, name).write(of(number))
        for number, name in enumerate(("run-a", "run-b", "run-c"))
    }
    number = 0
    while True:
        settings = Settings(home=folder / str(number))
        shutil.copytree(folder / "first", settings.home)
        child = os.fork()
        if child == 0:
            _die_at(number)
            rotate(settings)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        for value, (name, one) in enumerate(stored.items()):
            assert right(open_tensors(settings, name), one, (value,)), (number, name)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        done = rotate(settings)
        assert masters(settings).current.id == done.current != masters(first).current.id
        assert len(masters(settings).keys) == 1
        assert {one.master_id for one in listed(open_store(settings), masters(settings))} == {
            done.current
        }
        for value, (name, one) in enumerate(stored.items()):
            assert right(open_tensors(settings, name), one, (value,)), (number, name)
        number += 1
    sys.stdout.write(str(number))


def _die_at(number: int) -> None:
    """Die before the link, unlink or rename of this number."""
    left, calls = [number], {"os.link", "os.remove", "os.rename"}

    def hear(event: str, _: object) -> None:
        if event in calls:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def ended(role: str, folder: Path) -> int:
    """The number that this program says when it has played a role in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, role, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


if __name__ == "__main__":
    role, where = sys.argv[1], Path(sys.argv[2])
    if role == "write":
        write(where, int(sys.argv[3]))
    elif role == "sweep":
        sweeps(where)
    elif role == "kills":
        kills(where)
    else:
        rotations(where)
