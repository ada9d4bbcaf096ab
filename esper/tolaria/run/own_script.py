"""A script with a loop of its own, run by `esper run train.py -- ARGS`: it needs no options of its
own to be named, resumed and recorded.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.blame import own_code
from esper.disk import write_file
from esper.errors import UsageError
from esper.journal.provenance import SOURCE as FOLDER
from esper.tolaria.recipes.environment import SOURCE

if TYPE_CHECKING:
    from esper.tolaria.run.own_loop import Growth

ARGUMENTS: Final = "arguments"
"""The name among versions under which a run records those of its script."""


@dataclass(slots=True)
class Script:
    """A script that is run: its file, its arguments, and what the command line says of its run.

    `growths` are the runs that it has begun.
    """

    path: Path
    content: bytes
    arguments: tuple[str, ...] = ()
    run_id: str = ""
    resume: bool = False
    growths: list[Growth] = field(default_factory=list)

    @property
    def inputs(self) -> dict[str, str]:
        """What RunStarted records of it among the versions."""
        return {
            f"{SOURCE}{self.path.name}": hashlib.sha256(self.content).hexdigest(),
            ARGUMENTS: json.dumps(self.arguments),
        }

    def keep(self, folder: Path) -> None:
        """Keep its text in a run's folder.

        Raises StorageFullError or UnavailableError.
        """
        write_file(folder / FOLDER / self.path.name, self.content)

    def run(self) -> None:
        """Run it as Python runs a script: as `__main__`, its folder first on the path.

        Raises:
            UsageError: it raised; the sentence has its file and line.
            SystemExit: it left by itself.
        """
        global _running  # noqa: PLW0603  # a script calls esper.grow with nothing of ours in its hands
        argv, path = sys.argv, list(sys.path)
        sys.argv = [str(self.path), *self.arguments]
        sys.path.insert(0, str(self.path.resolve().parent))
        _running = self
        try:
            left = own_code(f"The script {self.path}", lambda: _main(self.path))
            if left is not None:
                raise left
        finally:
            sys.argv, sys.path[:], _running = argv, path, None


_running: Script | None = None


def running() -> Script | None:
    """The script whose first run has not begun; None outside `esper run`, and for its later runs,
    which say for themselves who they are.
    """
    return _running if _running is not None and not _running.growths else None


def read(
    path: Path, arguments: Sequence[str] = (), *, run_id: str = "", resume: bool = False
) -> Script:
    """The script in a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    return Script(path, content, tuple(arguments), run_id, resume)


def _main(path: Path) -> SystemExit | None:
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as error:  # given back, not raised: scripts end so, and it is no mistake
        return error
    return None
