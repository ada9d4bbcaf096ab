"""The disk tier of the kernel cache: artefacts in one folder that all runs of an installation
share.

Every change is one rename or one unlink, so that any number of processes use the folder at once.
What is taken out of it gets a name of the taker's own (a hard link; a copy on another file system)
before it is read, so that it stays whatever others evict or replace. Nobody trusts a file here:
whoever takes it verifies it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from esper.disk import make_folder

_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class DiskCache:
    """The folder and the most bytes that this process leaves in it.

    The least recently used files go first.
    """

    folder: Path
    limit_bytes: int
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def take(self, name: str, target: Path) -> bool:
        """Give the file `name` a second name, `target`, and note that it was used.

        Returns whether there was one.

        Raises:
            OSError: `target` cannot be written.
        """
        source = self.folder / name
        try:
            # A link first: from now on nobody who evicts the file takes its content from us.
            same_file(source, target)
            with suppress(PermissionError):  # another user's file: its time stays
                os.utime(source)
        except FileNotFoundError:
            return target.exists()  # evicted by another process, before or just after we had it
        return True

    def keep(self, source: Path, name: str) -> None:
        """Put a copy of `source` here as `name`, in place of what is there, and make room.

        A folder that takes nothing is no error: it is a cache.
        """
        # A name of its own and a rename: another process never reads half a file.
        partial = self.folder / f"{name}.{os.getpid()}-{next(self._numbers)}{_PARTIAL}"
        with suppress(OSError):
            make_folder(self.folder)
            if source.stat().st_size > self.limit_bytes:
                return
            same_file(source, partial)
            # a link shares the source's time, and an old one would be evicted first
            os.utime(partial)
            partial.replace(self.folder / name)
            partial.unlink(missing_ok=True)  # a rename between two names of one file does nothing
            self.evict()

    def drop(self, name: str) -> None:
        """Remove a damaged file."""
        with suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)

    def evict(self) -> None:
        """Unlink the files used least recently, and what killed processes left, until the rest is
        within the limit.
        """
        files: list[tuple[int, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    # by modification: access times are off on many file systems (noatime)
                    files.append((state.st_mtime_ns, state.st_size, entry.path))
        excess = sum(size for _, size, _ in files) - self.limit_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            with suppress(FileNotFoundError):
                Path(path).unlink()
            excess -= size


def same_file(source: Path, target: Path) -> None:
    """Make `target`, which does not exist, another name of `source`, or a copy where the file
    system cannot.

    Raises:
        FileNotFoundError: there is no `source`.
        OSError: `target` cannot be written.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
