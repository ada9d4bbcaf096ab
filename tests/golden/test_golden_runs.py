"""Runs that earlier versions trained and exported go on being what they were.

`runs/before-tasks` was trained before there were tasks: its events have no metrics or score, its
recipe no schedule, its snapshots neither. Bits are those of an instruction set: it was trained with
AVX-512, `runs/avx2` with AVX2, and each is proven where torch has the same. A new golden run is an
export of `runs/golden_run.toml` with the passphrase below.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import commands

RUNS = Path(__file__).parent / "runs"
GOLDEN = sorted(path.parent for path in RUNS.glob("*/manifest.json"))
TRAINED_WITH = {"avx2": "AVX2", "before-tasks": "AVX512"}
"""The instruction set of each, as torch names it."""
ALLOWED = ("--allow", "golden_run:model", "--allow", "golden_run:data")


def run_id_of(run: Path) -> str:
    """The id of a golden run."""
    return str(json.loads((run / "manifest.json").read_text())["run_id"])


def asked(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in an installation of nothing."""
    given = {**os.environ, "ESPER_HOME": str(home), "PYTHONPATH": str(RUNS), "COLUMNS": "1000"}
    return commands.run(*arguments, "--json", environment=given)


def esper(home: Path, *arguments: str | Path) -> dict[str, Any]:
    """The object that a command gives."""
    done = asked(home, *arguments)
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
    assert {path.name: TRAINED_WITH.get(path.name) for path in GOLDEN} == TRAINED_WITH


@pytest.mark.slow
@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_a_golden_run_is_proven_bit_for_bit(run: Path, tmp_path: Path, passphrase: Path) -> None:
    """Every step is re-executed, from the beginning and from each snapshot; digests, events and
    snapshots are those of then. With other instructions, that is named as what may differ.
    """
    secret, run_id = ("--passphrase-file", passphrase), run_id_of(run)
    done = asked(tmp_path, "replay", "verify", run_id, "--from", run, *secret, *ALLOWED)
    then, now = TRAINED_WITH[run.name], torch.backends.cpu.get_cpu_capability()
    if then != now:
        assert f"instruction_set was {then} and is {now}" in done.stderr
        assert done.returncode in (0, 5), done.stderr
        return
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout.splitlines()[-1])
    assert proof["proven"], proof
    assert (proof["snapshots"], proof["steps"], proof["notes"]) == (2, 640, [])


@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_a_golden_journal_folds_to_the_same_state(run: Path, tmp_path: Path) -> None:
    """Its signatures hold, and each record has its rule."""
    fold = esper(tmp_path, "replay", "fold", run_id_of(run), "--from", run)
    assert (fold["status"], fold["step"], fold["set_aside"]) == ("COMPLETED", 640, 0)
    assert fold["events"] == json.loads((run / "manifest.json").read_text())["events"]


@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_a_golden_run_may_be_imported(run: Path, tmp_path: Path, passphrase: Path) -> None:
    """All that an import verifies holds."""
    checked = esper(tmp_path, "import", run, "--check", "--passphrase-file", passphrase)
    assert checked["run_id"] == run_id_of(run)
