"""Sleep that a signal or the death of a child ends."""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Self


class Wake:
    """While entered, `wait` returns early on SIGCHLD, and SIGTERM or SIGINT set `stop`.

    For the main thread of a process.
    """

    def __init__(self) -> None:
        self.stop = False
        self._end, self._written = socket.socketpair()
        self._before: dict[int, object] = {}

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until the next signal."""
        if select.select([self._end], [], [], seconds)[0]:
            self._end.recv(4096)

    def __enter__(self) -> Self:
        # never blocking: the signal handler writes here, whatever is unread
        self._end.settimeout(0)
        self._written.settimeout(0)
        # a signal just before `select` would be slept through: its byte in the socket is not
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            self._before[number] = signal.signal(number, self._noted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._end.close()
        self._written.close()

    def _noted(self, number: int, _frame: FrameType | None) -> None:
        self.stop = self.stop or number != signal.SIGCHLD
