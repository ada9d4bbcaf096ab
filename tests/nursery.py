"""Forks processes of Esper out of one that has imported what they need: each then costs its work,
not two to four seconds of imports.

`python -m tests.nursery MODULE...` imports these modules, reads a JSON object a line, and
answers each with one. {"program": P, "arguments": [...], "environment": {...}, "cwd": D, "out":
FILE, "err": FILE} begins `python -m P ...`, or `python P ...` where P ends with .py: {"pid": N}.
{"pid": N} asks how it ended: {"code": C}, C as for subprocess, null while it lives.

What is forked is a process like any other: its own environment and folder, signals as they are by
default, threads, and functions for the exit.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence

import numpy as np
import torch

_FILE = ".py"


def born(
    program: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    out: str,
    err: str,
) -> None:
    """Become the process: nothing of the nursery's streams, environment, folder, signals and random
    numbers is left.
    """
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 -- the old one may have read on
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # whoever began the tests in the background of a shell ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and whoever began them by nohup
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [
        os.path.dirname(program) if program.endswith(_FILE) else cwd,  # noqa: PTH120 -- as Python itself has it
        *(one for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one),
    ]
    sys.argv = [program, *arguments]
    random.seed()
    np.random.seed()  # noqa: NPY002 -- what draws from it unseeded shall differ from process to process, as it would
    torch.seed()


def ended(pid: int) -> int | None:
    """The exit code of a process, negative for a signal; None while it lives."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def serve() -> str:
    """Answer until nobody asks any more.

    In a process that was forked, the program that it has to run.
    """
    for line in sys.stdin:
        asked = json.loads(line)
        if "pid" in asked:
            answer = {"code": ended(asked["pid"])}
        elif pid := os.fork():
            answer = {"pid": pid}
        else:
            born(**asked)
            return str(asked["program"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return ""


def live(program: str) -> int:
    """Run a module as `python -m` does, or a file as `python` does, to the end of its threads and
    of what it left for its exit.

    Gives the exit code.
    """
    try:
        if program.endswith(_FILE):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        if ended.code is not None and not isinstance(ended.code, int):
            sys.stderr.write(f"{ended.code}\n")
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 -- as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # so that no collection copies what the processes share
    wanted = serve()
    # taking the interpreter apart, with all that was imported, takes a second and speaks of leaks
    os._exit(live(wanted) if wanted else 0)
