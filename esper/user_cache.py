"""Where the stack keeps what every home of this user shares: Kafka's jars and the Java
AOT cache.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.disk import appended, make_folder
from esper.errors import StorageFullError, UnavailableError


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/esper`, or `~/.cache/esper`.

    It may be deleted at any time while no stack starts.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "esper"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file `path` exclusively among this machine's processes; waits for another holder.

    Raises:
        UnavailableError: the folder cannot be written.
    """
    try:
        make_folder(path.parent)
        handle = appended(path)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def unwritable(directory: Path, error: OSError) -> UnavailableError | StorageFullError:
    """The sentence for a folder that takes no file."""
    if error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return StorageFullError(f"no room left to write {directory}: free some and start again")
    return UnavailableError(
        f"{directory} cannot be written ({error.strerror}): make it writable, or choose "
        "another by XDG_CACHE_HOME or ESPER_HOME"
    )
