"""One process of the stack: started, watched, started again when it died or fell silent."""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from esper.clock import Clock
from esper.config import Settings
from esper.disk import appended, make_folder
from esper.errors import EsperError, UnavailableError
from esper.identity import Identity
from esper.oona.inbound.consumer_progress import STUCK_S
from esper.service.client import Client
from esper.service.transport.sockets import HOST
from esper.stack.processes.leash import Leash, kill_group
from esper.stack.processes.stack_state import PartPhase, PartState

Answer = Literal["ready", "starting", "silent"]

PROBE_TIMEOUT_S = 2.0
PARTS_STOP_S = 5.0
"""What a part has between SIGTERM and SIGKILL."""
BROKER_STOP_S = 10.0
_SETTLED_S = 10.0
_LOG_BYTES = 16 * 2**20
_TELL_S = 0.3  # a few threads are written in milliseconds
_TAIL_BYTES = 16_384
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_CRASH_LOOP_S = 2.0
_HEALTH_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a process: its exit code, and what it wrote last.

    The code is minus the signal where one ended it, None where we killed it for its silence.
    """

    code: int | None
    was_ready: bool
    tail: str


@dataclass(frozen=True, slots=True)
class Launch:
    """How one process is started and judged."""

    name: str
    port: int
    log: Path
    arguments: Callable[[], Sequence[str]]
    """The command line, asked for before each start; may raise EsperError."""
    environment: Mapping[str, str]
    folder: Path | None
    """Working folder; None keeps the supervisor's."""
    probe: Callable[[], Answer]
    silence_s: float
    """One that was ready and has not answered for this long is killed and started again."""
    start_s: float
    """The same for one that has never been ready."""
    explain: Callable[[Death], EsperError | None]
    """The sentence for a death whose cause is known."""
    descriptors: tuple[int, ...] = ()
    """What each life inherits: the sockets that it serves."""
    tells_by: int | None = None
    """The signal at which it writes into its log where its threads are."""
    on_demand: bool = False
    """Whether the first life waits until somebody connects to one of these sockets."""


def health(settings: Settings, part: str, port: int) -> Answer:
    """What `GET /health` says: 200 is ready, any other answer is a part that is not ready yet.

    It is asked over the part's Unix socket: other users can neither hold that up nor
    answer in the part's place. A part that has been at one message for `STUCK_S` counts as silent:
    it answers, and does nothing. One that is merely behind, or waits for a disk or a broker, turns
    (see `esper.oona.inbound.consumer_progress`) and is left alone.
    """
    client = Client(settings, subject="supervisor", part=part)
    url = f"{settings.scheme}://{HOST}:{port}/health"
    try:
        # Open to all, so no token is made: a lost key must not make living parts look dead.
        reply = client.ask(url, timeout=PROBE_TIMEOUT_S, role=None, limit=_HEALTH_BYTES)
    except EsperError:
        return "silent"
    if reply.status == HTTPStatus.OK:
        return "ready"
    return "silent" if _stuck(reply.body) else "starting"


def _stuck(body: bytes) -> bool:
    try:
        stuck_s = json.loads(body)["stuck_s"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False  # a part that says nothing of it, or does not answer for itself
    return isinstance(stuck_s, int | float) and stuck_s > STUCK_S


class Child:
    """The process of a `Launch`.

    All methods are called from one thread; only the probe runs in a thread of its own.
    """

    def __init__(self, launch: Launch, *, leash: Leash, clock: Clock) -> None:
        self.launch = launch
        self.error: EsperError | None = None
        """Why the last start failed or the last life ended; None before that."""
        self.mends_itself = True
        """Whether trying again may help, by what is known of `error`."""
        self._leash = leash
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._identity: Identity | None = None
        self._pulse: _Pulse | None = None
        self._started = 0.0
        self._since_us = 0
        self._due = 0.0
        self._failures = 0
        self._restarts = -1
        self._log_from = 0
        self._stopping = False
        self._waits = launch.on_demand

    @property
    def ready(self) -> bool:
        """Whether it answered its last probe with ready."""
        return (
            self._process is not None and self._pulse is not None and self._pulse.answer == "ready"
        )

    @property
    def asleep(self) -> bool:
        """Whether nobody has asked for it yet."""
        return self._waits

    @property
    def running(self) -> bool:
        """Whether a process exists."""
        return self._process is not None

    @property
    def failures(self) -> int:
        """Starts in a row that did not last."""
        return self._failures

    def state(self) -> PartState:
        """For the state file."""
        return PartState(
            name=self.launch.name,
            phase=self._phase(),
            process=self._identity,
            port=self.launch.port,
            restarts=max(self._restarts, 0),
            since_us=self._since_us,
            log=str(self.launch.log),
            reason="" if self.error is None else str(self.error),
        )

    def tick(self) -> None:
        """Notice a death or a silence; start the process when that is due."""
        now = self._clock.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._died(now, self._process.returncode)
        elif self._process is not None and self._pulse is not None:
            patience = self.launch.silence_s if self._pulse.was_ready else self.launch.start_s
            # The later of the two: a process that has just begun has not been silent for longer
            # than it lives.
            quiet = now - max(self._pulse.answered_at, self._started)
            if quiet > patience:
                self._tell_where()
                self._kill()
                self._died(now, None)
        if self._process is None and not self._stopping and now >= self._due and self._wanted():
            self._start(now)

    def stop(self) -> None:
        """Ask it to end, and do not start it again."""
        self._stopping = True
        if self._process is not None:
            self._process.terminate()

    def gone(self, *, kill: bool) -> bool:
        """After `stop`: whether it has ended, which `kill` enforces."""
        if self._process is None:
            return True
        if kill:
            self._kill()
        if self._process.poll() is None:
            return False
        self._forget()
        return True

    def _wanted(self) -> bool:
        """Whether somebody has asked for it, ever."""
        # who connects waits in the socket's queue, which the first life serves
        self._waits = self._waits and not select.select(self.launch.descriptors, [], [], 0)[0]
        return not self._waits

    def _phase(self) -> PartPhase:
        if self._process is None:
            if self._waits:  # at the end too: the state file says then that it was never there
                return "on demand"
            if self._stopping:
                return "stopped"
            return "waiting" if self.error is None else "backing off"
        if self.ready:
            return "ready"
        return "unready" if self._pulse is not None and self._pulse.was_ready else "starting"

    def _start(self, now: float) -> None:
        try:
            arguments = self.launch.arguments()
            make_folder(self.launch.log.parent)
            if self.launch.log.exists() and self.launch.log.stat().st_size > _LOG_BYTES:
                self.launch.log.replace(self.launch.log.with_suffix(".log.1"))
            with appended(self.launch.log) as log:
                self._log_from = log.tell()
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.launch.folder,
                    env=dict(self.launch.environment),
                    pass_fds=self.launch.descriptors,
                    start_new_session=True,
                )
        except EsperError as error:
            self._back_off(now, error, known=True, settled=False, was_ready=False)
            return
        except OSError as error:
            failure = UnavailableError(
                f"{self.launch.name} cannot be started ({error.strerror}): esper doctor "
                "says what is missing"
            )
            self._back_off(now, failure, known=True, settled=False, was_ready=False)
            return
        self._leash.hold(self._process.pid)
        self._identity = Identity.of(self._process.pid)
        self._started, self._since_us = now, self._clock.now_us()
        self._restarts += 1
        self._pulse = _Pulse(self.launch.probe, self._clock)

    def _died(self, now: float, code: int | None) -> None:
        was_ready = self._pulse is not None and self._pulse.was_ready
        settled = was_ready and now - self._started >= _SETTLED_S
        self._forget()
        death = Death(code, was_ready, _tail(self.launch.log, self._log_from))
        known = self.launch.explain(death)
        self._back_off(
            now,
            known or self._unknown(death),
            known=known is not None,
            settled=settled,
            was_ready=was_ready,
        )

    def _unknown(self, death: Death) -> EsperError:
        if death.code is None:
            how = "did not answer, or did not go on with a message, and was killed"
        elif death.code < 0:
            how = f"was ended by signal {-death.code}"
        else:
            how = f"ended with exit code {death.code}" + (
                f", {said!r}" if (said := _last_line(death.tail)) else ""
            )
        return UnavailableError(f"{self.launch.name} {how}: see {self.launch.log}")

    def _back_off(
        self, now: float, error: EsperError, *, known: bool, settled: bool, was_ready: bool
    ) -> None:
        self.error, self.mends_itself = error, not known
        # A life that lasted says that the cause of earlier deaths is gone.
        self._failures = 1 if settled else self._failures + 1
        delay = _BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1]
        # one that was ready can be so again at once, and others wait for it
        self._due = now + (min(delay, _CRASH_LOOP_S) if was_ready else delay)

    def _tell_where(self) -> None:
        """Let a part that is stuck write into its log where each of its threads is."""
        if self._process is not None and self.launch.tells_by is not None:
            self._process.send_signal(self.launch.tells_by)
            self._clock.sleep(_TELL_S)

    def _kill(self) -> None:
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()

    def _forget(self) -> None:
        if self._process is not None:
            kill_group(self._process.pid)  # what it has left behind
            self._leash.drop(self._process.pid)
        if self._pulse is not None:
            self._pulse.stop()
        self._process = self._identity = self._pulse = None


class _Pulse:
    """Asks one life of a process how it is: often until it is ready, then every second."""

    def __init__(self, probe: Callable[[], Answer], clock: Clock) -> None:
        self.answer: Answer = "silent"
        self.was_ready = False
        self.answered_at = clock.monotonic()
        self._probe = probe
        self._clock = clock
        self._end = threading.Event()
        # a probe may take its whole timeout, and the supervisor has one thread for all parts
        threading.Thread(target=self._beat, daemon=True).start()

    def stop(self) -> None:
        """Ask no more; a probe under way is not waited for."""
        self._end.set()

    def _beat(self) -> None:
        while not self._end.is_set():
            answer = self._probe()
            if answer != "silent":
                self.answered_at = self._clock.monotonic()
            self.answer = answer
            self.was_ready = self.was_ready or answer == "ready"
            self._end.wait(1.0 if answer == "ready" else 0.1)


def _last_line(tail: str) -> str:
    return next((line.strip()[:300] for line in reversed(tail.splitlines()) if line.strip()), "")


def _tail(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            # From where this life began: the tail must not blame it for what an earlier one wrote.
            file.seek(max(start, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
