"""Which process a pid means: pids are used again, a pid together with its start time is not."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from esper.clock import Clock


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for good: its pid and when it started, in the kernel's ticks since boot on Linux,
    in ms since 1970 elsewhere.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Of a living process, None if there is none.

        One that has ended but was not waited for counts as none.
        """
        started = _started(pid)
        return None if started is None else cls(pid, started)

    def lives(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal if it still lives."""
        if self.lives():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def end(self, *, clock: Clock, timeout: float) -> None:
        """SIGTERM, and SIGKILL if it lives on after `timeout` seconds; returns when it is gone."""
        self.signal(signal.SIGTERM)
        if not self.wait(clock=clock, timeout=timeout):
            self.signal(signal.SIGKILL)
            self.wait(clock=clock, timeout=timeout)

    def wait(self, *, clock: Clock, timeout: float) -> bool:
        """Whether it is gone within `timeout` seconds."""
        return clock.wait_until(lambda: not self.lives(), timeout, 0.01)


def age_s(clock: Clock) -> float:
    """Seconds since this process was created."""
    begun: float = psutil.Process().create_time()
    return max(0.0, clock.now_us() / 1e6 - begun)


def _started(pid: int) -> int | None:
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return (
            None if fields[0] in "ZXx" else int(fields[19])
        )  # proc(5): state is field 3, starttime field 22
    try:
        other = psutil.Process(pid)
        return None if other.status() == psutil.STATUS_ZOMBIE else round(other.create_time() * 1000)
    except psutil.Error:
        return None
