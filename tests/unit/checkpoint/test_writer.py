"""The snapshot writer: what is stored is what was there when it was asked, whatever happens to the
tensors, the disk or the process.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.checkpoint import Snapshot, SnapshotWriter, Taken
from esper.clock import ManualClock, SystemClock
from esper.errors import BackpressureError, StorageFullError
from esper.urza.local import LocalStore
from tests.tensorstores import tensors_in

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from esper.checkpoint import Snapshot
from esper.urza.local import LocalStore
from tests.tensorstores import tensors_in

store, left = LocalStore(Path(sys.argv[1])), int(sys.argv[2])
link = os.link
def dying(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    link(*arguments)
os.link = dying
full = {f"model/{n}": torch.full((6_000,), float(n)) for n in range(5)}
tensors_in(store).write(Snapshot(full, {"life": 1}))
"""


class GatedStore(LocalStore):
    """Stores nothing before `gate` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()

    def put_if_absent(self, key: str, content: bytes) -> bool:
        self.gate.wait(30)
        return super().put_if_absent(key, content)


def taken_from(writer: SnapshotWriter) -> Taken:
    found = writer.collect(wait=True)
    assert found is not None
    return found


def mean(tensors: object) -> str:
    assert isinstance(tensors, dict)
    return f"{float(tensors['model/a'].double().mean()):g}"


def test_the_copy_is_stored_while_the_training_thread_goes_on(tmp_path: Path) -> None:
    """Tensors that change while the writer works are stored as they were, and so is the digest.

    Then the copies' memory is used again.
    """
    store = GatedStore(tmp_path)
    writer = SnapshotWriter(tensors_in(store), SystemClock())
    living = {"model/a": torch.zeros(100_000), "model/b": torch.zeros(3, dtype=torch.int64)}
    assert writer.collect() is None
    for number in range(3):
        store.gate.clear()
        writer.begin(living, {"number": number}, f"label {number}", digest=mean)
        assert writer.collect() is None  # it is busy
        for tensor in living.values():
            tensor.add_(1)
        store.gate.set()
        found = taken_from(writer)
        assert (found.label, found.digest, found.error) == (f"label {number}", str(number), None)
        assert 0 <= found.stall_us <= found.duration_us
        assert found.stored is not None
        snapshot = tensors_in(store).read(found.stored.address, found.stored.sha256)
        assert snapshot.notes == {"number": number}
        assert all(
            torch.equal(tensor, torch.full_like(tensor, number))
            for tensor in snapshot.tensors.values()
        )
        assert not writer.busy
        assert writer.collect(wait=True) is None


def test_the_copies_memory_is_used_again_where_it_fits(tmp_path: Path) -> None:
    """A second snapshot of the same shapes allocates nothing.

    Another shape or type gets memory of its own.
    """
    writer = SnapshotWriter(tensors_in(LocalStore(tmp_path)), ManualClock())
    living: dict[str, Tensor] = {
        "model/a": torch.zeros(10),
        "model/b": torch.zeros(10),
        "model/c": torch.zeros(10),
    }
    writer.begin(living, {}, None, digest=lambda _: "")
    first = {name: copy.data_ptr() for name, copy in writer._copies.items()}
    taken_from(writer)
    later = {
        "model/a": torch.ones(10),
        "model/b": torch.ones(10, dtype=torch.int32),
        "model/c": torch.ones(11),
    }
    writer.begin(later, {}, None, digest=lambda _: "")
    second = {name: copy.data_ptr() for name, copy in writer._copies.items()}
    found = taken_from(writer)
    assert [first[name] == second[name] for name in ("model/a", "model/b", "model/c")] == [
        True,
        False,
        False,
    ]
    assert found.stored is not None
    assert all(
        torch.equal(one, torch.ones_like(one))
        for one in writer._tensors.read(found.stored.address, found.stored.sha256).tensors.values()
    )


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second snapshot before the first was collected is refused, and the first is as it was."""
    store = GatedStore(tmp_path)
    writer = SnapshotWriter(tensors_in(store), ManualClock())
    writer.begin({"model/a": torch.zeros(3)}, {}, 1, digest=lambda _: "")
    with pytest.raises(
        BackpressureError,
        match=(
            r"^A snapshot is being written, or was not collected yet; collect it before the "
            r"next one\.$"
        ),
    ):
        writer.begin({"model/a": torch.ones(3)}, {}, 2, digest=lambda _: "")
    store.gate.set()
    found = taken_from(writer)
    assert found.stored is not None
    assert torch.equal(
        tensors_in(store).read(found.stored.address, found.stored.sha256).tensors["model/a"],
        torch.zeros(3),
    )


def test_whatever_goes_wrong_is_given_and_not_raised(tmp_path: Path) -> None:
    """Notes that are no JSON, a digest that fails, a store that is gone: an error in the result,
    and the next snapshot is written.
    """
    root = tmp_path / "store"
    writer = SnapshotWriter(tensors_in(LocalStore(root)), ManualClock())
    values = {"model/a": torch.zeros(3)}

    def failing(_: object) -> str:
        raise ValueError("no digest today")

    writer.begin(values, {"odd": object()}, 1, digest=lambda _: "d")
    assert (
        str(taken_from(writer).error)
        == "TypeError: Object of type object is not JSON serializable."
    )
    writer.begin(values, {}, 2, digest=failing)
    found = taken_from(writer)
    assert (str(found.error), found.stored, found.label) == (
        "ValueError: no digest today.",
        None,
        2,
    )
    root.rename(tmp_path / "away")
    root.write_text("no folder any more")
    writer.begin(values, {}, 3, digest=lambda _: "d")
    assert "cannot be used" in str(taken_from(writer).error)
    root.unlink()
    (tmp_path / "away").rename(root)
    writer.begin(values, {}, 4, digest=lambda _: "d")
    assert taken_from(writer).stored is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if made.returncode:
        pytest.skip(
            f"mounting a small file system needs root with CAP_SYS_ADMIN: {made.stderr.strip()}"
        )
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True, timeout=600)


def test_a_full_disk_leaves_no_half_snapshot(small_disk: Path) -> None:
    """No room in the middle: StorageFullError is given, no manifest names what lacks chunks,
    nothing half-written lies about; with room it is stored.
    """
    store = LocalStore(small_disk / "store")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    writer = SnapshotWriter(tensors_in(store), SystemClock())
    generator = torch.Generator().manual_seed(1)
    values = {f"model/{number}": torch.randn(10_000, generator=generator) for number in range(10)}
    writer.begin(values, {}, None, digest=lambda _: "")
    found = taken_from(writer)
    assert isinstance(found.error, StorageFullError)
    assert found.stored is None
    assert list(store.list("manifests")) == []
    assert list(store._incoming.iterdir()) == []
    assert 0 < len(list(store.list("chunks"))) < 10
    ballast.unlink()
    writer.begin(values, {}, None, digest=lambda _: "")
    again = taken_from(writer)
    assert again.stored is not None, again.error
    assert again.stored.stored_bytes < 400_000  # the chunks of the first attempt are used
    assert torch.equal(
        tensors_in(store).read(again.stored.address, again.stored.sha256).tensors["model/9"],
        values["model/9"],
    )


@pytest.mark.parametrize("puts", range(7))
def test_a_writer_killed_in_the_middle_leaves_no_half_snapshot(tmp_path: Path, puts: int) -> None:
    """Kill -9 just before each object gets its name: a manifest is there only when every chunk is,
    and a later writer finishes the work.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(puts)],
        env=environment,
        check=False,
        timeout=600,
    )
    assert done.returncode == (-signal.SIGKILL if puts < 6 else 0)
    store = LocalStore(tmp_path)
    assert (len(list(store.list("chunks"))), len(list(store.list("manifests")))) == (
        min(puts, 5),
        int(puts == 6),
    )
    assert list(store._incoming.iterdir()) == []
    values = {f"model/{number}": torch.full((6_000,), float(number)) for number in range(5)}
    stored = tensors_in(store).write(Snapshot(values, {"life": 1}))
    assert (len(list(store.list("chunks"))), len(list(store.list("manifests")))) == (
        5,
        1 + int(puts == 6),
    )  # each is sealed anew
    assert torch.equal(
        tensors_in(store).read(stored.address, stored.sha256).tensors["model/4"], values["model/4"]
    )


def test_the_thread_ends_with_its_writer(tmp_path: Path) -> None:
    """One thread for all snapshots of a writer, and none once the writer is gone."""
    writer = SnapshotWriter(tensors_in(LocalStore(tmp_path)), SystemClock())
    before = {thread for thread in threading.enumerate() if thread.name == "snapshots"}
    threads = set()
    for _ in range(2):
        writer.begin({"model/a": torch.ones(4)}, {}, None, digest=lambda _: "")
        threads |= {
            thread for thread in threading.enumerate() if thread.name == "snapshots"
        } - before
        writer.wait()
        assert writer.busy
        assert taken_from(writer).stored is not None
    (thread,) = threads
    del writer
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()
