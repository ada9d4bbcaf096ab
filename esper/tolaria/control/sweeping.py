"""Garbage collection by the clock: `esper gc`, in a process of its own, when the last one of this
home is long enough ago.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from esper.clock import Clock
from esper.config import Settings
from esper.disk import write_file
from esper.errors import EsperError

_log = logging.getLogger(__name__)
_HOUR_S: Final = 3_600.0
_LOOK_S: Final = 60.0
_END_S: Final = 2.0


class Sweeps(threading.Thread):
    """Sweeps the store every `checkpoints.sweep_hours`, counted from the last sweep that ended
    well, whoever asked for it; 0 is never.

    A home that was never swept is swept for the first time after as long as that. One that fails is
    told of in the log, and tried again after as long. A sweep may be killed at any moment, so the
    end of this process does not wait for one.
    """

    def __init__(self, settings: Settings, *, environment: Mapping[str, str], clock: Clock) -> None:
        super().__init__(name="sweeps", daemon=True)
        self._settings = settings
        self._environment = dict(environment)
        self._clock = clock
        self._every_s = settings.checkpoints.sweep_hours * _HOUR_S
        self._over = threading.Event()
        self._tried_us = 0

    def run(self) -> None:
        """The thread's life."""
        if not self._every_s:
            return
        while not self._over.wait(min(_LOOK_S, self._every_s)):
            now = self._clock.now_us()
            if now - max(self._swept_us(), self._tried_us) < self._every_s * 1e6:
                continue
            # before the sweep: one that fails is not tried again at every look
            self._tried_us = now
            try:
                self._sweep()
            except OSError as error:
                _log.warning(
                    "The store was not swept, because no process could be started: %s", error
                )

    def stop(self) -> None:
        """End the thread, and a sweep that is under way."""
        self._over.set()
        if self.is_alive():
            self.join()

    def _swept_us(self) -> int:
        try:
            return int(self._settings.swept_path.read_text())
        except (OSError, ValueError):  # a new home, whose first day begins
            now = self._clock.now_us()
            with suppress(EsperError):
                write_file(self._settings.swept_path, str(now).encode())
            return now

    def _sweep(self) -> None:
        child = subprocess.Popen(
            command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment,
            text=True,
        )
        while True:
            try:
                # `communicate` empties the pipe: a full one would hold up the sweep forever
                _, errors = child.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                if self._over.is_set():
                    _ended(child)
                    return
            else:
                break
        if child.returncode:
            last = errors.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            _log.warning(
                "The store was not swept; the next attempt is in %.0f hours: %s",
                self._settings.checkpoints.sweep_hours,
                last[0],
            )


def command() -> tuple[str, ...]:
    """A sweep's command line: polite, for somebody may be training on this machine."""
    return ("nice", sys.executable, "-m", "esper.cli", "gc", "--json")


def _ended(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
