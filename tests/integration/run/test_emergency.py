"""Instability: training explodes after a graft, Tamiyo sees it, the trainer goes back, resets the
seeds and goes on. On the whole stack.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run.whole import endpoints, esper, query, result

pytestmark = pytest.mark.slow
MODELS = Path(__file__).parent / "models"


def runaway(home: Path, run_id: str, *sets: str) -> dict[str, Any]:
    """A run of the model that runs away after a graft."""
    arguments = [argument for one in sets for argument in ("--set", one)]
    done = esper(
        home,
        "run",
        str(MODELS / "runaway.toml"),
        "--json",
        "--run-id",
        run_id,
        *arguments,
        PYTHONPATH=str(MODELS),
    )
    return result(done)


def losses(url: str, run_id: str) -> list[tuple[int, float]]:
    """Timeline and validation loss of each epoch in the order in which they were trained.

    One that is not finite is infinite.
    """
    found = query(
        url,
        (
            "SELECT timeline, validation_loss AS loss FROM epoch_ended WHERE run_id = "  # noqa: S608
            f"'{run_id}' ORDER BY sequence"
        ),
    )
    return [(one["timeline"], math.inf if one["loss"] is None else one["loss"]) for one in found]


def test_a_run_that_explodes_after_a_graft_goes_back_and_ends_well(home: Path) -> None:
    """Rollback at the packet's step, to before the explosion, with its seeds reset.

    Counted and proven.
    """
    runaway(home, "explodes")
    url = endpoints(home).history_url
    (rolled,) = query(url, "SELECT * FROM run_rolled_back WHERE run_id = 'explodes'")
    (asked,) = query(url, "SELECT * FROM rollback_requested WHERE run_id = 'explodes'")
    packet = (
        "SELECT epoch, step, timeline FROM system_state_packet WHERE event_id = "  # noqa: S608
        f"'{asked['causation_id']}'"
    )
    (packet_of,) = query(url, packet)
    assert (rolled["command_id"], rolled["reason"]) == (asked["event_id"], asked["reason"])
    assert asked["reason"].startswith("The validation loss is ")
    assert (int(rolled["from_step"]), packet_of["timeline"], rolled["timeline"]) == (
        int(packet_of["step"]),
        0,
        1,
    )
    assert rolled["epoch"] <= asked["at_most_epoch"] < packet_of["epoch"]
    blended = query(
        url,
        (
            "SELECT timeline, epoch FROM seed_transitioned WHERE run_id = 'explodes' AND "
            "to_stage = 'BLENDING' ORDER BY sequence"
        ),
    )
    assert blended[0]["epoch"] < packet_of["epoch"], "it exploded before anything was grafted"
    assert [one["timeline"] for one in blended] == [0] * len(blended), (
        "the arm that did harm was grafted again"
    )
    reset = (
        "SELECT to_stage FROM seed_transitioned WHERE run_id = 'explodes' AND timeline = 1 AND "
        "reason LIKE '%roll%'"
    )
    assert [row["to_stage"] for row in query(url, reset)] == ["RESETTING", "DORMANT"]
    told = losses(url, "explodes")
    worst, last = max(loss for timeline, loss in told if timeline == 0), told[-1][1]
    assert last < 2.0
    assert worst > 10.0
    assert (
        json.loads(esper(home, "replay", "fold", "explodes", "--json").stdout)["equals_live"]
        is True
    )
    proof = esper(home, "replay", "verify", "explodes", "--json", PYTHONPATH=str(MODELS))
    assert proof.returncode == 0, proof.stderr

    runaway(home, "let-alone", "tamiyo.policy.emergency_ratio=0")
    assert query(url, "SELECT 1 FROM run_rolled_back WHERE run_id = 'let-alone'") == []
    assert max(loss for _, loss in losses(url, "let-alone")) >= worst
