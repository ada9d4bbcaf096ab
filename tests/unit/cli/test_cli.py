from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from esper.tolaria.recipes.recipe import load, text
from tests.waiting import PATIENCE_S


def esper(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_help_imports_nothing_heavy() -> None:
    """`esper --help` answers without importing torch, Kafka, ClickHouse, pydantic or rich."""
    heavy = (
        "('torch', 'confluent_kafka', 'chdb', 'clickhouse_connect', 'pydantic', 'rich', 'numpy')"
    )
    code = (
        "import sys, esper.cli; sys.argv = ['esper', '--help']\ntry: esper.cli.main()\nexcept "
        f"SystemExit: pass\nsys.exit(str([m for m in {heavy} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert "Usage: esper" in done.stdout
    assert done.stderr.strip() == "[]"


def test_recipes_are_listed_shown_and_copied(tmp_path: Path) -> None:
    """Ls names the recipes, show prints one with its comments or as JSON with defaults, cp writes a
    file that runs and never overwrites.
    """
    listed = json.loads(esper("recipes", "ls", "--json").stdout)
    assert [one["name"] for one in listed] == ["digits", "mnist1d"]
    assert esper("recipes", "show", "mnist1d").stdout == text("mnist1d")
    assert (
        json.loads(esper("recipes", "show", "mnist1d", "--json").stdout)["tamiyo"][
            "start_timeout_s"
        ]
        == 60.0
    )
    mine = tmp_path / "mine.toml"
    assert esper("recipes", "cp", "mnist1d", str(mine)).returncode == 0
    assert load(str(mine)) == load("mnist1d")
    mine.write_text("mine")
    again = esper("recipes", "cp", "mnist1d", str(mine))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert mine.read_text() == "mine"


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's error is one sentence; --debug shows where it came from."""
    monkeypatch.setenv("ESPER_HOME", str(tmp_path / "home"))
    plain, debug = esper("run", "nothing"), esper("run", "nothing", "--debug")
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in debug.stderr
    assert plain.returncode == 2


@pytest.mark.parametrize("command", ["pause", "resume", "checkpoint", "rollback"])
def test_a_request_needs_a_stack(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no stack is up, a request to a run says so in one sentence and ends with 3."""
    monkeypatch.setenv("ESPER_HOME", str(tmp_path))
    done = esper(command, "somebody")
    assert done.returncode == 3
    assert "is not up" in done.stderr
    assert "Traceback" not in done.stderr
