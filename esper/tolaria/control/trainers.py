"""The trainers that this process started: each in a session of its own, with its log and a file
that says which process it is.

Killed, this process leaves them training, and its next life knows them again by that file. Told to
end, it ends them in order.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from esper.clock import Clock
from esper.config import Settings
from esper.disk import appended, make_folder, write_file
from esper.errors import RejectedError, StorageFullError, UnavailableError
from esper.identity import Identity

_FILE: Final = "trainer.json"
_LOG: Final = "trainer.log"
_TAIL_BYTES: Final = 4_096
_OF_THE_STACK: Final = re.compile(
    r"ESPER_(KAFKA__(BOOTSTRAP|SECURITY_PROTOCOL|SASL_[A-Z_]+)|LISTEN_FDS|[A-Z]+__PORT)"
)


@dataclass(frozen=True, slots=True)
class TrainerProcess:
    """One trainer: its process for good, and when it was started, microseconds since 1970."""

    run_id: str
    process: Identity
    since_us: int

    def as_json(self, log: Path, exit_code: int | None) -> dict[str, Any]:
        """For the API.

        The exit code is known only to the life that started it; minus the signal that ended it.
        """
        return {
            "pid": self.process.pid,
            "alive": self.process.lives(),
            "exit_code": exit_code,
            "since": self.since_us,
            "log": str(log),
        }


class Trainers:
    """Starts trainers, knows them, ends them. Safe to use from several threads."""

    def __init__(
        self, settings: Settings, *, environment: Mapping[str, str], embedded: bool, clock: Clock
    ) -> None:
        self._runs_dir = settings.runs_dir
        self._environment = trainer_environment(environment, embedded=embedded)
        self._clock = clock
        self._guard = threading.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._known: dict[str, TrainerProcess] = {}
        for path in sorted(self._runs_dir.glob(f"*/{_FILE}")):
            if (trainer := _read(path)) is not None:
                self._known[trainer.run_id] = trainer

    def find(self, run_id: str) -> TrainerProcess | None:
        """The last trainer of a run that this process, or a life of it before, has started."""
        return self._known.get(run_id)

    def all(self) -> list[TrainerProcess]:
        """Every one, by run."""
        self._reap()
        return [trainer for _, trainer in sorted(self._known.items())]

    def exit_code(self, run_id: str) -> int | None:
        """How a run's trainer has ended, where this life started it and it has."""
        child = self._children.get(run_id)
        return None if child is None else child.poll()

    def log(self, run_id: str) -> Path:
        """Where a run's trainer writes what it would show on a terminal."""
        return self._runs_dir / run_id / _LOG

    def last_words(self, run_id: str) -> str:
        """The last line of a run's log."""
        try:
            with self.log(run_id).open("rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - _TAIL_BYTES, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def start(
        self, run_id: str, recipe: str, overrides: Sequence[str], *, resume: bool
    ) -> TrainerProcess:
        """Start `esper run` for a run; returns at once, with the process on its way.

        Raises:
            RejectedError: a trainer of this run lives already.
            StorageFullError: no room for its log.
            UnavailableError: it cannot be started.
        """
        with self._guard:
            previous = self._known.get(run_id)
            self._reap()
            if previous is not None and previous.process.lives():
                raise RejectedError(
                    f"Run {run_id} is being trained by process {previous.process.pid}; pause "
                    "it, or start another run."
                )
            child = self._spawn(run_id, command(run_id, recipe, overrides, resume=resume))
            process = Identity.of(child.pid)
            if process is None:
                raise UnavailableError(
                    f"The trainer of run {run_id} ended at once: {self.log(run_id)} says why."
                )
            trainer = TrainerProcess(run_id, process, self._clock.now_us())
            self._children[run_id], self._known[run_id] = child, trainer
            _write(self._runs_dir / run_id / _FILE, trainer)
            return trainer

    def end(self, timeout: float) -> list[TrainerProcess]:
        """Ask every trainer to stop in order, and wait up to `timeout` seconds.

        Those that are still at it end by themselves, and are given.
        """
        living = [trainer for trainer in self.all() if trainer.process.lives()]
        for trainer in living:
            trainer.process.signal(signal.SIGTERM)
        self._clock.wait_until(
            lambda: not any(trainer.process.lives() for trainer in living), timeout, 0.05
        )
        ending = [trainer for trainer in living if trainer.process.lives()]
        self._reap()
        return ending

    def _reap(self) -> None:
        """Take the exit codes of children that have ended, so that they leave the process table."""
        for child in list(self._children.values()):
            child.poll()

    def _spawn(self, run_id: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        log = self.log(run_id)
        try:
            make_folder(log.parent)
            with appended(log) as file:
                return subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=dict(self._environment),
                    # a signal to this process's group, such as Ctrl-C, leaves trainers alone
                    start_new_session=True,
                )
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise UnavailableError(
                    f"The trainer of run {run_id} cannot be started: {error.strerror}, "
                    f"{error.filename}."
                ) from error
            raise StorageFullError(
                f"{log} cannot be written ({error.strerror}): free some room, or set ESPER_HOME."
            ) from error


def command(run_id: str, recipe: str, overrides: Sequence[str], *, resume: bool) -> tuple[str, ...]:
    """The command line of a trainer, which takes what the list of recipes allows and
    nothing else.
    """
    sets = tuple(word for override in overrides for word in ("--set", override))
    # `--` before it: a recipe's name must not pass for an option
    end = (*(("--resume",) if resume else ()), "--listed", "--json", "--", recipe)
    return (sys.executable, "-m", "esper.cli", "run", "--run-id", run_id, *sets, *end)


def trainer_environment(base: Mapping[str, str], *, embedded: bool) -> dict[str, str]:
    """The environment of a trainer: this process's own.

    In a stack with an `embedded` broker without what the stack gave its parts, the broker and
    everyone's port: the trainer finds the stack by ESPER_HOME, as one does that a person starts.
    """
    inherited = {
        name: value
        for name, value in base.items()
        if not (embedded and _OF_THE_STACK.fullmatch(name))
    }
    return {**inherited, "PYTHONUNBUFFERED": "1"}


def _write(path: Path, trainer: TrainerProcess) -> None:
    write_file(path, (json.dumps(asdict(trainer)) + "\n").encode())


def _read(path: Path) -> TrainerProcess | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return TrainerProcess(raw["run_id"], Identity(**raw["process"]), raw["since_us"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
