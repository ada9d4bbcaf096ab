"""Forks and what-if on the whole stack, through the command line: Tamiyo decides on a fork as on
its parent, and leaves out what is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.run.whole import endpoints, esper, query, result

PARENT: Final = "twin-0"
EPOCHS: Final = 8


@pytest.fixture(scope="module")
def parent(lockstep: list[dict[str, Any]]) -> dict[str, Any]:
    """A short run in lockstep, in which Tamiyo grafts from epoch 1 on."""
    return lockstep[0]


def decisions(home: Path, run_id: str) -> list[dict[str, Any]]:
    """Tamiyo's decisions on a run, without the ids."""
    sql = (
        "SELECT packet, c.command AS command, c.layer AS layer, c.seed AS seed, c.kernel_id "  # noqa: S608
        "AS kernel, c.confidence AS confidence FROM epoch_reviewed ARRAY JOIN commands AS c "
        f"WHERE run_id = '{run_id}' ORDER BY packet, layer, seed"
    )
    return query(endpoints(home).history_url, sql)


def test_a_fork_in_lockstep_is_decided_on_like_its_parent(
    home: Path, parent: dict[str, Any]
) -> None:
    """Forked in the middle of an epoch while kernels train: the same decisions at the same epochs,
    and the same digest at the end.
    """
    forked = result(esper(home, "fork", PARENT, "--step", "150", "--run-id", "twin", "--json"))
    assert forked["digest"] == parent["digest"]
    assert forked["seeds"] == parent["seeds"]
    assert forked["events"]["telemetry.training.step"] == EPOCHS * 35 - 150
    known = decisions(home, PARENT)
    assert [one for one in known if one["packet"] > 4] == decisions(home, "twin")
    assert any(one["packet"] <= 4 for one in known)
    assert any(one["packet"] > 4 for one in known)
    runs = {row["run_id"]: row for row in json.loads(esper(home, "runs", "--json").stdout)}
    assert (runs["twin"]["parent"], runs["twin"]["forked_step"]) == (PARENT, 150)
    assert json.loads(esper(home, "replay", "fold", "twin", "--json").stdout)["equals_live"] is True
    compared = json.loads(esper(home, "compare", PARENT, "twin", "--json").stdout)
    assert (compared["same_epochs"], compared["decisions"], compared["settings"]) == (
        EPOCHS,
        [],
        {},
    )


def test_a_decision_that_is_left_out_is_refused_when_it_comes_again(
    home: Path, parent: dict[str, Any]
) -> None:
    """Without the first graft Tamiyo is asked again, repeats it, and is refused with a reason that
    names the fork's parent; then the runs part.
    """
    url = endpoints(home).history_url
    first = query(
        url,
        (
            "SELECT decision_id, epoch, layer, seed FROM adaptation_applied WHERE run_id = "  # noqa: S608
            f"'{PARENT}' ORDER BY sequence LIMIT 1"
        ),
    )[0]
    forked = result(
        esper(
            home,
            "fork",
            PARENT,
            "--without",
            first["decision_id"][:13],
            "--run-id",
            "other",
            "--json",
        )
    )
    assert forked["digest"] != parent["digest"]
    (refused,) = query(
        url, "SELECT epoch, layer, seed, reason FROM adaptation_rejected WHERE run_id = 'other'"
    )
    assert {name: refused[name] for name in ("epoch", "layer", "seed")} == {
        name: first[name] for name in ("epoch", "layer", "seed")
    }
    assert refused["reason"] == (
        f"This fork leaves out decision {first['decision_id']} of run {PARENT}, which this "
        "one repeats."
    )
    others = {
        (one["layer"], one["seed"])
        for one in decisions(home, PARENT)
        if one["packet"] == first["epoch"]
    } - {(first["layer"], first["seed"])}
    applied = query(
        url,
        (
            "SELECT layer, seed FROM adaptation_applied WHERE run_id = 'other' AND epoch = "  # noqa: S608
            f"{first['epoch']}"
        ),
    )
    assert {(one["layer"], one["seed"]) for one in applied} == others


def test_what_if_in_both_loops(home: Path, parent: dict[str, Any], tmp_path: Path) -> None:
    """Open: the record is reproduced and the picture drawn. Closed: both branches are forks in the
    history.

    Either answer is a signed event, which SQL has, `esper explain` tells and `esper audit`
    verifies.
    """
    assert parent["outcome"] == "FINISHED"
    url = endpoints(home).history_url
    first = query(
        url,
        (
            f"SELECT decision_id FROM adaptation_applied WHERE run_id = '{PARENT}' ORDER BY "  # noqa: S608
            "sequence LIMIT 1"
        ),
    )[0]["decision_id"]
    picture = tmp_path / "effect.svg"
    opened = result(
        esper(
            home,
            "whatif",
            PARENT,
            "--decision",
            first,
            "--orders",
            "2",
            "--until",
            "3",
            "--out",
            str(picture),
            "--json",
        )
    )
    assert (
        opened["mode"],
        opened["proven"],
        len(opened["branches"]["with"]),
        opened["until_epoch"],
    ) == ("open", True, 2, 3)
    assert opened["dropped"][0].startswith("GERMINATE")
    assert picture.read_text().startswith("<?xml")
    assert (
        json.loads((home / "runs" / PARENT / "whatif" / f"{first}-open.json").read_text())["effect"]
        == opened["effect"]
    )
    closed = result(
        esper(
            home,
            "whatif",
            PARENT,
            "--decision",
            first,
            "--mode",
            "closed",
            "--orders",
            "1",
            "--until",
            "3",
            "--json",
        )
    )
    assert (closed["mode"], closed["proven"]) == ("closed", True)
    names = {branch[0]["run_id"] for branch in closed["branches"].values()}
    told = query(
        url,
        (
            "SELECT run_id, parent_run_id, reason FROM run_forked WHERE startsWith(run_id, "  # noqa: S608
            f"'{PARENT}-whatif')"
        ),
    )
    assert {one["run_id"] for one in told} == names
    assert {one["parent_run_id"] for one in told} == {PARENT}

    kept = query(
        url,
        f"SELECT * FROM counterfactuals WHERE run_id = '{PARENT}' ORDER BY measured_at",  # noqa: S608
    )
    assert [(one["mode"], one["orders"], one["until_epoch"], one["proven"]) for one in kept] == [
        ("OPEN", 2, 3, True),
        ("CLOSED", 1, 3, True),
    ]
    for one, answer in zip(kept, (opened, closed), strict=True):
        name, effect = one["score_name"], answer["effect"]
        assert (one["command"], one["layer"]) == ("GERMINATE", answer["decision"]["layer"])
        for what, interval in (("score", effect[name]), ("loss", effect["loss"])):
            measured = [one[f"{what}_{end}"] for end in ("effect", "low", "high")]
            assert measured == [interval["mean"], interval["low"], interval["high"]]
    assert kept[0]["with_runs"] == []
    assert {*kept[1]["with_runs"], *kept[1]["without_runs"]} == names
    text = esper(home, "explain", first).stdout
    assert f"with it {kept[0]['score_effect']:+.4g} [" in text
    assert "after epoch 3 (open loop, batch orders: 2)" in text
    assert "after epoch 3 (closed loop, batch orders: 1)" in text
    report = result(esper(home, "audit", PARENT, "--json"))
    assert [one["mode"] for one in report["counterfactuals"]] == ["OPEN", "CLOSED"]
    assert report["integrity"]["verdict"] == "Verified: every check holds."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fork", PARENT), "Say where to fork"),
        (("fork", "nobody", "--step", "3"), "There is no run nobody"),
        (("fork", PARENT, "--step", "9999"), f"Run {PARENT} has no step 9999"),
        (
            ("fork", PARENT, "--step", "35", "--set", "kasmina.seeds=2"),
            "A fork cannot change kasmina.seeds",
        ),
        (
            ("fork", PARENT, "--step", "35", "--run-id", PARENT),
            f"Run {PARENT} already has a journal",
        ),
        (("whatif", PARENT, "--decision", "zz"), "has applied no decision zz"),
        (("compare", PARENT), "Name at least two runs"),
    ],
)
def test_a_mistake_is_one_sentence(
    home: Path, parent: dict[str, Any], arguments: tuple[str, ...], sentence: str
) -> None:
    """No traceback, exit code 2, and nothing is begun."""
    assert parent["outcome"] == "FINISHED"
    done = esper(home, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
