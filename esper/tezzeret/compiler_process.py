"""The compiler in a process of its own: torch and its first `torch.export` take seconds and half a
gigabyte, and known kernels need neither.

It is loaded ahead, and ended when nothing was compiled for a while: the foundry alone is small. Its
code is `esper.tezzeret.compiler_worker`.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

from esper.clock import Clock
from esper.errors import BuildError, UnavailableError
from esper.karn.ir import BlueprintIR, Budget
from esper.tezzeret.compilation import (
    AttemptStarted,
    Compiled,
    Compiler,
    Failed,
    Progress,
    Rejected,
)

_log = logging.getLogger("esper.tezzeret")
REST_S: Final = 120.0
"""How long the compiler stays loaded after its last kernel."""
_LIVES: Final = 2  # of the process over one kernel
_MODULE: Final = "esper.tezzeret.compiler_worker"


class CompilerProcess:
    """Starts the compiler on `start` or on the first kernel, which waits until it is loaded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._used = 0.0
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        """Load it, unless that has begun; nobody waits."""
        with self._guard:
            self._started()

    def __call__(self) -> Compiler:
        """The compiler. Compile with one thread at a time."""
        self.start()
        return self._compile

    def rest(self) -> None:
        """End it if nothing was compiled for `REST_S`."""
        # whoever holds the guard compiles
        if not self._guard.acquire(blocking=False):
            return
        try:
            if self._process and self._clock.monotonic() > self._used + REST_S:
                self._ended()
        finally:
            self._guard.release()

    def stop(self) -> None:
        """End it, in whatever it is."""
        # not under the guard, which whoever compiles holds
        self._stopping = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _compile(
        self, ir: BlueprintIR, budget: Budget, *, clock: Clock, progress: Progress
    ) -> Compiled:
        """The kernel of a blueprint; see `esper.tezzeret.compile.compile_kernel`.

        Raises:
            BuildError: no configuration passed, or the process ended over each try.
            UnavailableError: `stop` was called.
        """
        del clock  # durations are measured where they pass
        with self._guard:
            for _ in range(_LIVES):
                try:
                    return self._asked(self._started(), ir, budget, progress)
                except (EOFError, ConnectionError):
                    code = self._ended()
                _log.warning("the compiler has ended with exit code %s over a kernel", code)
        raise BuildError(
            f"The compiler ended {_LIVES} times over it, the last time with exit code {code}."
        )

    def _asked(
        self, pipe: Connection, ir: BlueprintIR, budget: Budget, progress: Progress
    ) -> Compiled:
        try:
            pipe.send((ir, budget))
            while True:
                kind, told = pipe.recv()
                if kind == "refused":
                    raise BuildError(told)
                if kind == "compiled":
                    return told  # type: ignore[no-any-return]  # the worker sends a Compiled
                self._told(progress, told)
        finally:
            self._used = self._clock.monotonic()

    def _told(self, progress: Progress, event: AttemptStarted | Failed | Rejected) -> None:
        try:
            progress(event)
        except BaseException:
            self._ended()  # what it still has to say is no answer to the next question
            raise

    def _started(self) -> Connection:
        if self._stopping:
            raise UnavailableError("The foundry is ending.")
        if self._process is None or self._pipe is None or self._process.poll() is not None:
            self._ended()
            here, there = socket.socketpair()
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE, str(there.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=dict(os.environ),
                    pass_fds=(there.fileno(),),
                )
            self._pipe = Connection(here.detach())
            self._used = self._clock.monotonic()
        return self._pipe

    def _ended(self) -> int | None:
        """End what there is; its exit code."""
        process, self._process = self._process, None
        if self._pipe is not None:
            with suppress(OSError):
                self._pipe.close()
            self._pipe = None
        if process is None:
            return None
        process.kill()
        return process.wait()
