"""What `esper doctor` finds."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from esper.config import KafkaSettings, PartSettings, Settings
from esper.stack.doctor import Finding, examine, verdict
from esper.stack.processes.ports import HOST


def by_name(settings: Settings) -> dict[str, Finding]:
    """All checks."""
    return {check.name: check for check in examine(settings)}


def test_every_check_that_is_not_fine_says_what_to_do(tmp_path: Path) -> None:
    """A remedy stands beside each finding, and this machine, on which the tests run,
    lacks nothing.
    """
    checks = examine(Settings(home=tmp_path))
    assert all(check.remedy for check in checks if check.verdict != "ok")
    assert verdict(checks) is None
    assert {
        "python",
        "java",
        "kafka jars",
        "aot cache",
        "disk room",
        "cores",
        "kcat",
        "chromium",
        "prometheus",
        "alertmanager",
        "gpu",
        "memory",
        "ports",
        "open files",
    } <= {check.name for check in checks}


def test_jars_that_are_not_here_yet_are_advice_and_damaged_ones_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty cache fills itself; a jar with other bytes would be run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert by_name(Settings(home=tmp_path))["kafka jars"].verdict == "advice"
    jar = tmp_path / "esper" / "jars" / "slf4j-api-1.7.36.jar"
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"something else")
    check = by_name(Settings(home=tmp_path))["kafka jars"]
    assert (check.verdict, check.found) == ("missing", "slf4j-api-1.7.36.jar has the wrong SHA-256")


def test_what_keeps_a_stack_from_starting_is_missing(tmp_path: Path) -> None:
    """A port that the user insists on and another program holds; a cluster that does not answer."""
    with socket.create_server((HOST, 0)) as holder:
        port = holder.getsockname()[1]
        checks = examine(
            Settings(
                home=tmp_path,
                nissa=PartSettings(port=port),
                kafka=KafkaSettings(bootstrap=f"{HOST}:1"),
            )
        )
    error = verdict(checks)
    assert error is not None
    assert f"in use: {port} (ESPER_NISSA__PORT)" in str(error)
    assert "ESPER_KAFKA__BOOTSTRAP" in str(error)
