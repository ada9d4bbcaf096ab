"""The object store in a local folder."""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from esper.disk import make_folder, no_room, sync_directory
from esper.errors import StorageFullError, UnavailableError
from esper.urza.store import Listed, Store, require_key

_INCOMING = ".incoming"


class LocalStore(Store):
    """Objects as files below `root`.

    An object is written under a temporary name in `.incoming`, synced, and then hard-linked to its
    key: the link is atomic and fails when the key is taken, also between processes. What a killed
    writer left in `.incoming` is swept away on opening: living writers hold a lock.

    Raises:
        UnavailableError: the folder cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / _INCOMING
        self._numbers = itertools.count()
        try:
            make_folder(self._incoming)
            self._sweep()
        except OSError as error:
            self._refuse(error)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store unless taken; see `Store`."""
        target = self.root / require_key(key)
        if target.exists():
            return False
        try:
            return self._put(target, content)
        except OSError as error:
            self._refuse(error)

    def get(self, key: str) -> bytes | None:
        """The bytes or None; see `Store`."""
        try:
            return (self.root / require_key(key)).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._refuse(error)

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return (self.root / require_key(key)).is_file()

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """What there is, sorted; see `Store`."""
        folder = self.root / prefix.rpartition("/")[0]
        listed = []
        for path in folder.rglob("*"):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and not key.startswith(_INCOMING):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        listed.append(Listed(key, status.st_size, status.st_mtime_ns // 1000))
        yield from sorted(listed, key=lambda entry: entry.key)

    def delete(self, key: str) -> bool:
        """Remove; see `Store`."""
        target = self.root / require_key(key)
        try:
            target.unlink()
            sync_directory(target.parent)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self._refuse(error)
        return True

    def _put(self, target: Path, content: bytes) -> bool:
        self._make_folder(target.parent)
        temporary = self._incoming / f"{os.getpid()}-{id(self):x}-{next(self._numbers)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Held while it is written: `_sweep` of another process takes only files whose writer is
            # gone.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            try:
                # Unlike a rename, a link never replaces what is there; and it appears whole or not
                # at all.
                os.link(temporary, target)
            except FileExistsError:
                return False
            sync_directory(target.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        # Each parent is synced: a power cut would lose a folder, and with it what was durable in
        # it.
        self._make_folder(folder.parent)
        make_folder(folder)
        sync_directory(folder.parent)

    def _sweep(self) -> None:
        for path in self._incoming.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)

    def _refuse(self, error: OSError) -> NoReturn:
        if no_room(error):
            raise StorageFullError(
                f"The object store in {self.root} is full; free some room and try again: "
                "nothing was stored."
            ) from error
        raise UnavailableError(
            f"The object store in {self.root} cannot be used: {error.strerror}."
        ) from error
