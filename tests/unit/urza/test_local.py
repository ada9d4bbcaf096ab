"""What only the folder can do wrong."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from esper.errors import StorageFullError, UnavailableError
from esper.urza.local import LocalStore


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of room in the middle of a write: a sentence, no object, no remains.

    Afterwards the same put succeeds.
    """
    store = LocalStore(tmp_path)
    calls = []

    def full(descriptor: int, content: memoryview) -> int:
        calls.append(len(content))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:3])

    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageFullError, match="is full; free some room"):
            store.put_if_absent("kernels/a", b"content")
    assert calls == [7, 4]
    assert not store.exists("kernels/a")
    assert list((tmp_path / ".incoming").iterdir()) == []
    assert store.put_if_absent("kernels/a", b"content")
    assert store.get("kernels/a") == b"content"


def test_opening_sweeps_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    """A temporary file without a lock belongs to nobody; one that is locked is being written."""
    LocalStore(tmp_path)
    dead, living = tmp_path / ".incoming" / "dead", tmp_path / ".incoming" / "living"
    dead.write_bytes(b"torn")
    with living.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        LocalStore(tmp_path)
        assert (dead.exists(), living.exists()) == (False, True)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A file where the folder should be: one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be used"):
        LocalStore(tmp_path / "file")
