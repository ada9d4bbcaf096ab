"""Files that survive a crash and are their owner's alone, whatever files the process makes else.

And the sentence for a disk that has no room.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from esper.errors import EsperError, StorageFullError, UnavailableError

_OWNER: Final = stat.S_IRUSR | stat.S_IWUSR
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        # not `parents=True`: that gives the folders above it the default mode
        path.mkdir(mode=stat.S_IRWXU, exist_ok=True)


def write_new(path: Path, content: bytes) -> None:
    """Write a file under a name that nobody reads yet: it may be torn, and is not durable.

    Raises OSError.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER), "wb") as file:
        file.write(content)


def appended(path: Path) -> BinaryIO:
    """A file that is written at its end, made where it is not there: a log, a lock, a mark.

    Raises OSError.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _OWNER), "ab")


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, content: bytes, offset: int) -> None:
    """Write all of `content` at `offset` and make it durable.

    Raises OSError, after which the bytes from `offset` on are undefined.
    """
    view = memoryview(content)
    while view:
        # it may write less than it was given
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    # the file's new size is durable with it, too; times need not be
    os.fdatasync(fd)


def write_file(path: Path, content: bytes) -> None:
    """Put a file in place, and the folders that it lacks, whole or not at all, durably.

    Raises StorageFullError or UnavailableError.
    """
    part = path.with_name(
        f".{path.name}.{os.getpid()}-{threading.get_ident()}.part"
    )  # another writer of the same file has its own
    try:
        make_folder(path.parent)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER)
        try:
            write_at(fd, content, 0)
        finally:
            os.close(fd)
        # atomic: readers see the old file or the new one
        part.replace(path)
        # without it a crash may take the new name back
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def no_room(error: OSError) -> bool:
    """Whether a write failed because the disk, the quota or the file-size limit is full."""
    return error.errno in _NO_ROOM


def unwritable(path: Path, error: OSError) -> EsperError:
    """The sentence for a file that could not be written."""
    if no_room(error):
        return StorageFullError(
            f"No room left to write {path} ({error.strerror}): free some space and go on; "
            "nothing that was written is lost."
        )
    return UnavailableError(
        f"{path} cannot be written ({error.strerror}): repair the disk or correct its permissions, "
        "then start again."
    )
