"""What is measured of seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.unit.tolaria.laboratory import GROWTH, Laboratory, recipe


def test_seeds_are_measured_whether_or_not_anybody_is_told(tmp_path: Path) -> None:
    """Without telemetry nothing is sent, and packets, snapshots and the model are the same."""
    lives: list[Any] = []
    for enabled in (True, False):
        chosen = recipe(telemetry={"every_steps": 3, "enabled": enabled})
        laboratory = Laboratory(tmp_path / str(enabled), chosen, GROWTH)
        outcome, session = laboratory.run()
        health = {place: asdict(one) for place, one in session.parts.growing.health.items()}
        assert any(one["samples"] for one in health.values())
        assert bool(laboratory.telemetry) == enabled
        notes = session.snapshots.living().notes
        lives.append((outcome.digest, session.parts.monitor.statistics, health, notes["health"]))
    assert lives[0] == lives[1]
