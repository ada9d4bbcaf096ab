"""Forks processes of the `esper` command out of one that has imported what they need: a life then costs its work, not its imports.

`python -m tests.chaos.run.nursery` reads a JSON object a line and answers each with one. {"arguments": [...], "out": FILE, "err": FILE} begins a
process: {"pid": N}. {"pid": N} asks how it ended: {"code": C}, C as for subprocess, null while it lives.
"""

from __future__ import annotations

import json
import os
import sys

import esper.cli.proving
import esper.stack
import esper.tolaria.assembly  # noqa: F401
from esper.cli import main


def begin(arguments: list[str], out: str, err: str) -> int:
    """Fork a process that runs the command; its pid."""
    if pid := os.fork():
        return pid
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.argv = ["esper", *arguments]
    code = 70
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int | None:
    """The exit code of a process, negative for a signal; None while it lives."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"code": ended(asked["pid"])} if "pid" in asked else {"pid": begin(**asked)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
