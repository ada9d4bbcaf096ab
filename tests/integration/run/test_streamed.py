"""Recipes over data sets and DataLoaders: killed anywhere they go on to the bits of a run that
nobody disturbed, and they are proven and forked as any other.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run.whole import GROWING, endpoints, esper, query, result

MODELS = Path(__file__).parent / "models"
KINDS = (
    "forked",
    "flowing",
    *(
        pytest.param(kind, marks=pytest.mark.variant)
        for kind in ("positions", "spawned", "flowing_workers")
    ),
)
SETTINGS = (
    *GROWING,
    "decisions=lockstep",
    "run.epochs=5",
    "model=streams:model",
    "kasmina.include=['net.first', 'net.second']",
    "checkpoints.every_steps=7",
)
SET = tuple(part for one in SETTINGS for part in ("--set", one))


def train(home: Path, kind: str, run_id: str, *, kill_at: int = -1, resume: bool = False) -> Any:
    options = ("--resume",) if resume else ("--set", f"data=streams:{kind}", *SET)
    return esper(
        home,
        "run",
        "digits",
        "--json",
        "--run-id",
        run_id,
        *options,
        PYTHONPATH=str(MODELS),
        KILL_AT=str(kill_at),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_with_the_same_bits(home: Path, kind: str) -> None:
    """In mid-epoch, behind a snapshot, with workers by fork and spawn, with kernels beside."""
    whole = result(train(home, kind, f"stream-{kind}"))
    assert whole["steps"] == 5 * (20 if kind in ("forked", "spawned", "flowing_workers") else 19)
    died = train(home, kind, f"killed-{kind}", kill_at=33)
    assert died.returncode == -signal.SIGKILL, died.stderr
    died = train(home, kind, f"killed-{kind}", kill_at=30, resume=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    ended = result(train(home, kind, f"killed-{kind}", resume=True))
    assert (ended["digest"], ended["steps"]) == (whole["digest"], whole["steps"])


def test_a_streamed_run_is_proven_and_forked(home: Path) -> None:
    """From scratch too, as its data are made again; a fork with nothing changed has its digest."""
    whole = result(train(home, "forked", "stream-proven"))
    proven = esper(
        home, "replay", "verify", "stream-proven", "--from-scratch", PYTHONPATH=str(MODELS)
    )
    assert proven.returncode == 0, proven.stderr
    asked = ("fork", "stream-proven", "--step", "47", "--json", "--run-id", "stream-fork")
    forked = result(esper(home, *asked, PYTHONPATH=str(MODELS)))
    assert forked["digest"] == whole["digest"]
    (started,) = query(
        endpoints(home).history_url,
        "SELECT versions FROM run_started WHERE run_id = 'stream-proven'",
    )
    assert len(json.loads(started["versions"])["data"]) == 64
