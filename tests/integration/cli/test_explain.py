"""`esper explain DECISION` as typed, over the history of a real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run.whole import endpoints, esper, query


@pytest.fixture(scope="module")
def decisions(home: Path, lockstep: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The decisions of a run in which kernels were grafted, kept and given up."""
    run = lockstep[0]["run_id"]
    return query(
        endpoints(home).history_url,
        f"SELECT * FROM decisions WHERE run_id = '{run}' ORDER BY decided_at",  # noqa: S608  # ours
    )


def test_a_graft_is_told_with_its_evidence_and_its_end(
    home: Path, decisions: list[dict[str, Any]], tmp_path: Path
) -> None:
    """What was decided and why, beside what, and every stage that followed; as text, as JSON and as
    a picture.
    """
    kept = next(one for one in decisions if one["verdict"] == "FOSSILIZED")
    picture = tmp_path / "kept.svg"
    told = esper(home, "explain", kept["decision_id"][:13], "--plot", str(picture))
    assert told.returncode == 0, told.stderr
    text = told.stdout
    place = f"{kept['layer']}[{kept['seed']}]"
    assert f"graft a kernel onto {place} ({kept['family']} {kept['kernel_id'][:12]})" in text
    assert kept["reason"] in text
    assert f"{kept['confidence']:.2f} sure that it does no harm" in text
    assert "worth that was drawn for it (Thompson sampling)" in text
    assert f"FOSSILIZED at step {kept['outcome_step']}: the held-out loss was" in text
    assert f"esper whatif {kept['run_id']} --decision {kept['decision_id']}" in text
    stages = query(
        endpoints(home).history_url,
        # a fork of another test takes decisions of its parent over, with their ids
        "SELECT to_stage FROM seed_transitioned WHERE decision_id = "  # noqa: S608  # ours
        f"'{kept['decision_id']}' AND run_id = '{kept['run_id']}' ORDER BY sequence",
    )
    said = [line.split("step")[1].split()[1] for line in text.splitlines() if "  step " in line]
    assert said == [one["to_stage"] for one in stages]
    assert "FOSSILIZED" in said
    assert "fossilized" in picture.read_text()

    asked = ("explain", kept["decision_id"], "--run", kept["run_id"], "--json")
    found = json.loads(esper(home, *asked).stdout)
    assert found["decision"]["shadow_gap"] == kept["shadow_gap"]
    assert found["decision"]["evidence"] == json.loads(kept["evidence"])
    assert [step["to_stage"] for step in found["path"]] == said
    beside = [
        one
        for one in decisions
        if one["step"] == kept["step"] and one["decision_id"] != kept["decision_id"]
    ]
    assert {(one["command"], one["layer"], one["seed"]) for one in found["beside"]} == {
        (one["command"], one["layer"], one["seed"]) for one in beside
    }
    assert len(found["losses"]) == 8


def test_a_decision_to_keep_is_told(home: Path, decisions: list[dict[str, Any]]) -> None:
    """It has no kernel of its own and no outcome, and says so."""
    one = next(one for one in decisions if one["command"] == "FOSSILISE")
    text = esper(home, "explain", one["decision_id"]).stdout
    assert f"keep the kernel of {one['layer']}[{one['seed']}]." in text
    assert "standard errors that the gap is above 0" in text
    assert "only a graft has one" in text
    assert "What if not" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("zzzzzzzz",), "No decision begins with zzzzzzzz"),
        (("ab",), "at least four characters"),
        (("' OR 1=1 --",), "is no beginning of a decision's id"),
        (("0000-", "--run", "nobody"), "No decision of run nobody begins with 0000-"),
        (("zzzzzzzz", "--plot", "effect.gif"), "does not say what picture to make"),
    ],
)
def test_a_mistake_is_one_sentence(
    home: Path, lockstep: list[dict[str, Any]], arguments: tuple[str, ...], said: str
) -> None:
    """With exit code 2, and nothing is written."""
    del lockstep
    done = esper(home, "explain", *arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
