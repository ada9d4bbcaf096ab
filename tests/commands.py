"""Processes of Esper in tests: `esper ...` as typed, and the parts of a stack alone.

Most are forked out of one process that has imported what they need (`tests/nursery.py`); `cold`
ones begin from nothing, as for a user.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.waiting import PATIENCE_S, eventually

ROOT: Final = Path(__file__).parents[1]
COMMON: Final = (
    "esper.cli",
    "esper.cli.shared.history_source",
    "esper.cli.shared.proving",
    "esper.library",
    "esper.tolaria.run.assembly",
    "torch._dynamo",  # what the first optimizer of torch's imports: as long as torch itself
)
"""What nearly every process of Esper imports in the end."""


@dataclass(slots=True)
class Command:
    """A process. Its standard output and error are files."""

    pid: int
    out: Path
    err: Path
    _ask: Callable[[], int | None]
    returncode: int | None = None
    """Its exit code, negative for a signal; None until somebody has seen its end."""

    def poll(self) -> int | None:
        """Its exit code; None while it lives."""
        if self.returncode is None:
            self.returncode = self._ask()
        return self.returncode

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended by itself.

        Raises:
            TimeoutError: it does not.
        """
        if not eventually(lambda: self.poll() is not None, seconds):
            raise TimeoutError(f"it does not end: {self.err.read_text()[-2000:]}")
        assert self.returncode is not None
        return self.returncode

    def said(self, seconds: float = PATIENCE_S) -> tuple[str, str]:
        """What it had said when it ended by itself, on both streams."""
        self.wait(seconds)
        return self.out.read_text(), self.err.read_text()

    def send_signal(self, number: int) -> None:
        """Signal it, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        self.send_signal(signal.SIGKILL)
        self.wait()


class _Nursery:
    """The process that others are forked from, begun when the first is wanted; it has imported
    what is `COMMON`, and these modules.
    """

    def __init__(self, imported: Sequence[str]) -> None:
        self._imported = imported
        self.folder = Path(tempfile.mkdtemp(prefix="esper-tests-"))
        self.numbers = count(1)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What it answers."""
        with self._lock:
            if self._process is None:
                own = {
                    name: value
                    for name, value in os.environ.items()
                    if not name.startswith("ESPER_")
                } | {"PYTHONPATH": str(ROOT)}
                command = [sys.executable, "-m", "tests.nursery", *COMMON, *self._imported]
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=own,
                    cwd=ROOT,
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            return answer

    def close(self) -> None:
        """End it, and forget what its children said."""
        if self._process is not None:
            self._process.communicate(timeout=PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)


_made: dict[tuple[str, ...], _Nursery] = {}


def _nursery(imported: tuple[str, ...]) -> _Nursery:
    if imported not in _made:
        _made[imported] = _Nursery(imported)
    return _made[imported]


def close() -> None:
    """Give everything back, at the end of a session."""
    while _made:
        _made.popitem()[1].close()


def begin(
    *arguments: str | Path,
    module: str = "esper.cli",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    out: Path | None = None,
    cold: bool = False,
    imported: tuple[str, ...] = (),
) -> Command:
    """Begin `python -m MODULE ARGUMENTS`, or `python MODULE ARGUMENTS` of a file, with the
    environment of the tests or with `environment` alone; both streams go to `out`, if it is given.

    What is `imported` need not be loaded by the process itself, unless it is `cold`.
    """
    nursery = _nursery(imported)
    stem = nursery.folder / f"{next(nursery.numbers):05d}"
    to, told = (out, out) if out else (stem.with_suffix(".out"), stem.with_suffix(".err"))
    told.touch()
    given, folder, words = (
        dict(os.environ if environment is None else environment),
        str(cwd or ROOT),
        [str(one) for one in arguments],
    )
    if not cold:
        asked = {
            "program": module,
            "arguments": words,
            "environment": given,
            "cwd": folder,
            "out": str(to),
            "err": str(told),
        }
        pid = nursery.ask(asked)["pid"]
        return Command(pid, to, told, lambda: nursery.ask({"pid": pid})["code"])
    given["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [given.get("PYTHONPATH")])])
    with to.open("ab") as one, told.open("ab") as other:
        process = subprocess.Popen(
            [sys.executable, *([] if module.endswith(".py") else ["-m"]), module, *words],
            stdin=subprocess.DEVNULL,
            stdout=one,
            stderr=other,
            env=given,
            cwd=folder,
        )
    return Command(process.pid, to, told, process.poll)


def run(
    *arguments: str | Path,
    module: str = "esper.cli",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cold: bool = False,
    imported: tuple[str, ...] = (),
    seconds: float = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """The same to its end."""
    process = begin(
        *arguments, module=module, environment=environment, cwd=cwd, cold=cold, imported=imported
    )
    try:
        out, err = process.said(seconds)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(
        [module, *map(str, arguments)], process.returncode or 0, out, err
    )
