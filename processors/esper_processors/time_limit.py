"""A limit on how long somebody else's code may hold a worker's loop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 1.0
"""Seconds until the next reminder to code that has swallowed one."""


class OutOfTime(BaseException):  # no error of a caller, and what `except Exception` must not hold
    """The limit is over."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the body once it has taken that long, again each second until it ends.

    For the main thread; who else uses SIGALRM there gets it back afterwards. It ends Python code
    and what waits in system calls, no call into C that computes.
    """

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise OutOfTime(f"it took more than {seconds:g} s")

    # stopped first: another's alarm would otherwise reach our handler
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
        yield
    finally:
        # before the handler is given back: an alarm in between would meet another's, or end the
        # process
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)
