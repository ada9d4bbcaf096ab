"""Claims about what a whole stack with real runs leaves on disk."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.folders import below

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def test_nothing_of_a_real_run_is_for_others(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """Broker, parts, trainers and their children: keys, journals, kernels, snapshots, models, logs,
    sockets, each its owner's alone.
    """
    there = [(home, home.lstat()), *below(home)]
    names = {path.name for path in home.iterdir()}
    assert {"keys", "runs", "stack", "store", "history", "sockets"} <= names
    found = [
        str(path)
        for path, status in there
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & OTHERS
    ]
    assert found == []
    assert Path(lockstep[0]["model"]).is_file()


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="only root can become another user; run the tests as root for this one",
)
def test_another_user_reads_nothing_of_it(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """Begun right beside it, so that no folder above it can help: the home itself keeps
    others out.
    """
    program = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.stdin.read().split("\\0"):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
        print(path)
    except (PermissionError, FileNotFoundError):
        pass
"""
    paths = [home.name, *(str(path.relative_to(home.parent)) for path, _ in below(home))]
    command = [sys.executable, "-I", "-S", "-c", program]
    home.parent.chmod(0o711)
    done = subprocess.run(
        command,
        cwd=home.parent,
        input="\0".join(paths),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert str(Path(lockstep[0]["model"]).relative_to(home.parent)) in paths
