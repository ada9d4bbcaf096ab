"""Claims about what the page reads, out of a real chDB."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

import pytest

from esper.errors import UsageError
from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.queries import FolderSource
from esper_processors.nissa.page import run_queries
from tests.unit.history.conftest import NamedBus, example, message
from tests.unit.history.test_sink import caught_up, send, sinking
from tests.waiting import until

LAST = 10**9


def told(engine: Engine, bus: NamedBus, *data: tuple[str, dict[str, Any]]) -> FolderSource:
    """The history once it has these events."""
    with sinking(engine, bus) as sink:
        send(bus, [message(current(BY_NAME[name]), datum) for name, datum in data])
        until(lambda: caught_up(sink, bus))
    return FolderSource(engine)


def step(
    run: str, number: int, loss: float, at: int = 0, **more: Any
) -> tuple[str, dict[str, Any]]:
    changed = {"run_id": run, "step": number, "loss": loss, "occurred_at": at or number, **more}
    return "TrainingStep", {**example("TrainingStep"), **changed}


def epoch(run: str, number: int, **more: Any) -> tuple[str, dict[str, Any]]:
    changed = {"run_id": run, "step": number, "sequence": number, "epoch": number, **more}
    return "EpochEnded", {**example("EpochEnded"), **changed}


def curves(history: FolderSource, *names: str, runs: tuple[str, ...], **asked: int) -> list[Any]:
    given = {"points": 1000, "first": 0, "last": LAST, **asked}
    found = run_queries.curves_of(history, runs, names, **given)
    return [(one["run_id"], one["name"], one["steps"], one["values"]) for one in found]


def test_of_a_step_that_was_done_again_the_latest_counts(engine: Engine, bus: NamedBus) -> None:
    """After a rollback, and where an event was sent twice; what is not finite is no point."""
    history = told(
        engine,
        bus,
        step("again", 1, 3.0),
        step("again", 2, 2.0, at=10),
        step("again", 2, 1.5, at=20),
        step("again", 3, math.nan),
        step("again", 4, math.inf),
        step("again", 5, 0.5),
        step("another", 1, 9.0),
    )
    assert curves(history, "training loss", runs=("again",)) == [
        ("again", "training loss", [1, 2, 5], [3.0, 1.5, 0.5])
    ]
    assert curves(history, "training loss", runs=("again",), first=2, last=4) == [
        ("again", "training loss", [2], [1.5])
    ]
    both = curves(history, "training loss", runs=("another", "again"))
    assert [one[0] for one in both] == ["again", "another"]
    assert curves(history, "training loss", runs=("nobody",)) == []


def test_of_many_points_those_are_given_that_keep_the_picture(
    engine: Engine, bus: NamedBus
) -> None:
    peak = 777
    history = told(
        engine,
        bus,
        *(step("many", number, 50.0 if number == peak else 1.0) for number in range(1, 2001)),
    )
    ((_, _, steps, values),) = curves(history, "training loss", runs=("many",), points=20)
    assert len(steps) == 20
    assert (steps[0], steps[-1]) == (1, 2000)
    assert steps == sorted(steps)
    assert values[steps.index(peak)] == 50.0


def test_metrics_of_a_task_are_curves_and_others_names_are_none(
    engine: Engine, bus: NamedBus
) -> None:
    """Whatever they are called: a name is a value of the query, not a part of it."""
    odd = "f1') OR 1=1 --"
    history = told(
        engine,
        bus,
        step("tasked", 1, 1.0, metrics={odd: 0.25}),
        step("tasked", 2, 1.0, metrics={odd: 0.5, "late": 7.0}),
        epoch("tasked", 2, metrics={odd: 0.75}, score_name="f1", score=0.9),
    )
    found = curves(history, odd, f"held-out {odd}", "score", "late", "none", runs=("tasked",))
    assert found == [
        ("tasked", odd, [1, 2], [0.25, 0.5]),
        ("tasked", "late", [2], [7.0]),
        ("tasked", f"held-out {odd}", [2], [0.75]),
        ("tasked", "score", [2], [0.9]),
    ]


def test_before_there_were_tasks_the_accuracy_was_the_score(engine: Engine, bus: NamedBus) -> None:
    history = told(engine, bus, epoch("old", 3, score_name="", score=0.0, validation_accuracy=0.5))
    assert curves(history, "score", runs=("old",)) == [("old", "score", [3], [0.5])]


def test_the_baseline_is_that_of_the_run_s_recipe(engine: Engine, bus: NamedBus) -> None:
    """The one that was marked last, and none once it is none any more."""

    def started(run: str, recipe: str) -> tuple[str, dict[str, Any]]:
        return "RunStarted", {**example("RunStarted"), "run_id": run, "recipe": recipe}

    def marked(run: str, identity: int, *, on: bool) -> tuple[str, dict[str, Any]]:
        named = {"run_id": run, "event_id": str(UUID(int=identity))}
        return "RunAnnotated", {
            **example("RunAnnotated"),
            **named,
            "change": "BASELINE",
            "on": on,
        }

    def baseline() -> str:
        found = run_queries.run_of(history, "based")
        assert found is not None
        return found["baseline"]["run_id"] if found["baseline"] else ""

    runs = [started(run, "based-recipe") for run in ("based", "base-1", "base-2")]
    history = told(engine, bus, *runs, started("base-3", "another"))
    assert baseline() == ""
    told(engine, bus, marked("base-1", 1, on=True), marked("base-3", 2, on=True))
    assert baseline() == "base-1"
    told(engine, bus, marked("base-2", 3, on=True), marked("base-1", 4, on=False))
    assert baseline() == "base-2"
    told(engine, bus, marked("base-2", 5, on=False))
    assert baseline() == ""


def test_a_run_is_told_whole_and_one_that_is_not_there_is_none(
    engine: Engine, bus: NamedBus
) -> None:
    started = {
        **example("RunStarted"),
        "run_id": "whole",
        "config": '{"run": {"epochs": 3}, "a": 1}',
    }
    history = told(engine, bus, ("RunStarted", started), epoch("whole", 5))
    found = run_queries.run_of(history, "whole")
    assert found is not None
    assert (found["run"]["run_id"], found["run"]["baseline"]) == ("whole", False)
    assert found["settings"] == {"run.epochs": 3, "a": 1}
    assert [one["name"] for one in found["layers"]] == [one["name"] for one in started["layers"]]
    assert found["run"]["started_at"].endswith("Z")
    assert run_queries.run_of(history, "nobody") is None
    (compared,) = run_queries.compared_of(history, ["nobody", "whole", "whole", "<no id>'"])
    assert (compared["run"], compared["settings"]) == (found["run"], found["settings"])
    assert set(compared["curves"]) >= {"training loss", "score"}
    assert [one["run_id"] for one in run_queries.runs_of(history) if one["run_id"] == "whole"]


def test_a_fork_begins_with_what_its_parent_had_grown(engine: Engine, bus: NamedBus) -> None:
    started = {**example("RunStarted"), "run_id": "forked"}
    forked = {**example("RunForked"), "run_id": "forked", "sequence": 1, "step": 70}
    seed = {**forked["seeds"][0], "layer": "a", "seed": 0, "stage": "FOSSILIZED", "family": "mlp"}
    forked["seeds"] = [seed, {**seed, "seed": 1, "stage": "DORMANT"}]
    moved = {**example("SeedTransitioned"), "run_id": "forked", "sequence": 2, "step": 80}
    history = told(
        engine, bus, ("RunStarted", started), ("RunForked", forked), ("SeedTransitioned", moved)
    )
    found = run_queries.run_of(history, "forked")
    assert found is not None
    (first, second) = found["moves"]
    assert (first["layer"], first["seed"], first["to_stage"], first["step"]) == (
        "a",
        0,
        "FOSSILIZED",
        70,
    )
    assert (first["inherited"], second["inherited"], second["step"]) == (True, False, 80)
    parent = run_queries.run_of(history, forked["parent_run_id"])
    assert parent is None or parent["forks"] == [{"run_id": "forked", "step": 70}]


def test_health_is_a_mean_over_a_layer_s_seeds_and_a_column(engine: Engine, bus: NamedBus) -> None:
    started = {**example("RunStarted"), "run_id": "healthy"}
    layer = started["layers"][0]["name"]

    def health(seed: int, number: int, value: float) -> tuple[str, dict[str, Any]]:
        changed = {"run_id": "healthy", "layer": layer, "seed": seed, "step": number}
        return "SeedHealth", {**example("SeedHealth"), **changed, "health": value}

    history = told(
        engine,
        bus,
        ("RunStarted", started),
        health(0, 0, 0.2),
        health(1, 0, 0.4),
        health(0, 99, 1.0),
    )
    found = run_queries.health_of(history, "healthy", 4)
    assert found["steps"] == [0, 25, 50, 75]
    (row, *others) = found["health"]
    assert row == [pytest.approx(0.3), None, None, 1.0]
    assert all(cell is None for other in others for cell in other)


@pytest.mark.parametrize("run", ["a'b", "x]", "", "a b", "é"])
def test_what_is_no_run_s_id_is_refused(engine: Engine, run: str) -> None:
    with pytest.raises(UsageError, match="esper runs"):
        run_queries.curves_of(FolderSource(engine), [run], ["score"], points=3, first=0, last=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"b": {"c": 1}}, "d": [1, {"e": 2}]}', {"a.b.c": 1, "d": [1, {"e": 2}]}),
        ('{"empty": {}}', {"empty": {}}),
        ("[1]", {}),
        ("", {}),
        ("{", {}),
        ("[" * 100_000, {}),
    ],
)
def test_settings_are_flat_whatever_they_are(text: str, expected: dict[str, Any]) -> None:
    assert run_queries.flat(text) == expected
