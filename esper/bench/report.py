"""A whole run of the benchmarks: which figures, on what machine, and the report."""

from __future__ import annotations

import difflib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

import esper
from esper.bench import (
    decisions,
    events,
    history,
    journals,
    kernels,
    own_loops,
    restores,
    snapshots,
    steps,
    whole,
)
from esper.bench.figure_registry import FIGURES, Bench, Figure
from esper.clock import Clock
from esper.errors import EsperError, UsageError

FAMILIES = (
    steps,
    own_loops,
    kernels,
    snapshots,
    restores,
    events,
    journals,
    decisions,
    history,
    whole,
)
"""The modules whose figures are measured, in this order."""

_DIGITS = 4  # of a figure: more would be noise


def chosen(only: Sequence[str]) -> list[Figure]:
    """The figures of these names and families; all of them when none are named.

    Raises:
        UsageError: there is no figure or family of that name.
    """
    known = [*FIGURES, *dict.fromkeys(one.family for one in FIGURES.values())]
    for name in only:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"There is no figure {name}. "
                f"{f'Did you mean {near[0]}?' if near else '`esper bench --list` names them.'}"
            )
    return [one for one in FIGURES.values() if not only or one.name in only or one.family in only]


def measure(
    figures: Sequence[Figure], *, clock: Clock, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The report: machine, version, and for each figure its value, unit, interval, bar, whether it
    is met, and the command that measures it.

    A figure that cannot be measured here says why in `error`, and the others are measured.
    """
    report: dict[str, Any] = {
        "machine": machine(),
        "version": esper.__version__,
        "commit": commit(),
        "figures": {},
    }
    with ExitStack() as held:
        # entered first, so removed last: brokers and stacks in it have ended by then
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="esper-bench-")))
        bench = Bench(clock, folder, held, progress)
        for number, one in enumerate(figures, start=1):
            progress(f"{number}/{len(figures)}  {one.family}: {one.about}")
            report["figures"][one.name] = _row(one, bench)
    return report


def _row(one: Figure, bench: Bench) -> dict[str, Any]:
    row: dict[str, Any] = {
        "about": one.about,
        "unit": one.unit,
        "bar": one.bar or None,
        "command": f"esper bench --only {one.name}",
    }
    try:
        found = one.measure(bench)
    except EsperError as error:
        return row | {"figure": None, "interval": None, "met": None, "error": str(error)}
    low, high = _rounded(found.low), _rounded(found.high)
    return row | {
        "figure": _rounded(found.value),
        "interval": [low, high],
        "met": one.met(found.value),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def machine() -> dict[str, Any]:
    """What the figures hold for: processor, cores, memory, load when the run began, versions."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastavro": metadata.version("fastavro"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def commit() -> str | None:
    """The commit that this Esper was checked out at; None for an installed one."""
    root = Path(esper.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
