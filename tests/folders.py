"""Folders that others change while a test looks at them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a folder, links not followed; what goes away meanwhile is left out.

    `Path.rglob` raises where a folder does, and an engine merges its parts when it likes.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                yield path, path.lstat()


def files_below(folder: Path) -> set[Path]:
    """The files among them."""
    return {path for path, status in below(folder) if stat.S_ISREG(status.st_mode)}
