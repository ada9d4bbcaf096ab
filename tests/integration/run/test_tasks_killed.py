"""Every kind of task is killed at random moments and goes on to the bits of the run that nobody
disturbed, is proven, forked and asked what if: as a recipe and in a loop of the user's own.

ESPER_CHAOS_KILLS says how often each dies (10).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT
from tests.integration.run.models.task_cases import BATCH, BATCHES, CASES, EPOCHS
from tests.integration.run.whole import GROWING, endpoints, esper, query, result

MODELS = Path(__file__).parent / "models"
KILLS = int(os.environ.get("ESPER_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("ESPER_CHAOS_SEED", "20261130"))
STEPS = BATCHES * EPOCHS
pytestmark = [pytest.mark.variant, pytest.mark.timeout(900 + 60 * KILLS)]
Life = Callable[..., "subprocess.CompletedProcess[str]"]


def killed(live: Life, run_id: str) -> subprocess.CompletedProcess[str]:
    """The last life of a run that was killed so often."""
    chance = random.Random(f"{SEED} {run_id}")  # noqa: S311  # moments, the same for the same seed
    # each later than the one before, so that no life ends before its kill
    for number, place in enumerate(sorted(chance.sample(range(8, STEPS), KILLS))):
        died = live(run_id, resume=bool(number), kill_at=str(place))
        assert died.returncode == -signal.SIGKILL, (number, died.stderr)
    return live(run_id, resume=True)


def decision_of(home: Path, run_id: str) -> str:
    """The first decision that grafted a kernel."""
    rows = query(
        endpoints(home).history_url,
        f"SELECT decision_id FROM adaptation_applied WHERE run_id = '{run_id}' "  # noqa: S608
        "AND command = 'GERMINATE' ORDER BY sequence LIMIT 1",
    )
    assert rows, "nothing was grafted"
    return str(rows[0]["decision_id"])


def proven(home: Path, kind: str, run_id: str, digest: str) -> None:
    """A run that has ended with this digest is proven step by step, forks of it without a change
    end with it, and what-if reproduces the record.
    """
    path = f"{MODELS}:{ROOT}"

    def asked(*arguments: str) -> dict[str, Any]:
        said = esper(home, *arguments, "--json", PYTHONPATH=path, OMP_NUM_THREADS="1", KIND=kind)
        return result(said)

    assert asked("replay", "verify", run_id)["proven"]
    assert asked("replay", "fold", run_id)["equals_live"]
    forked = asked("fork", run_id, "--step", str(STEPS // 2), "--run-id", f"{run_id}-fork")
    assert forked["digest"] == digest
    decision = decision_of(home, run_id)
    answer = asked("whatif", run_id, "--decision", decision, "--orders", "1", "--until", "4")
    assert answer["proven"]


@pytest.mark.parametrize("kind", list(CASES))
def test_a_recipe_s_task_survives(home: Path, kind: str) -> None:
    case = CASES[kind]
    settings = (
        *GROWING,
        "decisions=lockstep",
        "model=task_cases:model",
        "data=task_cases:data",
        f"task={case.named}",
        f"kasmina.include={json.dumps(case.include)}",
        "kasmina.seeds=2",
        f"run.epochs={EPOCHS}",
        f"run.batch_size={BATCH}",
        "checkpoints.every_steps=7",
    )
    given = tuple(part for one in settings for part in ("--set", one))

    def live(
        run_id: str, *, resume: bool = False, kill_at: str = "-1"
    ) -> subprocess.CompletedProcess[str]:
        options = ("--resume",) if resume else given
        return esper(
            home,
            *("run", "digits", "--json", "--run-id", run_id),
            *options,
            PYTHONPATH=str(MODELS),
            KIND=kind,
            KILL_AT=kill_at,
        )

    whole = result(live(f"task-{kind}"))
    assert whole["steps"] == STEPS
    ended = result(killed(live, f"task-{kind}-killed"))
    assert (ended["digest"], ended["steps"]) == (whole["digest"], whole["steps"])
    proven(home, kind, f"task-{kind}-killed", whole["digest"])


@pytest.mark.parametrize("kind", list(CASES))
def test_a_script_s_task_survives(home: Path, kind: str) -> None:
    """By `esper run task_cases.py`, whose loop is its own."""

    def live(
        run_id: str, *, resume: bool = False, kill_at: str = "-1"
    ) -> subprocess.CompletedProcess[str]:
        return esper(
            home,
            *("run", str(MODELS / "task_cases.py"), "--run-id", run_id),
            *(("--resume",) if resume else ()),
            *("--json", "--", kind),
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS="1",
            KILL_AT=kill_at,
        )

    whole = result(live(f"script-{kind}"))
    ended = result(killed(live, f"script-{kind}-killed"))
    assert (ended["digest"], ended["steps"]) == (whole["digest"], STEPS)
    proven(home, kind, f"script-{kind}-killed", whole["digest"])
