"""What the parts are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.config import KafkaSettings, PartSettings, Settings, UrzaSettings
from esper.stack.processes.parts import as_environment, default_parts, part_environment


def test_a_process_with_our_environment_has_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that were given in code reach the supervisor and the parts unchanged."""
    settings = Settings(
        home=tmp_path,
        kafka=KafkaSettings(bootstrap="a:1,b:2", partitions=7),
        nissa=PartSettings(port=9),
        urza=UrzaSettings(store="s"),
    )
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_each_part_learns_the_broker_and_the_port_of_every_part(tmp_path: Path) -> None:
    """The variables are those of the settings."""
    settings = Settings(home=tmp_path)
    parts = default_parts(settings)
    ports = {part.name: 1000 + number for number, part in enumerate(parts)}
    given = part_environment(
        {"PATH": "/bin", "PYTHONPATH": "/extra"}, settings, parts, ports, "127.0.0.1:9"
    )
    assert given["ESPER_KAFKA__BOOTSTRAP"] == "127.0.0.1:9"
    assert {
        name: given[f"ESPER_{name}__PORT"]
        for name in ("TOLARIA", "TAMIYO", "NISSA", "HISTORY", "URZA")
    } == {
        "TOLARIA": "1000",
        "TAMIYO": "1001",
        "NISSA": "1002",
        "HISTORY": "1003",
        "URZA": "1004",
    }
    assert given["ESPER_HOME"] == str(tmp_path)
    assert given["PYTHONPATH"].endswith(":/extra")
