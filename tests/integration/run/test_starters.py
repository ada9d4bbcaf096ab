"""Projects that `esper init` writes: each runs as it is written, from any folder, and grows or says
why not.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from esper.config import Settings
from tests.integration.run.whole import GROWING, endpoints, esper, query, result

SHORT = (*GROWING, "run.epochs=4", "decisions=lockstep")
"""The recipes are for minutes; in lockstep even the shortest run waits for its kernels."""


@pytest.mark.parametrize(
    "task",
    [
        "language_model",
        *(
            pytest.param(task, marks=pytest.mark.variant)
            for task in ("classification", "regression", "images", "fine_tuning")
        ),
    ],
)
def test_a_project_runs_as_it_is_written(home: Path, tmp_path: Path, task: str) -> None:
    """With its own module, which no path names; kernels are tried, and the run says what it kept
    and why.
    """
    folder = tmp_path / "a project"
    begun = json.loads(esper(home, "init", str(folder), "--task", task, "--json").stdout)
    assert {"recipe.toml", f"my_{task}.py"} <= set(begun["files"])
    run_id = f"begun-{task}"
    settings = [part for one in SHORT for part in ("--set", one)]
    recipe = str(folder / "recipe.toml")
    found = result(esper(home, "run", recipe, "--json", "--run-id", run_id, *settings))
    assert found["growth"].startswith(("Grew ", "No kernel was kept")), found["growth"]
    tried = query(
        endpoints(home).history_url,
        f"SELECT layer, family FROM seed_transitioned WHERE run_id = '{run_id}' AND "  # noqa: S608
        "to_stage = 'TRAINING'",
    )
    assert tried, found["growth"]
    if task == "fine_tuning":
        assert {one["layer"] for one in tried} == {"head.first"}
    if task == "language_model":
        # a kernel with attention would read what is to be predicted
        assert "attention" not in {one["family"] for one in tried}
    kept = Settings(home=home).runs_dir / run_id / "source" / f"my_{task}.py"
    assert kept.read_bytes() == (folder / f"my_{task}.py").read_bytes()


def test_a_frozen_backbone_stays_as_it_is(home: Path, tmp_path: Path) -> None:
    """Bit for bit, buffers too, however much the head has grown; and the head has moved."""
    folder = tmp_path / "tuned"
    assert esper(home, "init", str(folder), "--task", "fine_tuning").returncode == 0
    asked = ("run", str(folder / "recipe.toml"), "--set", "run.epochs=2")
    assert esper(home, *asked, "--run-id", "tuned").returncode == 0
    states = [tmp_path / f"{step}.safetensors" for step in (0, 40)]
    for step, path in zip((0, 40), states, strict=True):
        done = esper(home, "replay", "state", "tuned", "--step", str(step), "-o", str(path))
        assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file  # noqa: PLC0415  # half a second that other tests spare

    before, after = map(load_file, states)
    frozen = [name for name in before if "backbone" in name]
    assert len(frozen) >= 4
    assert all(before[name].equal(after[name]) for name in frozen)
    moved = [name for name in before if "head.first.weight" in name and name in after]
    assert any(not before[name].equal(after[name]) for name in moved)


def test_a_project_goes_on_and_is_proven_from_elsewhere(home: Path, tmp_path: Path) -> None:
    """A run remembers the folder of its recipe: it is proven and forked without a path; when the
    folder is gone, a sentence says what is missing.
    """
    folder = tmp_path / "kept"
    assert esper(home, "init", str(folder), "--task", "regression").returncode == 0
    asked = ("run", str(folder / "recipe.toml"), "--set", "decisions=lockstep")
    short = ("--set", "run.epochs=2")
    ended = result(esper(home, *asked, *short, "--run-id", "kept", "--json"))
    proven = esper(home, "replay", "verify", "kept", "--from-scratch")
    assert proven.returncode == 0, proven.stderr
    forked = result(esper(home, "fork", "kept", "--step", "30", "--json", "--run-id", "kept-fork"))
    assert forked["digest"] == ended["digest"]
    shutil.move(folder, tmp_path / "gone")
    for again in (("fork", "kept", "--step", "30"), ("replay", "verify", "kept-fork")):
        refused = esper(home, *again)
        assert refused.returncode == 2, refused.stderr
        assert "my_regression cannot be imported; put it beside the recipe" in refused.stderr


def test_a_script_runs_as_it_is_written(home: Path, tmp_path: Path) -> None:
    """Its loop is its own; shortened to a few epochs it says what grew, or why nothing did."""
    folder = tmp_path / "loop"
    assert esper(home, "init", str(folder), "--task", "script").returncode == 0
    script = folder / "train.py"
    text = script.read_text()
    changes = {
        "EPOCHS = 30": "EPOCHS = 7",
        '"first_epoch": 4': '"first_epoch": 1',
        '"kernels": {': '"decisions": "lockstep", "kernels": {',
        '"cooldown": 2': '"cooldown": 2, "urgency": 0.0',
        '"last_fraction": 0.6': '"last_fraction": 0.9, "min_urgency": 0.0',
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    script.write_text(text)
    done = esper(home, "run", str(script), "--run-id", "begun-script")
    assert done.returncode == 0, done.stderr
    assert re.search(r"accuracy on held-out images [\d.]+%; (Grew|No kernel was kept)", done.stdout)


def test_another_module_of_the_same_name_is_refused(home: Path, tmp_path: Path) -> None:
    """What a path already has is never taken for the file beside the recipe."""
    folder, other = tmp_path / "mine", tmp_path / "other"
    assert esper(home, "init", str(folder), "--task", "regression").returncode == 0
    other.mkdir()
    shutil.copy(folder / "my_regression.py", other)
    refused = esper(home, "run", str(folder / "recipe.toml"), PYTHONPATH=str(other))
    assert refused.returncode == 2
    assert f"is hidden by {other}" in refused.stderr
