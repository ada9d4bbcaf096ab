"""Plain files in a folder that somebody else made: no link is followed, no device opened, nothing
outside the folder reached.

A name is opened folder by folder with O_NOFOLLOW, so that whoever can still write in there cannot
lead a reader out of it between two looks.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from esper.bounded.limits import Limit, Limits
from esper.errors import CorruptError, UsageError, printable

_NAME: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,7}", re.ASCII
)
_PART: Final = 1 << 20
_FLAGS: Final = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # O_NONBLOCK: a pipe is refused, not waited for


def require_plain_name(name: str, where: Path) -> str:
    """A file's name inside a folder, as it stands: at most eight parts of letters, digits, dots,
    dashes and underscores.

    Raises:
        CorruptError: it is another path, such as an absolute one, or one with "..".
    """
    if not _NAME.fullmatch(name):
        raise CorruptError(
            f"{where} names the file {printable(name)!r}, which is no plain name inside it."
        )
    return name


def walked(folder: Path, limits: Limits) -> dict[str, int]:
    """The plain files below a folder, by name from there, with their sizes in bytes.

    Raises:
        UsageError: the folder cannot be read.
        CorruptError: it has a link, a device, a pipe, a socket, an odd name, or more files than the
            limits allow.
    """
    found: dict[str, int] = {}
    try:
        for name, entry in _entries(folder, ""):
            if not entry.is_file(follow_symlinks=False):
                raise CorruptError(
                    f"{printable(str(folder / name))} is a link or a device: an export has "
                    "plain files and folders alone."
                )
            found[require_plain_name(name, folder)] = entry.stat(follow_symlinks=False).st_size
            limits.files.require(len(found), f"{folder} has files,")
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}.") from error
    return found


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                require_plain_name(name, folder)  # which bounds the depth, too
                yield from _entries(folder / entry.name, f"{name}/")
            else:
                yield name, entry


@contextmanager
def open_in(folder: Path, name: str, limit: Limit) -> Iterator[BinaryIO]:
    """A plain file of a folder, opened without following any link in its name, and not larger than
    the limit.

    Raises:
        FileNotFoundError: it is not there.
        CorruptError: its name leads elsewhere, it is no plain file, or it is larger.
        UsageError: it cannot be read.
    """
    *folders, last = require_plain_name(name, folder).split("/")
    where = folder / name
    held: list[int] = []
    try:
        held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in folders:
            held.append(os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=held[-1]))
        descriptor = os.open(last, _FLAGS, dir_fd=held[-1])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(where, error) from error
    finally:
        for one in held:
            os.close(one)
    with _plain_file(where, descriptor, limit) as file:
        yield file


@contextmanager
def open_named(path: Path, limit: Limit) -> Iterator[BinaryIO]:
    """A plain file that the user names himself, links in its name included, and not larger than the
    limit.

    Raises:
        UsageError: it cannot be read.
        CorruptError: it is no plain file, or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # no file has such a name
        raise UsageError(f"{str(path)!r} is no name of a file: {error}.") from error
    with _plain_file(path, descriptor, limit) as file:
        yield file


def read_in(folder: Path, name: str, limit: Limit) -> bytes:
    """The bytes of such a file; raises as `open_in` does."""
    with open_in(folder, name, limit) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size)  # which takes room for what it is asked for at once
        if file.read(1):
            raise CorruptError(f"{folder / name} grows while it is read.")
    return content


def _plain_file(where: Path, descriptor: int, limit: Limit) -> BinaryIO:
    """The file of a descriptor, which is closed with it or when it is refused."""
    try:
        # before a file is made of it: Python's own refuses a folder in its own words
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptError(f"{printable(str(where))} is no plain file.")
        limit.require(status.st_size, f"{where} has bytes,")
    except CorruptError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _refused(where: Path, error: OSError) -> UsageError | CorruptError:
    if isinstance(error, PermissionError):
        return UsageError(f"{where} cannot be read: {error.strerror}.")
    return CorruptError(
        f"{printable(str(where))} is no plain file in plain folders: {error.strerror}."
    )
