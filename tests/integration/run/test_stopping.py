"""Runs that end when their score stands still, and keep the model of their best epoch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.integration.run.whole import endpoints, esper, query, result

MODELS = Path(__file__).parent / "models"
SETTINGS = (
    "decisions=lockstep",
    "tamiyo.enabled=false",
    "run.epochs=40",
    "schedule.name=constant",
    "optimizer.learning_rate=0.3",
    "stopping.patience=3",
    "stopping.keep_best=true",
    "checkpoints.every_steps=5",
)
SET = tuple(part for one in SETTINGS for part in ("--set", one))


def scores(home: Path, run_id: str) -> list[float]:
    """The score of each epoch on the held-out split."""
    rows = query(
        endpoints(home).history_url,
        f"SELECT score FROM epoch_ended WHERE run_id = '{run_id}' ORDER BY sequence",  # noqa: S608
    )
    return [row["score"] for row in rows]


def ended(home: Path, run_id: str, *options: str) -> dict[str, Any]:
    return result(esper(home, "run", "digits", "--json", "--run-id", run_id, *options))


def test_a_run_ends_when_its_score_stands_still(home: Path, tmp_path: Path) -> None:
    """After three epochs in a row that were no better; what it keeps is the state of the best."""
    whole = ended(home, "patient", *SET)
    found = scores(home, "patient")
    best = found.index(max(found))
    assert whole["outcome"] == "FINISHED"
    assert whole["epochs"] == len(found) == best + 4 < 40
    kept, state = tmp_path / "best.safetensors", tmp_path / "state.safetensors"
    assert esper(home, "model", "patient", "--best", "--out", str(kept)).returncode == 0
    step = str((best + 1) * 19)
    made = esper(home, "replay", "state", "patient", "--step", step, "-o", str(state))
    assert made.returncode == 0, made.stderr
    model = load_file(kept)
    rebuilt = load_file(state)
    shared = [name for name in model if f"model/{name}" in rebuilt]
    assert len(shared) >= 6
    assert all(model[name].equal(rebuilt[f"model/{name}"]) for name in shared)
    proven = esper(home, "replay", "verify", "patient", "--from-scratch")
    assert proven.returncode == 0, proven.stderr


def test_a_killed_run_ends_where_it_would_have(home: Path) -> None:
    """Killed while it waits for a better epoch: what it has waited is in its snapshots."""
    mortal = ("--set", "model=streams:model", "--set", "kasmina.include=['net.first']")

    def run(run_id: str, *options: str, kill_at: int = -1) -> Any:
        asked = ("run", "digits", "--json", "--run-id", run_id, *options)
        return esper(home, *asked, PYTHONPATH=str(MODELS), KILL_AT=str(kill_at))

    undisturbed = result(run("undisturbed", *SET, *mortal))
    assert undisturbed["epochs"] < 40
    died = run("impatient", *SET, *mortal, kill_at=undisturbed["steps"] - 19 - 5)
    assert died.returncode == -signal.SIGKILL, died.stderr
    again = result(run("impatient", "--resume"))
    assert (again["digest"], again["epochs"]) == (undisturbed["digest"], undisturbed["epochs"])


def test_a_run_that_keeps_no_best_model_says_so(home: Path, tmp_path: Path) -> None:
    """With the setting to give."""
    short = ("--set", "run.epochs=1", "--set", "tamiyo.enabled=false")
    ended(home, "plain-end", *short)
    asked = ("model", "plain-end", "--best", "--out", str(tmp_path / "x.safetensors"))
    refused = esper(home, *asked)
    assert refused.returncode == 2
    assert "stopping.keep_best = true" in refused.stderr
