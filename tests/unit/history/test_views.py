"""What analysts see: the views on a small story of five runs."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.tables.container import container, layout
from esper.oona.bus.port import Received
from tests.unit.history.conftest import EXAMPLES, example, framed, rows

_offsets = count(1)
SECOND = 1_000_000
IMAGE = "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 8x8"
DECISION = "00000000-0000-8000-8000-00000000dec1"
REFUSED = "00000000-0000-8000-8000-00000000dec2"
OPEN = "00000000-0000-8000-8000-00000000dec3"


def put(engine: Engine, name: str, **fields: Any) -> None:
    """Store one event twice: the golden example with these fields, as if it was sent again after a
    restart.
    """
    wire = current(BY_NAME[name])
    datum = {**example(name), **fields}
    place = layout(wire.id)
    messages = [
        Received(wire.record.TOPIC, 0, next(_offsets), b"", framed(wire, datum), (), 0)
        for _ in range(2)
    ]
    engine.client.raw_insert(
        place.table.name,
        column_names=list(place.columns),
        insert_block=container(wire.id, "story", messages),
        fmt="Avro",
    )


def journal(engine: Engine, run: str, events: list[tuple[str, dict[str, Any]]]) -> None:
    """Store a run's journal, one second and ten steps between events."""
    for sequence, (name, fields) in enumerate(events):
        at = {
            "run_id": run,
            "timeline": 0,
            "sequence": sequence,
            "epoch": sequence // 2,
            "step": sequence * 10,
            "occurred_at": sequence * SECOND,
        }
        put(engine, name, **at, **fields)


def stage(before: str, after: str) -> tuple[str, dict[str, Any]]:
    """A transition of the first seed."""
    return "SeedTransitioned", {
        "layer": "l0",
        "seed": 0,
        "from_stage": before,
        "to_stage": after,
        "kernel_id": "k1",
        "decision_id": DECISION,
    }


@pytest.fixture(scope="module", autouse=True)
def story(engine: Engine) -> None:
    """A run that grew and its fork, one that did not, one that still trains and one that failed."""
    start = ("RunStarted", {"recipe": "r", "seed": 1, "total_steps": 100, "parameters": 1000})
    journal(
        engine,
        "grown",
        [
            start,
            ("AdaptationApplied", {"decision_id": DECISION}),
            stage("DORMANT", "GERMINATED"),
            stage("GERMINATED", "TRAINING"),
            ("EpochEnded", {"test_accuracy": 0.7, "test_loss": 0.6}),
            stage("TRAINING", "FOSSILIZED"),
            ("AdaptationRejected", {"decision_id": REFUSED, "reason": "Cooling down."}),
            ("EpochEnded", {"test_accuracy": 0.9, "test_loss": 0.3}),
            (
                "RunCompleted",
                {"outcome": "FINISHED", "accuracy": 0.9, "loss": 0.3, "parameters": 1200},
            ),
        ],
    )
    done = (
        "RunCompleted",
        {"outcome": "FINISHED", "accuracy": 0.6, "loss": 1.0, "parameters": 1000},
    )
    journal(engine, "host", [start, ("EpochEnded", {"test_accuracy": 0.6, "test_loss": 1.0}), done])
    journal(
        engine,
        "live",
        [
            start,
            ("RunPaused", {}),
            ("RunResumed", {}),
            ("EpochEnded", {"test_accuracy": 0.2, "test_loss": 2.0}),
        ],
    )
    journal(engine, "lost", [start, ("RunFailed", {"reason": "The disk is full."})])
    journal(engine, "fork", [start, ("RunForked", {"parent_run_id": "grown", "parent_step": 20})])
    command = {
        **example("EpochReviewed")["commands"][0],
        "layer": "l0",
        "seed": 0,
        "kernel_id": "k1",
        "command": "GERMINATE",
    }
    commands = [{**command, "decision_id": decision} for decision in (DECISION, REFUSED, OPEN)]
    put(engine, "EpochReviewed", run_id="grown", commands=commands)
    put(engine, "EpochReviewed", run_id="grown", commands=[])
    put(
        engine,
        "AdaptationOutcome",
        run_id="grown",
        decision_id=DECISION,
        kernel_id="k1",
        verdict="FOSSILIZED",
        reward=1.0,
        shadow_gap=0.25,
        step=50,
    )
    put(engine, "KernelPublished", kernel_id="k1", family="conv2d", geometry=IMAGE)
    put(engine, "KernelPublished", kernel_id="k2", family="mlp", geometry="")
    put(
        engine,
        "PerformanceDelta",
        run_id="grown",
        kernel_id="k1",
        accuracy_delta=0.1,
        loss_delta=0.2,
    )


def test_runs_has_one_row_a_run_with_its_state_and_figures(engine: Engine) -> None:
    """Each run is there once, although each event was sent twice: how it ended, its last and best
    accuracy, its parameters and growth.
    """
    found = {row["run_id"]: row for row in rows(engine, "SELECT * FROM runs")}
    assert {run: row["state"] for run, row in found.items()} == {
        "grown": "FINISHED",
        "host": "FINISHED",
        "live": "RUNNING",
        "lost": "FAILED",
        "fork": "RUNNING",
    }
    assert {
        run: (row["parent"], row["forked_step"]) for run, row in found.items() if row["parent"]
    } == {"fork": ("grown", 20)}
    grown = found["grown"]
    assert (
        grown["accuracy"],
        grown["best_accuracy"],
        grown["parameters"],
        grown["host_parameters"],
    ) == (0.9, 0.9, 1200, 1000)
    assert (
        grown["grafts"],
        grown["fossilized"],
        grown["culled"],
        grown["seconds"],
        grown["steps"],
    ) == (1, 1, 0, 8, 80)
    assert (found["live"]["accuracy"], found["live"]["steps"], found["live"]["digest"]) == (
        0.2,
        30,
        "",
    )
    assert (found["lost"]["reason"], found["lost"]["accuracy"]) == ("The disk is full.", None)


def test_a_seeds_timeline_says_how_long_it_stayed(engine: Engine) -> None:
    """A stage lasts until the seed's next transition; the last one is open."""
    found = rows(
        engine,
        (
            "SELECT to_stage, steps_in_stage, seconds_in_stage FROM seed_timeline WHERE run_id "
            "= 'grown' ORDER BY sequence"
        ),
    )
    assert [tuple(row.values()) for row in found] == [
        ("GERMINATED", 10, 1),
        ("TRAINING", 20, 2),
        ("FOSSILIZED", None, None),
    ]


def test_each_decision_has_its_answer_and_outcome(engine: Engine) -> None:
    """Applied with its reward, rejected with the reason, or open: one row a command of Tamiyo, none
    for a review without commands.
    """
    found = {
        row["decision_id"]: row
        for row in rows(engine, "SELECT * FROM decisions WHERE run_id = 'grown'")
    }
    assert {key: row["answer"] for key, row in found.items()} == {
        DECISION: "APPLIED",
        REFUSED: "REJECTED",
        OPEN: "OPEN",
    }
    assert len(rows(engine, "SELECT * FROM decisions")) == 3
    applied = found[DECISION]
    assert (
        applied["applied_step"],
        applied["verdict"],
        applied["reward"],
        applied["shadow_gap"],
        applied["outcome_step"],
    ) == (
        10,
        "FOSSILIZED",
        1.0,
        0.25,
        50,
    )
    assert (found[REFUSED]["rejected_because"], found[OPEN]["verdict"]) == ("Cooling down.", None)


def test_the_kernel_league_ranks_by_reward(engine: Engine) -> None:
    """Every published kernel is in it, with what its grafts were worth.

    One that was never grafted has no reward.
    """
    found = rows(
        engine,
        (
            "SELECT kernel_id, geometry, grafts, fossilized, mean_reward, mean_accuracy_delta, "
            "mean_loss_delta FROM kernel_league"
        ),
    )
    assert [tuple(row.values()) for row in found] == [
        ("k1", IMAGE, 1, 1, 1, 0.1, 0.2),
        ("k2", "", 0, 0, None, None, None),
    ]


def test_runs_are_compared_with_the_host_alone(engine: Engine) -> None:
    """The gain is over the finished run of the same recipe, seed and length that grew nothing."""
    found = {
        row["run_id"]: row["accuracy_over_host"]
        for row in rows(engine, "SELECT * FROM run_comparison")
    }
    assert found == {
        "grown": pytest.approx(0.3),
        "host": 0,
        "live": pytest.approx(-0.4),
        "lost": None,
        "fork": None,
    }


def test_all_events_are_in_one_view_once_and_in_the_other_as_sent(engine: Engine) -> None:
    """`events` counts what happened, `raw_events` what was sent."""
    [once] = rows(engine, "SELECT count() AS n, uniqExact(event_id) AS ids FROM events")
    [sent] = rows(engine, "SELECT count() AS n FROM raw_events")
    assert once["n"] == once["ids"] == sent["n"] / 2


def test_the_readmes_queries_work(engine: Engine) -> None:
    """Each SQL example of the package's README is answered."""
    readme = (EXAMPLES.parents[1] / "esper" / "history" / "README.md").read_text()
    queries = [
        query.strip()
        for query in readme.partition("```sql\n")[2].partition("```")[0].split(";")
        if query.strip()
    ]
    assert len(queries) >= 8
    for query in queries:
        rows(engine, query.replace("'RUN'", "'grown'"))
