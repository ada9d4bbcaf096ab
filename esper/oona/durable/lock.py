"""One writer a folder on this machine: a POSIX record lock, which dies with its process and is not
inherited by forked children.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from esper.errors import UsageError

_held: Final[set[Path]] = set()  # record locks do not exclude their own process
_guard: Final = threading.Lock()


_REMEDY: Final = "wait for it, stop it, or choose another --run-id"


class Lock:
    """An exclusive lock on `path`, held from construction to `release`.

    Raises:
        UsageError: a living process holds it; `what`, its process id and `remedy` are in the
            sentence.
    """

    def __init__(self, path: Path, *, what: str, remedy: str = _REMEDY) -> None:
        self._path = path.resolve()
        with _guard:
            if self._path in _held:
                raise _taken(what, os.getpid(), remedy)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                # not flock: a forked data loader would inherit it, and keep a dead trainer's run
                # locked
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
                os.close(self._fd)
                raise _taken(what, holder or "unknown", remedy) from error
            _held.add(self._path)
        with suppress(OSError):  # a full disk: the lock holds all the same, only without a name
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; the file stays."""
        with _guard:
            if self._path in _held:
                _held.discard(self._path)
                os.close(self._fd)


def _taken(what: str, holder: int | str, remedy: str) -> UsageError:
    return UsageError(f"{what} is being written by process {holder}; {remedy}.")
