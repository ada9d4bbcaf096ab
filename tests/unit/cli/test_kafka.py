"""`esper kafka config`: what another client of the cluster is told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from typer.testing import CliRunner

from esper.cli import app
from esper.errors import EsperError, UnavailableError, UsageError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings of a cluster on which every principal has a password of its own."""
    for principal in ("viewer", "operator"):
        (tmp_path / principal).write_text(f"secret of {principal}\n")
    for name, value in {
        "BOOTSTRAP": "kafka:9093",
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_MECHANISM": "SCRAM-SHA-512",
        "SASL_USERNAME": "esper-{principal}",
        "SASL_PASSWORD_FILE": str(tmp_path / "{principal}"),
    }.items():
        monkeypatch.setenv(f"ESPER_KAFKA__{name}", value)


def told(*arguments: str) -> str:
    """What the command prints. Raises what it raises."""
    done = CliRunner().invoke(app, ["kafka", "config", *arguments])
    if isinstance(done.exception, EsperError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("cluster")
def test_a_viewer_is_told_its_own_secret_and_no_others() -> None:
    """Lines for kcat's -F, which librdkafka takes as they are; a dict; and Java's properties."""
    lines = dict(line.split("=", 1) for line in told().splitlines())
    Consumer({**lines, "group.id": "viewer-me"}).close()
    assert (lines["sasl.username"], lines["sasl.password"]) == ("esper-viewer", "secret of viewer")
    assert ast.literal_eval(told("--format", "python")) == lines
    java = told("--format", "properties")
    assert 'ScramLoginModule required username="esper-viewer" password="secret of viewer";' in java
    assert "secret of operator" in told("--as", "operator")
    assert "operator" not in told() + java


@pytest.mark.usefixtures("cluster")
def test_a_principal_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """One sentence."""
    with pytest.raises(
        UsageError, match=r"There is no principal root; there are esper, foundry, .* viewer\."
    ):
        told("--as", "root")


def test_without_a_stack_and_a_cluster_there_is_nothing_to_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It starts none."""
    monkeypatch.setenv("ESPER_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match="`esper up` starts it"):
        told()
