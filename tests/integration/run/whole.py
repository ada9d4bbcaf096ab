"""One stack for all tests of the whole, and two equal lockstep runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from esper.history.queries import HttpSource
from esper.stack import Endpoints, running

_HOMES: dict[str, Path] = {}
"""The home of each history, which has the key for its tokens."""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a stack that is kept up for the tests of this folder."""
    folder = tmp_path_factory.mktemp("home")
    assert esper(folder, "up", "--wait", "90").returncode == 0
    yield folder
    esper(folder, "down")


def esper(home: Path, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in `home`."""
    command = [sys.executable, "-m", "esper.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, "ESPER_HOME": str(home), **environment}
    )


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of standard output."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def query(history_url: str, sql: str) -> list[dict[str, Any]]:
    """Rows of a query to a history that `endpoints` has given."""
    source = HttpSource(history_url, Settings(home=_HOMES[history_url]))
    return [json.loads(line) for line in source.ask(sql, "JSONEachRow").splitlines()]


def endpoints(home: Path) -> Endpoints:
    found = running(Settings(home=home))
    assert found is not None
    _HOMES[found.history_url] = home
    return found


@pytest.fixture(scope="session")
def lockstep(home: Path) -> list[dict[str, Any]]:
    """Two equal runs in lockstep, long enough that kernels are grafted and kept."""
    arguments = ("run", "mnist1d", "--json", "--set", "decisions=lockstep", "--set", "run.epochs=40", "--set", "run.seed=1")
    return [result(esper(home, *arguments, "--run-id", f"twin-{index}")) for index in range(2)]
