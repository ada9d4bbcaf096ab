"""A script with a loop of its own, run by `esper run train.py -- ARGS` or as `python train.py`:
its text and its arguments are on record, so that it can be executed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol

from esper.blame import is_foreign, own_code
from esper.bounded import DEFAULT, read_in
from esper.bounded.names import MALFORMED
from esper.disk import write_file
from esper.errors import UsageError
from esper.journal.provenance import SOURCE as FOLDER
from esper.tolaria.recipes.environment import ARGUMENTS, NUMBER, SOURCE

if TYPE_CHECKING:
    from esper.tolaria.recipes.recipe import Recipe
    from esper.tolaria.record.forking import ForkStart
    from esper.tolaria.run.own_loop import Growth
    from esper.tolaria.run.own_start import OwnLoop
    from esper.tolaria.run.tracking import RunTracker

PLACE: Final = "script.json"
"""The file in a run's folder that says where its script lay, and in which folder it ran."""


class Staging(Protocol):
    """What `esper.grow` stands on where a script is executed again."""

    def growing(self, asked: OwnLoop) -> AbstractContextManager[Growth]:
        """In place of a run that begins: the recorded one."""


@dataclass(frozen=True, slots=True)
class ScriptFork:
    """What a script's run begins with, if it is a fork: the state, the recipe with what the fork
    changes, and the step that it ends at, if not with the loop.
    """

    start: ForkStart
    recipe: Recipe
    goal: int | None = None


@dataclass(slots=True)
class Script:
    """A script that is run: its file, its arguments, and what the command line says of its run.

    `folder` is where it is run, this process's if none. One that is `told` was begun by Esper, and
    `growths` are its runs so far, and `trackers` those in which nothing grows; else Python itself
    runs it, and `begun` alone counts them.
    """

    path: Path
    content: bytes
    arguments: tuple[str, ...] = ()
    run_id: str = ""
    resume: bool = False
    told: bool = True
    folder: Path | None = None
    fork: ScriptFork | None = None
    staging: Staging | None = None
    growths: list[Growth] = field(default_factory=list)
    trackers: list[RunTracker] = field(default_factory=list)
    begun: int = 0

    def take(self, growth: Growth) -> None:
        """Note a run that it has begun."""
        self.begun += 1
        if self.told:  # a program that begins many runs would else hold all of their models
            self.growths.append(growth)

    def track(self, tracker: RunTracker) -> None:
        """Note a run that it tells of, and in which nothing grows."""
        self.begun += 1
        if self.told:
            self.trackers.append(tracker)

    def asked(self, run_id: str, *, resume: bool) -> tuple[str, bool]:
        """The id of its next run, and whether that goes on: as the command line says for the first,
        where it says so.
        """
        if not self.told or self.begun:
            return run_id, resume
        return self.run_id or run_id, self.resume or resume

    def inputs(self, *, resumed: bool) -> dict[str, str]:
        """What RunStarted records of it among the versions.

        The arguments of one that nobody told of its run say `--resume` in later lives: where it is
        `resumed`, they are left out.
        """
        digest = hashlib.sha256(self.content).hexdigest()
        arguments = {} if resumed and not self.told else {ARGUMENTS: json.dumps(self.arguments)}
        number = {NUMBER: str(self.begun + 1)} if self.begun else {}
        return {f"{SOURCE}{self.path.name}": digest, **arguments, **number}

    def keep(self, folder: Path) -> None:
        """Keep its text in a run's folder, and where it lay.

        Raises StorageFullError or UnavailableError.
        """
        write_file(folder / FOLDER / self.path.name, self.content)
        place = {"path": str(self.path.resolve()), "folder": str(self.folder or Path.cwd())}
        write_file(folder / PLACE, json.dumps(place, indent=1, sort_keys=True).encode() + b"\n")

    def run(self) -> None:
        """Run it as Python runs a script: as `__main__`, its folder first on the path.

        Raises:
            UsageError: it raised; the sentence has its file and line.
            SystemExit: it left by itself.
        """
        global _running  # noqa: PLW0603  # a script calls esper.grow with nothing of ours in its hands
        argv, path, main = sys.argv, list(sys.path), sys.modules["__main__"]
        sys.argv = [str(self.path), *self.arguments]
        sys.path.insert(0, str(self.path.resolve().parent))
        if self.folder is not None and self.folder.is_dir():
            os.chdir(self.folder)
        _running = self
        try:
            left = own_code(f"The script {self.path}", self._executed)
            if left is not None:
                raise left
        finally:
            sys.argv, sys.path[:], sys.modules["__main__"], _running = argv, path, main, None

    def _executed(self) -> SystemExit | None:
        module = ModuleType("__main__")
        # its own file's name also for a kept copy: what lies beside it is found by that
        module.__dict__.update(__file__=str(self.path), __builtins__=__builtins__, __cached__=None)
        sys.modules["__main__"] = module
        try:
            # this text, not what the file holds by now: it is what is on record
            exec(compile(self.content, str(self.path), "exec"), module.__dict__)  # noqa: S102  # the user's own script
        except SystemExit as error:  # given back, not raised: scripts end so, and it is no mistake
            return error
        return None


_running: Script | None = None
_of_python: Script | None = None


def running() -> Script | None:
    """The script that calls: one that Esper runs, or the file that Python was started with.

    None where that is no file of the user's own, as in a notebook.
    """
    global _of_python  # noqa: PLW0603  # it counts the runs of this process
    if _running is not None:
        return _running
    if _of_python is None:
        main = sys.modules.get("__main__")
        name = getattr(main, "__file__", None)
        # by `python -m` it is a module, which cannot be run as a file
        if name is None or getattr(main, "__spec__", None) is not None or is_foreign(name):
            return None
        try:
            path = Path(name).resolve()
            _of_python = Script(path, path.read_bytes(), tuple(sys.argv[1:]), told=False)
        except OSError:
            return None
    return _of_python


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


def name_in(versions: Mapping[str, str]) -> str:
    """The name of the script whose run has recorded `versions`; empty where no script is on
    record.
    """
    names = [name.removeprefix(SOURCE) for name in versions if name.startswith(SOURCE)]
    return next((name for name in names if name.endswith(".py") and ARGUMENTS in versions), "")


def place_in(run_dir: Path, name: str) -> tuple[Path, Path | None]:
    """Where the script `name` of a run lay, and the folder that it ran in.

    Where that is not known, as for a run from elsewhere, it is as if it lay where this process is.
    """
    try:
        place = json.loads(read_in(run_dir, PLACE, DEFAULT.json))
        return Path(place["path"]), Path(place["folder"])
    except (FileNotFoundError, *MALFORMED):
        return Path.cwd() / name, None
