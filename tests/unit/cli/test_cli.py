from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import esper.cli as esper_cli
from esper.config import Settings
from esper.errors import UsageError, printable
from esper.json_text import json_text
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


def test_a_number_that_is_not_finite_is_null() -> None:
    """JSON has no text for it, and scripts could not read the line."""
    value = {"loss": math.nan, "metrics": {"a": math.inf, "b": [1.5, -math.inf]}, "n": 3}
    text = json_text(value, sort_keys=True)
    assert text == '{"loss": null, "metrics": {"a": null, "b": [1.5, null]}, "n": 3}'


def test_every_command_writes_its_json_by_the_same_function() -> None:
    """A command that calls `json.dumps` for its result could print NaN."""
    folder = Path(esper_cli.__file__).parent
    for path in folder.rglob("*.py"):
        assert "print(json.dumps(" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ESPER_KAFKA__PARTITIONS", "many", "ESPER_KAFKA__PARTITIONS has an invalid value"),
        ("ESPER_KAFKA__PARTITIONS", "0", "ESPER_KAFKA__PARTITIONS has an invalid value"),
        ("ESPER_KAFKA", "{", "The settings cannot be read"),
        ("ESPER_KAFKA", "3", "ESPER_KAFKA has an invalid value"),
        ("ESPER_NISSA__PORT", "99999", "ESPER_NISSA__PORT has an invalid value"),
        ("ESPER_NISSA__PORT", "", "ESPER_NISSA__PORT has an invalid value"),
        ("ESPER_HOME", "", "ESPER_HOME is empty"),
        ("ESPER_HOME", "~nobody-of-that-name/x", "names a user that is not known here"),
        ("ESPER_SERVICE__KEYS", "~nobody-of-that-name", "names a user that is not known here"),
        ("ESPER_PARTS", "here", "ESPER_PARTS has an invalid value"),
        ("ESPER_HOMES", "x", "ESPER_HOMES"),
        ("ESPER_KAFKA__SECURITY_PROTOCOL", "TLS", "ESPER_KAFKA__SECURITY_PROTOCOL has an inv"),
        ("ESPER_SERVICE__RATE", "-1", "ESPER_SERVICE__RATE has an invalid value"),
        ("ESPER_CHECKPOINTS__NOTHING", "1", "ESPER_CHECKPOINTS__NOTHING is not a setting"),
    ],
)
def test_a_value_of_the_environment_that_cannot_be_is_one_sentence(
    name: str, value: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable."""
    monkeypatch.setenv("ESPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=sentence) as caught:
        Settings.load(guest=True)
    assert "\n" not in str(caught.value)


def test_a_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of environment variables no shell has expanded it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ESPER_HOME", "~/esper")
    monkeypatch.setenv("ESPER_SERVICE__KEYS", "~/keys")
    monkeypatch.setenv("ESPER_URZA__STORE", "s3://bucket/~x")
    settings = Settings.load(guest=True)
    assert settings.home == tmp_path / "esper"
    assert settings.keys_dir == tmp_path / "keys"
    assert settings.urza.store == "s3://bucket/~x"


def test_what_own_code_raises_is_the_users_and_a_fault_of_esper_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 with the line, and 70."""

    def own() -> None:
        raise ValueError("of mine")

    for call, code, said in (
        (own, 2, f"raised ValueError: of mine in {__file__}, line "),
        (lambda: json_text(object()), 2, "raised TypeError"),
        (lambda: json_text({"a": {1j: 2}}), 2, "raised TypeError"),
        (lambda: printable(3), 70, "This is a fault in Esper"),  # type: ignore[arg-type]  # the fault
    ):
        monkeypatch.setattr(esper_cli, "app", lambda args, call=call: call())  # noqa: ARG005  # as typer is called
        with pytest.raises(SystemExit) as end:
            esper_cli.main()
        assert end.value.code == code
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1


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
