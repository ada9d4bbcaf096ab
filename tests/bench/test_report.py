"""`esper bench`: shape and sanity of its report. No test here judges a duration."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper.bench import (
    decisions,
    estimate,
    events,
    history,
    journals,
    kernels,
    own_loops,
    restores,
    snapshots,
    steps,
    whole,
)
from esper.bench.figure_registry import FIGURES, Bench, Figure
from esper.bench.report import FAMILIES, chosen, measure
from esper.clock import SystemClock
from esper.errors import UnavailableError, UsageError
from tests import commands

SMALL: dict[Any, dict[str, Any]] = {
    steps: {"_ROUNDS": 3, "_FORWARDS": 3, "_STEPS": 3},
    own_loops: {"_ROUNDS": 2, "_LARGE_ROUNDS": 2},
    kernels: {"_OPERATIONS": 1000, "_ROUNDS": 2, "_GRAFTS": 10},
    snapshots: {
        "_SIZES": {"10mb": (1 << 20, 2), "100mb": (1 << 20, 2), "1gb": (1 << 20, 2)},
        "_STEPS": 2,
    },
    restores: {"_BYTES": 1 << 22, "_ROUNDS": 2},
    events: {"_EVENTS": 50, "_ROUNDS": 2, "_SENT": 200, "_EMITTED": 50},
    journals: {"_EVENTS": 60, "_LONG": 300, "_ROUNDS": 2, "_SAMPLED": 50},
    decisions: {"_EPOCHS": 3},
    history: {"MESSAGES": 2000, "_VISIBLE": 3},
    whole: {"EPOCHS": 4, "_SIGNALS": 3},
}
DIFFERENCES = {
    "dormant_overhead_layer",
    "health_signal",
    "own_loop_dormant",
    "own_loop_noise",
    "one_active_kernel",
    "four_active_kernels",
    "fold_long_memory",
}
"""Figures that are the difference of two noisy times, and may have any sign."""


def reported(monkeypatch: pytest.MonkeyPatch, figures: list[Figure]) -> dict[str, Any]:
    """The report of these figures with few rounds, as JSON gives it back."""
    for module, constants in SMALL.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)  # refuses a name that is not there
    found: dict[str, Any] = json.loads(
        json.dumps(measure(figures, clock=SystemClock(), progress=lambda _: None))
    )
    return found


def check(name: str, row: dict[str, Any]) -> None:
    """A row that was measured is whole and does not contradict itself."""
    assert row["figure"] is not None, row
    low, high = row["interval"]
    assert all(math.isfinite(value) for value in (low, row["figure"], high))
    assert low <= row["figure"] <= high
    assert row["command"] == f"esper bench --only {name}"
    assert row["met"] is FIGURES[name].met(row["figure"])
    if row["unit"] != "%" and name not in DIFFERENCES:
        assert low > 0


def test_every_figure_says_what_it_is() -> None:
    """Names are lower-case words, each family has figures, a figure has at most one bar, and its
    words and its verdict agree.
    """
    assert {one.family for one in FIGURES.values()} == {
        module.__name__.rpartition(".")[2] for module in FAMILIES
    }
    for name, one in FIGURES.items():
        assert name == one.name == name.lower()
        assert one.about
        assert one.unit
        assert one.at_most is None or one.at_least is None
        limit = one.at_most if one.at_most is not None else one.at_least
        assert bool(one.bar) is (limit is not None)
        if limit is not None:
            better, worse = (
                (limit * 0.9, limit * 1.1)
                if one.at_most is not None
                else (limit * 1.1, limit * 0.9)
            )
            assert (one.met(better), one.met(worse), one.met(limit)) == (True, False, True)
            assert one.bar.startswith("<=" if one.at_most is not None else ">=")


@pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled"
)  # async_save says so in one process
@pytest.mark.parametrize(
    "families",
    [
        {"events", "journals", "decisions", "steps", "snapshots"},
        pytest.param({"own_loops", "kernels", "restores", "history"}, marks=pytest.mark.variant),
    ],
    ids=("light", "heavy"),
)
def test_every_family_is_measured_and_reported(
    monkeypatch: pytest.MonkeyPatch, families: set[str]
) -> None:
    """With few rounds, every figure but those of the whole stack comes out of real parts, finite,
    within its interval.
    """
    figures = [one for one in FIGURES.values() if one.family in families]
    report = reported(monkeypatch, figures)
    assert set(report["figures"]) == {one.name for one in figures}
    for name, row in report["figures"].items():
        check(name, row)
    assert report["machine"]["cores"] > 0
    assert report["machine"]["processor"]
    assert report["version"]


@pytest.mark.variant
def test_the_whole_stack_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of its own is started, trained on and looked at: memory of every process, and Nissa's
    delay.
    """
    report = reported(
        monkeypatch,
        [one for one in FIGURES.values() if one.family == "whole" and one.name != "cache_hit_rate"],
    )
    for name, row in report["figures"].items():
        check(name, row)
        if name.startswith("memory"):
            assert row["figure"] > 10


def test_a_figure_that_cannot_be_measured_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its row says why, what it shares is not tried again, and the figures after it are
    measured.
    """
    tried: list[int] = []

    def part(_: Bench) -> float:
        tried.append(1)
        raise UnavailableError("There is no such part here.")

    def broken(bench: Bench) -> estimate.Estimate:
        return estimate.exactly(bench.once(part))

    one = Figure("broken", "test", "what cannot be", "s", broken)
    good = Figure(
        "good",
        "test",
        "what can",
        "s",
        lambda bench: estimate.exactly(float(bench.folder.is_dir())),
        at_least=1,
    )
    rows = reported(monkeypatch, [one, Figure("again", "test", "the same", "s", broken), good])[
        "figures"
    ]
    assert rows["broken"]["error"] == rows["again"]["error"] == "There is no such part here."
    assert (rows["broken"]["figure"], rows["broken"]["met"]) == (None, None)
    assert len(tried) == 1
    assert (rows["good"]["figure"], rows["good"]["met"], rows["good"]["bar"]) == (1.0, True, ">= 1")


def test_the_command_prints_one_object_and_refuses_unknown_names(tmp_path: Path) -> None:
    """`--json` leaves one object on standard output, `--list` names every figure, and a misspelt
    name is refused with the nearest.
    """

    def esper(*arguments: str) -> subprocess.CompletedProcess[str]:
        return commands.run("bench", *arguments, cwd=tmp_path)

    report = json.loads(esper("--json", "--only", "cache_operations").stdout)
    assert list(report) == ["machine", "version", "commit", "figures"]
    check("cache_operations", report["figures"]["cache_operations"])
    assert [one["name"] for one in json.loads(esper("--list", "--json").stdout)] == list(FIGURES)
    refused = esper("--only", "encod")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "Did you mean encode?" in refused.stderr
    table = esper("--only", "cache_operations").stdout
    assert "cache_operations" in table
    assert ">= 100,000" in table


def test_names_and_families_choose_in_the_order_of_measurement() -> None:
    """A family stands for its figures; nothing stands for all.

    A name that resembles none is refused.
    """
    assert [one.name for one in chosen(["graft", "decisions"])] == [
        name for name, one in FIGURES.items() if name == "graft" or one.family == "decisions"
    ]
    assert len(chosen([])) == len(FIGURES)
    with pytest.raises(UsageError, match="There is no figure nothing at all"):
        chosen(["nothing at all"])


def test_estimates_are_what_they_say() -> None:
    """Median, 99th percentile, paired overhead and rate of known samples, with intervals that hold
    them and are the same each time.
    """
    samples = np.random.default_rng(1).normal(100, 5, 400)
    middle = estimate.median(samples)
    assert middle == estimate.median(samples)
    assert middle.low < 100 < middle.high
    assert middle.high - middle.low < 4
    assert estimate.p99(samples).value == np.quantile(samples, 0.99)
    over = estimate.overhead(samples * 1.02, samples)
    assert (round(over.low, 6), round(over.value, 6), round(over.high, 6)) == (2.0, 2.0, 2.0)
    assert estimate.difference(samples + 3, samples).value == pytest.approx(3)
    assert estimate.rate(10, np.full(5, 2.0)) == estimate.Estimate(5.0, 5.0, 5.0)
    assert estimate.Estimate(1, 0.5, 2).scaled(-1) == estimate.Estimate(-1, -2, -0.5)
