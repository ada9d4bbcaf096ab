"""What is measured of seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from esper.events.records import SeedTransitioned
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


@pytest.mark.parametrize("every", [1, 3])
def test_kernels_are_measured_as_often_as_is_asked_for(tmp_path: Path, every: int) -> None:
    """Gates move them then, and at no other end of an epoch; here one has had its steps at once."""
    gates = {"min_training_steps": 1, "max_training_steps": 1}
    chosen = recipe(gates=gates, validation={"every_epochs": every})
    laboratory = Laboratory(tmp_path, chosen, GROWTH[:1])
    laboratory.run()
    (culled,) = [
        event
        for event in laboratory.journal()
        if isinstance(event, SeedTransitioned) and event.to_stage == "CULLED"
    ]
    assert culled.epoch == every
