"""Lives of a program that grows in a framework's loop, on the stack that tests share."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.commands import ROOT
from tests.integration.run.whole import endpoints, esper, query, run_program

EXAMPLES = ROOT / "docs" / "examples"
FRAMEWORKS = ("accelerate", "lightning", "transformers")
KILLED = Path(__file__).parent / "killed.py"


def live(
    home: Path, example: Path, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program once."""
    words = [str(example), *map(str, arguments)]
    return run_program(home, KILLED, words, environment, FRAMEWORKS)


def answer(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a run that has ended says: what grew, and the digest of its parameters."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


def killed_at(
    home: Path, example: Path, *arguments: str | Path, steps: tuple[int, ...]
) -> list[str]:
    """The answer of a program that is killed after each of these steps and run again."""
    for step in steps:
        died = live(home, example, *arguments, KILL_AT=str(step))
        assert died.returncode == -signal.SIGKILL, died.stderr
    return answer(live(home, example, *arguments))


def changed(example: Path, folder: Path, before: str, after: str) -> Path:
    """A copy of a program with something else in one place."""
    text = example.read_text()
    assert text.count(before) == 1
    path = folder / example.name
    path.write_text(text.replace(before, after))
    return path


def moves(home: Path, run_id: str) -> list[dict[str, Any]]:
    """What became of each seed, as the history has it."""
    columns = "step, epoch, layer, seed, kernel_id, from_stage, to_stage"
    rows = query(
        endpoints(home).history_url,
        f"SELECT {columns} FROM seed_transitioned WHERE run_id = '{run_id}' ORDER BY sequence",  # noqa: S608  # ours
    )
    # kernels that were asked for together arrive in any order, within one step
    return sorted(rows, key=lambda row: (int(row["step"]), row["layer"], row["seed"]))


def folded(home: Path, run_id: str) -> dict[str, Any]:
    """The fold of a run's journal."""
    done = esper(home, "replay", "fold", run_id, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
