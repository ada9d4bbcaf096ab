"""Instability: training explodes after a graft, Tamiyo sees it, the trainer goes back, resets the seeds and goes on. On the whole stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run.whole import endpoints, esper, query, result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EXPLOSIVE = (
    "decisions=lockstep",
    "run.epochs=24",
    "run.seed=1",
    "kernels.learning_rate=6.0",  # reached by a warm-up of 600 steps: a kernel learns at first, passes its gate, and explodes when it is live
    "kernels.warmup_steps=600",
    "kernels.clip_norm=1e9",
    "kernels.blend_steps=20",
    "gates.min_training_steps=20",
    "gates.max_training_steps=200",
    "gates.min_gap=0.01",
    "tamiyo.policy.first_epoch=2",
    "tamiyo.policy.fossilise_after_epochs=50",  # so that every kernel is still on trial
)


def explosive(home: Path, run_id: str, *more: str) -> dict[str, Any]:
    """A run whose kernels diverge once they are live."""
    arguments = [argument for one in (*EXPLOSIVE, *more) for argument in ("--set", one)]
    return result(esper(home, "run", "mnist1d", "--json", "--run-id", run_id, *arguments, timeout=600))


def test_a_run_that_explodes_after_a_graft_goes_back_and_ends_well(home: Path) -> None:
    """Rollback at the packet's step, in a new timeline, from before the explosion, with its seeds reset; counted, repeatable, and better than without."""
    found = explosive(home, "explodes")
    url = endpoints(home).history_url
    rolled = query(url, "SELECT * FROM run_rolled_back WHERE run_id = 'explodes' ORDER BY sequence")
    assert rolled, found["growth"]
    asked = query(url, "SELECT * FROM rollback_requested WHERE run_id = 'explodes' ORDER BY occurred_at")
    assert [one["command_id"] for one in rolled] == [one["event_id"] for one in asked]
    packets = {
        one["event_id"]: one
        for one in query(url, "SELECT event_id, epoch, step, timeline FROM system_state_packet WHERE run_id = 'explodes'")
    }
    for timeline, (one, request) in enumerate(zip(rolled, asked, strict=True)):
        packet = packets[request["causation_id"]]
        assert (int(one["from_step"]), one["timeline"], packet["timeline"]) == (int(packet["step"]), timeline + 1, timeline)
        assert one["epoch"] <= request["at_most_epoch"] < packet["epoch"]
        assert one["reason"].startswith("The validation loss is ")
        reset = query(
            url,
            f"SELECT from_stage, to_stage FROM seed_transitioned WHERE run_id = 'explodes' AND causation_id = '{one['event_id']}'",  # noqa: S608
        )
        assert {row["to_stage"] for row in reset} <= {"RESETTING", "DORMANT"}
    assert len(rolled) <= 3
    losses = query(url, "SELECT timeline, epoch, validation_loss AS loss FROM epoch_ended WHERE run_id = 'explodes' ORDER BY sequence")
    left = max(one["loss"] for one in losses if one["timeline"] == 0)
    live = query(url, "SELECT count() AS n FROM seed_transitioned WHERE run_id = 'explodes' AND to_stage = 'BLENDING' AND timeline = 0")
    assert int(live[0]["n"]) > 0, "nothing was grafted before the explosion"
    assert losses[-1]["loss"] < left / 2
    assert json.loads(esper(home, "replay", "explodes", "--fold", "--json").stdout)["equals_live"] is True
    assert esper(home, "replay", "explodes", "--verify", "--json").returncode == 0

    assert explosive(home, "explodes-again")["digest"] == found["digest"]
    alone = explosive(home, "let-alone", "tamiyo.policy.emergency_ratio=0")
    assert not query(url, "SELECT 1 FROM run_rolled_back WHERE run_id = 'let-alone'")
    assert found["loss"] < alone["loss"]
