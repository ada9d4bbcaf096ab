"""The command line in the home of the stack that tests share, and two equal lockstep runs on it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from esper.config import Settings
from esper.history.queries import HttpSource, wait_caught_up
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.stack import Endpoints, running
from tests import commands
from tests.commands import ROOT
from tests.waiting import PATIENCE_S

GROWING: Final = (
    "kernels.blend_steps=20",
    "gates.min_training_steps=20",
    "gates.max_training_steps=60",
    "gates.min_gap=0.01",
    "gates.shadow_epochs=1",
    "gates.embargo_epochs=1",
    "guardrails.urgency=0.0",
    "tamiyo.policy.first_epoch=1",
    "tamiyo.policy.cull_training_after_steps=20",
    "tamiyo.policy.fossilise_after_epochs=1",
    "tamiyo.policy.last_fraction=0.9",
    "tamiyo.policy.min_urgency=0.0",
)
"""Settings with which kernels go through every stage within few epochs: otherwise nothing is urgent
in so short a run.
"""
FAMILIES: Final = 'tamiyo.policy.families=["mlp", "linear"]'
"""For layers that are linear: a convolution as a kernel of theirs takes three times as long."""
LOCKSTEP: Final = (
    "decisions=lockstep",
    "run.seed=1",
    "run.epochs=8",
    "checkpoints.every_epochs=3",
    FAMILIES,
    *GROWING,
)
"""The run that tests of the whole look at, disturb, fork and repeat."""
_HOMES: dict[str, tuple[Settings, str]] = {}
"""The home of each history, which has the key for its tokens."""


def esper(
    home: Path, *arguments: str, cold: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in `home`."""
    return commands.run(
        *arguments, environment={**os.environ, "ESPER_HOME": str(home), **environment}, cold=cold
    )


def program(
    home: Path, path: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python program of a user's in `home`."""
    return run_program(home, path, arguments, environment, ())


def run_program(
    home: Path,
    path: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    imported: tuple[str, ...],
) -> subprocess.CompletedProcess[str]:
    """The same for one that uses what is `imported`, and need not wait until that is loaded."""
    given = {"ESPER_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return commands.run(
        *arguments,
        module=str(path),
        environment={**os.environ, **given, **environment},
        imported=imported,
    )


def begin(home: Path, *arguments: str) -> commands.Command:
    """Begin a command in `home`."""
    return commands.begin(
        *arguments, environment={**os.environ, "ESPER_HOME": str(home), "COLUMNS": "1000"}
    )


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of standard output."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def query(history_url: str, sql: str) -> list[dict[str, Any]]:
    """Rows of a query to a history that `endpoints` has given, once it has what is on Kafka now: a
    run that has ended may be ahead of it.
    """
    settings, bootstrap = _HOMES[history_url]
    bus = KafkaBus(Access.of(settings, "viewer", bootstrap=bootstrap))
    assert wait_caught_up(history_url, bus, timeout=PATIENCE_S, settings=settings)
    source = HttpSource(history_url, settings)
    return [json.loads(line) for line in source.ask(sql, "JSONEachRow").splitlines()]


def endpoints(home: Path) -> Endpoints:
    found = running(Settings(home=home))
    assert found is not None
    _HOMES[found.history_url] = Settings(home=home), found.bootstrap
    return found


@pytest.fixture(scope="session")
def lockstep(home: Path) -> list[dict[str, Any]]:
    """Two equal runs in lockstep in which kernels are grafted, given up and kept: one from nothing,
    as a user begins it, one forked.
    """
    arguments = ("run", "mnist1d", "--json", *(part for one in LOCKSTEP for part in ("--set", one)))
    return [
        result(esper(home, *arguments, "--run-id", f"twin-{index}", cold=not index))
        for index in range(2)
    ]
