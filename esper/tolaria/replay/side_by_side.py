"""Processes side by side that execute runs again."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from threading import Thread
from typing import Any, Final

import numpy as np

_IMPORTED: Final = ["__main__", "esper.tolaria.replay.archive"]
"""What all of them need, torch with it: three to five seconds of a processor."""
_OPTIMIZERS: Final = "torch._dynamo"
"""What the first use of an optimizer of torch's imports: another two to three."""


def process_pool(
    count: int,
    begin: Callable[..., None],
    arguments: tuple[Any, ...] = (),
    *,
    scripts: bool = False,
) -> ProcessPoolExecutor:
    """A pool of at most `count` processes, each of which begins with `begin(*arguments)`. With
    `scripts`, a task executes a script, which leaves traces: each has a process of its own.

    They are forked out of a process that imports torch once for all and computes nothing, so no
    thread and no state of a computation is forked. They share the seed of Python's hashes:
    executions that are to differ wherever chance decides are spawned instead.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, _OPTIMIZERS] if scripts else _IMPORTED)
    return ProcessPoolExecutor(
        count, context, _begin, (begin, arguments), max_tasks_per_child=1 if scripts else None
    )


def _begin(begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    np.random.seed()  # noqa: NPY002  # Python's own generator does this by itself in a fork
    Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """A command that was killed leaves nobody behind that waits for its next task."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  # a process of a pool has one
    parent.join()
    os._exit(1)
