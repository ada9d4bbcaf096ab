"""Files that survive a crash, and the sentence for a disk that has no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from esper.errors import EsperError, StorageFullError, UnavailableError

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, content: bytes, offset: int) -> None:
    """Write all of `content` at `offset` and make it durable; raises OSError, after which the bytes from `offset` on are undefined."""
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    os.fdatasync(fd)


def write_file(path: Path, content: bytes) -> None:
    """Put a file in place, whole or not at all, durably. Raises StorageFullError or UnavailableError."""
    part = path.with_name(f".{path.name}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_at(fd, content, 0)
        finally:
            os.close(fd)
        part.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def no_room(error: OSError) -> bool:
    """Whether a write failed because the disk, the quota or the file-size limit is full."""
    return error.errno in _NO_ROOM


def unwritable(path: Path, error: OSError) -> EsperError:
    """The sentence for a file that could not be written."""
    if no_room(error):
        return StorageFullError(
            f"No room left to write {path} ({error.strerror}): free some space and go on; nothing that was written is lost."
        )
    return UnavailableError(f"{path} cannot be written ({error.strerror}): mend the disk or its permissions, then start again.")
