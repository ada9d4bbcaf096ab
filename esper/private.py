"""What a run leaves on disk is its owner's alone: keys, journals that wait for Kafka, snapshots,
models, logs.

Each of Esper's processes makes files that nobody else may read (its umask, which child processes
inherit, Java's too), and the folder of all data is one that nobody else may enter, so that it does
not matter who made what in it, and when.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from esper.errors import UnavailableError, UsageError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_KEYS: Final = "keys"
_OURS: Final = frozenset(
    {
        "audit",
        "cache",
        "cold",
        "coverage",
        "data",
        "history",
        _KEYS,
        "mutation",
        "pytest-cache",
        "runs",
        "sockets",
        "stack",
        "store",
        "swept",
    }
)
"""What lies in the folder of all data; by it one is told from a folder that holds other things."""


def make_files_private() -> None:
    """Let this process, and all that it starts, make files and folders which only their owner may
    use.
    """
    os.umask(_OTHERS)


def tighten(home: Path) -> str:
    """Keep others out of the folder of all data, if it is there.

    A sentence about what that has changed, empty where nothing.

    Files in `keys` are left as they are: a key that others could read is theirs already, and
    whoever reads it says so.

    Raises:
        UsageError: others may enter it, and it is not ours to change, or holds other things than
            Esper's.
        UnavailableError: it cannot be changed.
    """
    try:
        found = home.stat()
    except OSError:
        # not there yet: made by a process whose files are private. One that cannot be looked at is
        # told of where it is used
        return ""
    if not stat.S_ISDIR(found.st_mode) or not found.st_mode & _OTHERS:
        return ""
    if os.geteuid() not in {found.st_uid, 0}:
        raise UsageError(
            f"{home} belongs to another user, and others may enter it: set ESPER_HOME to a "
            "folder of your own."
        )
    try:
        inside = {entry.name for entry in home.iterdir()}
        if found.st_mode & stat.S_ISVTX or (inside and not inside & _OURS):
            raise UsageError(
                f"{home} is open to other users and holds other things than Esper's: set "
                "ESPER_HOME to a folder of its own, or `chmod 700` it."
            )
        for path in _below(home):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & _OTHERS:
                path.chmod(mode & ~_OTHERS)
        home.chmod(
            stat.S_IMODE(found.st_mode) & ~_OTHERS
        )  # last: a process that is killed before it finds the work again
    except OSError as error:
        raise UnavailableError(
            f"{home} is open to other users and cannot be closed ({error.strerror}): "
            f"`chmod -R go= {home}`."
        ) from error
    return f"{home} was open to other users of this machine; now only its owner can enter it."


def _below(home: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(home):
        here = Path(folder)
        names = folders if here == home / _KEYS else [*folders, *files]
        yield from (path for name in names if not (path := here / name).is_symlink())
