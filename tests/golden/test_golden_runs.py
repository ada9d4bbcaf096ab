"""Runs that earlier versions trained and exported go on being what they were.

`runs/before-tasks` was trained before there were tasks: its events have no metrics or score, its
recipe no schedule, its snapshots neither. A new golden run is an export of `runs/golden_run.toml`
with the passphrase below.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import commands

RUNS = Path(__file__).parent / "runs"
GOLDEN = sorted(path.parent for path in RUNS.glob("*/manifest.json"))
ALLOWED = ("--allow", "golden_run:model", "--allow", "golden_run:data")


def esper(home: Path, *arguments: str | Path) -> dict[str, Any]:
    """The object that a command gives, in an installation of nothing."""
    given = {**os.environ, "ESPER_HOME": str(home), "PYTHONPATH": str(RUNS)}
    done = commands.run(*arguments, "--json", environment=given)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    """The file that opens the snapshots of golden runs."""
    path = tmp_path / "passphrase"
    path.write_text("golden\n")
    return path


def test_there_are_golden_runs() -> None:
    """An empty folder would prove nothing."""
    assert [path.name for path in GOLDEN] == ["before-tasks"]


@pytest.mark.slow
@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_a_golden_run_is_proven_bit_for_bit(run: Path, tmp_path: Path, passphrase: Path) -> None:
    """Every step is re-executed, from the beginning and from each snapshot; digests, events and
    snapshots are those of then.
    """
    secret = ("--passphrase-file", passphrase)
    proof = esper(tmp_path, "replay", "verify", "golden", "--from", run, *secret, *ALLOWED)
    assert proof["proven"], proof
    assert (proof["snapshots"], proof["steps"], proof["notes"]) == (2, 640, [])


@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_a_golden_journal_folds_to_the_same_state(run: Path, tmp_path: Path) -> None:
    """Its signatures hold, and each record has its rule."""
    fold = esper(tmp_path, "replay", "fold", "golden", "--from", run)
    assert (fold["status"], fold["step"], fold["set_aside"]) == ("COMPLETED", 640, 0)
    assert fold["events"] == json.loads((run / "manifest.json").read_text())["events"]


@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_a_golden_run_may_be_imported(run: Path, tmp_path: Path, passphrase: Path) -> None:
    """All that an import verifies holds."""
    checked = esper(tmp_path, "import", run, "--check", "--passphrase-file", passphrase)
    assert checked["run_id"] == "golden"
