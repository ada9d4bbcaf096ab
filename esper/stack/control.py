"""What other programs ask of the stack: is it up, bring it up, wait for parts, bring it down."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import esper.errors
from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.disk import make_folder
from esper.errors import EsperError, UnavailableError, UsageError
from esper.identity import Identity
from esper.service.transport import certificates, signing, token_keys
from esper.stack.embedded import jars
from esper.stack.processes import owners, stack_state
from esper.stack.processes.child import BROKER_STOP_S, PARTS_STOP_S
from esper.stack.processes.leash import kill_group
from esper.stack.processes.parts import child_environment, with_esper_on_path
from esper.stack.processes.ports import HOST
from esper.user_cache import unwritable

SUPERVISOR = (sys.executable, "-m", "esper.stack")
_COMING = frozenset({"starting", "running"})
_MEND_S = 3.0
_SPAWN_S = 30.0
_START_S = 120.0
_STOP_S = PARTS_STOP_S + BROKER_STOP_S + 5.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the parts of a running stack answer.

    A part that this stack does not run has an empty address.
    """

    bootstrap: str
    tolaria_url: str
    tamiyo_url: str
    nissa_url: str
    history_url: str
    foundry_url: str


def status(settings: Settings) -> stack_state.StackState | None:
    """What the living supervisor of this ESPER_HOME says; None when none lives.

    A state file that was damaged or replaced is waited for: its supervisor writes it again. One
    that does not is `silent`.
    """
    folder, clock = settings.stack_dir, SystemClock()
    now, holder = stack_state.read(folder), stack_state.holder(folder)
    deadline = clock.monotonic() + _MEND_S
    while holder is not None and (now is None or now.supervisor != holder):
        if clock.monotonic() > deadline:
            return stack_state.StackState(
                "silent",
                holder,
                embedded=not settings.kafka.bootstrap,
                bootstrap="",
                started_at_us=0,
            )
        clock.sleep(0.02)
        now, holder = stack_state.read(folder), stack_state.holder(folder)
    return now if now is not None and now.supervisor.lives() else None


def running(settings: Settings) -> Endpoints | None:
    """Where the stack of this ESPER_HOME answers.

    None unless a supervisor lives and its broker has answered with all topics there.
    """
    if settings.parts == "elsewhere":
        return _elsewhere(settings)
    now = status(settings)
    return _endpoints(now) if now is not None and now.phase == "running" else None


def up(
    settings: Settings,
    *,
    owner_pid: int | None,
    progress: Callable[[str], None],
    supervisor: Sequence[str] = SUPERVISOR,
) -> Endpoints:
    """Start the stack unless it runs.

    Returns once the broker answers and all topics exist, while the parts come up behind it.

    With ESPER_PARTS=elsewhere nothing is started: the parts run in containers of their own, and the
    settings say where.

    The stack ends when every process that has passed itself as `owner_pid` is gone; None keeps it
    up until `down`. `progress` receives in short sentences what is being waited for.
    `supervisor` is the command line of the background process.

    Raises:
        UnavailableError: no jars and no network, a port in use, no broker at
            ESPER_KAFKA__BOOTSTRAP, a broker that does not start.
        UsageError: the stack that is up uses another Kafka than the settings ask for, or
            `owner_pid` is no living process.
        CorruptError: the broker's folder, a jar or a key is damaged.
        StorageFullError: no room.
    """
    if settings.parts == "elsewhere":
        token_keys.ensure(settings.keys_dir)
        return _elsewhere(settings)
    clock = SystemClock()
    owner = None
    if owner_pid is not None and (owner := Identity.of(owner_pid)) is None:
        raise UsageError(
            f"there is no process {owner_pid} to own the stack: pass a living one, or none "
            "to keep the stack up"
        )
    folder = settings.stack_dir
    try:
        make_folder(folder / "logs")
    except OSError as error:
        raise unwritable(folder, error) from error
    token_keys.ensure(settings.keys_dir)
    signing.ensure_all(
        settings.keys_dir, clock
    )  # before any part reads: what is unsigned from now on is not believed
    certificates.files(settings)
    # Before the guard is taken: a download of minutes would hold up everybody who wants the stack.
    if status(settings) is None and not settings.kafka.bootstrap:
        jars.kafka(progress)
    with owners.guard(folder):
        now = status(settings)
        if now is not None and now.phase == "silent":
            raise UnavailableError(
                f"the supervisor {now.supervisor.pid} of {folder} lives and says nothing: "
                "end it by `esper down`"
            )
        if now is not None and now.phase not in _COMING:
            progress("waiting for the stack that is being stopped")
            now.supervisor.wait(clock=clock, timeout=_STOP_S)
            now = status(settings)
        if now is None:
            progress("starting the stack")
            # They hold ports, and would write into the new broker's folder.
            _end_leftovers(settings, clock)
            owners.clear(folder)
            owners.join(folder, owner)
            us = _spawn(settings, supervisor, folder)
            _until(lambda: _registered(settings, us), us, folder, clock, _SPAWN_S)
        else:
            us = now.supervisor
            _same_kafka(settings, now)
            owners.join(folder, owner)
    progress(
        "starting the broker"
        if not settings.kafka.bootstrap
        else f"reaching Kafka at {settings.kafka.bootstrap}"
    )
    _until(lambda: _decided(settings, us), us, folder, clock, _START_S)
    now = stack_state.read(folder)
    if now is not None and now.error is not None:
        # It writes its error before its end: the next try must find neither its processes nor its
        # ports.
        us.wait(clock=clock, timeout=_STOP_S)
        _reap(us.pid)
        raise _error(now.error)
    endpoints = running(settings)
    if endpoints is None:
        raise UnavailableError(
            f"the stack ended while it was starting: {folder / 'logs' / 'supervisor.log'} says why"
        )
    return endpoints


def wait_ready(settings: Settings, parts: Iterable[str], timeout: float) -> None:
    """Wait until each of `parts` (broker, tolaria, tamiyo, nissa, history, foundry) answers its
    health check with ready, or is there on demand.

    Raises:
        UnavailableError: the stack is not up, or a part is not ready within `timeout` seconds.
    """
    if settings.parts == "elsewhere":  # its own supervisor waits for it
        return
    clock = SystemClock()
    deadline = clock.monotonic() + timeout
    wanted = tuple(parts)
    while True:
        now = status(settings)
        if now is None:
            raise UnavailableError("the stack is not up: start it with `esper up`")
        lacking = [
            name
            for name in wanted
            # one on demand begins with the first question, which waits for it
            if (part := now.part(name)) is None or part.phase not in ("ready", "on demand")
        ]
        if not lacking:
            return
        if clock.monotonic() > deadline:
            raise UnavailableError("; ".join(_lacking(now, name, timeout) for name in lacking))
        clock.sleep(0.05)


def asleep(settings: Settings, part: str) -> bool:
    """Whether nobody has asked for a part that is there on demand, since the stack of this
    ESPER_HOME began: the one that is up, or the last one.
    """
    now = status(settings) or stack_state.read(settings.stack_dir)
    found = now.part(part) if now is not None else None
    return found is not None and found.phase == "on demand"


def release(settings: Settings, owner_pid: int) -> None:
    """`owner_pid` needs the stack no longer, although it lives on.

    The stack ends if nobody else wants it.
    """
    owner = Identity.of(owner_pid)
    if owner is not None and settings.parts != "elsewhere":
        owners.leave(settings.stack_dir, owner)


def down(settings: Settings) -> bool:
    """Stop the stack, whoever wants it, and return when no process of it is left.

    False when there was none.
    """
    clock = SystemClock()
    now = status(settings)
    if now is not None:
        now.supervisor.end(clock=clock, timeout=_STOP_S)
        _reap(now.supervisor.pid)
    left = _end_leftovers(settings, clock)
    return now is not None or left


def _endpoints(now: stack_state.StackState) -> Endpoints:
    def url(name: str) -> str:
        return f"{now.scheme}://{HOST}:{now.ports[name]}" if name in now.ports else ""

    return Endpoints(
        now.bootstrap, url("tolaria"), url("tamiyo"), url("nissa"), url("history"), url("foundry")
    )


def _elsewhere(settings: Settings) -> Endpoints:
    """Where the parts answer that run in containers of their own.

    Raises:
        UsageError: the settings name no cluster.
    """
    if not settings.kafka.bootstrap:
        raise UsageError(
            "ESPER_PARTS=elsewhere needs a cluster that all parts share: set "
            "ESPER_KAFKA__BOOTSTRAP."
        )
    parts = (settings.tolaria, settings.tamiyo, settings.nissa, settings.history, settings.urza)
    return Endpoints(settings.kafka.bootstrap, *(part.url.rstrip("/") for part in parts))


def _same_kafka(settings: Settings, now: stack_state.StackState) -> None:
    wanted = settings.kafka.bootstrap
    if now.embedded != (not wanted) or (wanted and wanted != now.bootstrap):
        asked, used = (
            wanted or "the embedded broker",
            "the embedded broker" if now.embedded else now.bootstrap,
        )
        raise UsageError(
            f"the stack that is up uses {used}, not {asked}: run `esper down` first, or "
            "set another ESPER_HOME"
        )


def _spawn(settings: Settings, supervisor: Sequence[str], folder: Path) -> Identity:
    """Start the supervisor in a session of its own. posix_spawn, because a Popen warns when it is
    dropped while its process lives.
    """
    environment = with_esper_on_path(child_environment(os.environ, settings))
    log = str(folder / "logs" / "supervisor.log")
    pid = os.posix_spawn(
        supervisor[0],
        list(supervisor),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        # Ctrl-C in the terminal of one run must not end the stack of all.
        setsid=True,
    )
    started = Identity.of(pid)
    if started is None:
        raise UnavailableError(f"the supervisor ended at once: {log} says why")
    return started


def _registered(settings: Settings, us: Identity) -> bool:
    now = stack_state.read(settings.stack_dir)
    return now is not None and now.supervisor == us


def _decided(settings: Settings, us: Identity) -> bool:
    now = stack_state.read(settings.stack_dir)
    return now is not None and now.supervisor == us and now.phase not in {"starting", "stopping"}


def _until(
    condition: Callable[[], bool], us: Identity, folder: Path, clock: Clock, timeout: float
) -> None:
    deadline = clock.monotonic() + timeout
    while not condition():
        if not us.lives() or clock.monotonic() > deadline:
            _reap(us.pid)
            now = stack_state.read(folder)
            if now is not None and now.supervisor == us:
                return
            raise UnavailableError(
                f"the stack did not start: {folder / 'logs' / 'supervisor.log'} says why"
            )
        clock.sleep(0.02)


def _end_leftovers(settings: Settings, clock: Clock) -> bool:
    """End what a killed supervisor has left behind, if its leash was killed with it.

    Whether there was anything.
    """
    now = stack_state.read(settings.stack_dir)
    left = (
        [part.process for part in now.parts if part.process is not None and part.process.lives()]
        if now is not None
        else []
    )
    for process in left:
        process.end(clock=clock, timeout=PARTS_STOP_S)
        # its children: each part leads a group, whose number is no other's while one of them lives
        kill_group(process.pid)
    return bool(left)


def _reap(pid: int) -> None:
    """Take the exit code of a supervisor that is our own child, so that it leaves the process
    table.
    """
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _lacking(now: stack_state.StackState, name: str, timeout: float) -> str:
    part = now.part(name)
    if part is None:
        return f"{name} is no part of this stack"
    return (
        f"{name} is not ready after {timeout:.0f} s "
        f"({part.phase}{', ' + part.reason if part.reason else ''}): see {part.log}"
    )


def _error(error: tuple[str, str]) -> EsperError:
    # The name comes out of a file, so it may be anything.
    kind = getattr(esper.errors, error[0], EsperError)
    return (
        kind(error[1])
        if isinstance(kind, type) and issubclass(kind, EsperError)
        else EsperError(error[1])
    )
