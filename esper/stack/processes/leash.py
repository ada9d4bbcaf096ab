"""Ends the stack's processes when their supervisor is gone, however it went.

A small process of its own reads a pipe that only the supervisor can write to. The supervisor names
each process group that it starts, and takes back each that has ended. When the pipe closes, even by
`kill -9`, every group that is still named is killed: parts with all their children. SIGKILL at
once, because each part is built to come back from that, and the next `esper up` must find folders
and ports free. A parent-death signal (prctl) would reach the parts alone, not their children, and
only on Linux.

Standard library only: this file is also the program of that process, started isolated (-I -S) to
stay at 10 MB.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self


class Leash:
    """The supervisor's end. `hold` a group right after its start, `drop` it after its end."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._watcher = _start()

    @property
    def pid(self) -> int:
        """Of the watching process."""
        return self._watcher.pid

    def hold(self, group: int) -> None:
        """Kill this process group when we are gone."""
        self._groups.add(group)
        self._say(f"+{group}\n")

    def drop(self, group: int) -> None:
        """This group has ended: its number may be used by others from now on."""
        # At once: the watcher must never kill a group of somebody else that has got the number.
        self._groups.discard(group)
        self._say(f"-{group}\n")

    def mend(self) -> bool:
        """Start the watching process again if somebody killed it; whether that was needed."""
        if self._watcher.poll() is None:
            return False
        self._close_pipe()
        self._watcher = _start()
        for group in self._groups:
            self._say(f"+{group}\n")
        return True

    def close(self) -> None:
        """Kill what is still held, at once, and wait for the watching process."""
        self._close_pipe()
        self._watcher.wait()
        self._groups.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _say(self, line: str) -> None:
        pipe = self._watcher.stdin
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # mend() says everything again
                pipe.write(line.encode())
                pipe.flush()

    def _close_pipe(self) -> None:
        if self._watcher.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._watcher.stdin.close()


def kill_group(group: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal to a process group; False when nothing of it is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS answers so for a group of zombies
        return False
    return True


def _start() -> subprocess.Popen[bytes]:
    # Isolated and without site: it has to start where a broken installation does not.
    program = (sys.executable, "-I", "-S", __file__)
    return subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, cwd="/"
    )


def _watch(lines: Iterable[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever ends the supervisor by its group or terminal must not end the watcher first.
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in lines:
        (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    _watch(sys.stdin.buffer)
