"""Esper's commands against the cluster."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.oona.bus.rights import OWNER, PRINCIPALS


def esper(
    home: Path, environment: Mapping[str, str], *arguments: str, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """A command in `home`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "esper.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "ESPER_HOME": str(home), "COLUMNS": "1000", **environment},
    )


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    """The JSON object on the last line of standard output of a command that ended with
    this code.
    """
    assert done.returncode == code, (done.stdout[-2_000:], done.stderr[-2_000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def refusal(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one sentence of a command that was refused with this code."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("esper: ")]
    assert done.returncode == code, (done.stdout[-2_000:], done.stderr[-2_000:])
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def passwords(folder: Path) -> Path:
    """A folder with a new password for each principal."""
    folder.mkdir(parents=True)
    for principal in (OWNER, *PRINCIPALS):
        (folder / f"{principal}.password").write_text(secrets.token_urlsafe(24))
    return folder
