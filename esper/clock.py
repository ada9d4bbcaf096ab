"""The one place that reads time: everything else takes a `Clock`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable


class Clock(ABC):
    """Wall time for events, monotonic time for durations, sleep for waits."""

    @abstractmethod
    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""

    def wait_until(self, condition: Callable[[], bool], seconds: float, nap: float) -> bool:
        """Look at `condition` until it holds, every `nap` seconds (above 0) for at most `seconds`.

        Gives whether it came to hold.

        It is looked at once without waiting, and a last time when `seconds` are over.
        """
        deadline = self.monotonic() + seconds
        while not condition():
            if self.monotonic() >= deadline:
                return False
            self.sleep(nap)
        return True


class SystemClock(Clock):
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        # whole numbers: seconds as a float round to a quarter of a microsecond by now
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back."""
        # not wall time, which a time server may set back
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        time.sleep(seconds)


class ManualClock(Clock):
    """A clock that moves only when told to: tests and replay."""

    def __init__(self, start_us: int = 1_700_000_000_000_000) -> None:
        self._us = start_us

    def now_us(self) -> int:
        """The time set last, in microseconds since 1970-01-01 UTC."""
        return self._us

    def monotonic(self) -> float:
        """The time set last, in seconds."""
        return self._us / 1e6

    def sleep(self, seconds: float) -> None:
        """Move on by `seconds` at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self._us += round(seconds * 1e6)
