"""`esper up | down | status | doctor` as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from esper import stack
from esper.cli.installation.stack import register
from esper.config import KafkaSettings, Settings
from esper.errors import EsperError
from esper.stack.processes.parts import as_environment
from tests.stackfixtures import eventually, part, tiny_stack
from tests.waiting import never


@pytest.fixture
def settings(tmp_path: Path, broker: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a home of its own, on the shared broker, given to the commands by environment."""
    made = Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))
    for name, value in as_environment(made).items():
        monkeypatch.setenv(name, value)
    return made


def esper(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.stdout


def test_the_commands_show_and_stop_a_stack(settings: Settings) -> None:
    """`up` joins the stack that lives and keeps it, `status` has each part with its reason, `down`
    leaves none; `--json` is one object each.
    """
    with tiny_stack(settings) as endpoints:
        assert eventually(lambda: part(settings, "tamiyo").restarts >= 1)
        assert json.loads(esper("up", "--json")) == asdict(endpoints)
        assert endpoints.bootstrap in esper("up")
        state = json.loads(esper("status", "--json"))
        assert state["phase"] == "running"
        assert {one["name"]: one["port"] for one in state["parts"]} == {
            name: state["ports"][name] for name in ("nissa", "tamiyo")
        }
        table = esper("status")
        assert "nissa.log" in table
        assert "no_such_part" in table
        assert json.loads(esper("down", "--json")) == {"stopped": True}
        assert stack.running(settings) is None
    assert esper("down") == "The stack was not up.\n"
    assert json.loads(esper("status", "--json")) == {"phase": "down"}
    assert "esper up" in esper("status")


def test_a_stack_that_up_has_joined_outlives_the_run_that_started_it(settings: Settings) -> None:
    """`esper up` beside a run means: keep it."""
    with tiny_stack(settings):
        esper("up", "--json")
        stack.release(settings, os.getpid())
        assert never(lambda: stack.running(settings) is None)


def test_doctor_finds_this_machine_fit_and_names_what_is_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything there the exit is clean.

    A cluster that does not answer is an error with its remedy.
    """
    checks = json.loads(esper("doctor", "--json"))["checks"]
    assert {check["name"]: check["verdict"] for check in checks}["kafka"] == "ok"
    monkeypatch.setenv("ESPER_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    with pytest.raises(
        EsperError, match="start that cluster, correct ESPER_KAFKA__BOOTSTRAP, or unset it"
    ):
        esper("doctor")


def test_the_stack_imports_no_torch() -> None:
    """Neither the commands nor the supervisor pay for it."""
    program = (
        "import sys, esper.stack.__main__, esper.stack.doctor, esper.oona.admin.topic_creation; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run((sys.executable, "-c", program), check=False, timeout=600).returncode == 0
