"""What `esper run` says at its end."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esper.cli.shared.summary import show
from esper.events.records import SeedTransitioned
from esper.lifecycle import EXECUTION, RunState
from esper.tolaria.run.assembly import Finished
from esper.tolaria.run.trainer import RunOutcome

PATH = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"]


def moves(stages: list[str], family: str, first_epoch: int) -> list[SeedTransitioned]:
    """A seed's path, an epoch a stage."""
    envelope: dict[str, Any] = {
        "event_id": "",
        "occurred_at": 0,
        "run_id": "r",
        "sender_id": "trainer",
        "trace_id": "",
        "timeline": 0,
    }
    return [
        SeedTransitioned(
            **envelope,
            sequence=number,
            epoch=first_epoch + number,
            step=0,
            layer="first",
            seed=0,
            from_stage="DORMANT",
            to_stage=stage,  # type: ignore[arg-type]  # one of the stages
            execution=EXECUTION[stage],  # type: ignore[index]  # the same
            kernel_id="",
            family=family,
            decision_id="",
            alpha=0.0,
            alpha_target=0.0,
            reason="",
        )
        for number, stage in enumerate(stages)
    ]


def said(outcome: str, **changed: Any) -> list[str]:
    """The summary of a run as lines."""
    fields: dict[str, Any] = {
        "run_id": "mnist1d-1",
        "outcome": RunOutcome(
            outcome,
            0.877,
            0.58,
            22310,
            "d1" * 32,
            2800,
            80,
            {"accuracy": 0.877},
            0.877,
            "accuracy",
            "accuracy 87.7%",
        ),
        "seconds": 48.2,
        "longest_step_s": 0.1,
        "start": {"imports": 2.0, "total": 2.0},
        "state": RunState("mnist1d-1"),
        "paths": {
            ("first", 0): [
                *moves(["GERMINATED", "TRAINING", "CULLED", "EMBARGOED", "DORMANT"], "mlp", 2),
                *moves(PATH, "conv1d", 8),
            ]
        },
        "growth": "Grew conv1d at first[0].",
        "events": {"system.events.run": 281, "telemetry.training.step": 2800},
        "model_path": Path("model.safetensors"),
        "history_path": Path("history"),
        "history_complete": True,
    }
    text = io.StringIO()
    show(Console(file=text, width=200), Finished(**(fields | changed)), "mnist1d")
    return [line.strip() for line in text.getvalue().splitlines()]


def test_the_end_of_a_run_in_words() -> None:
    """Figures, growth, each seed's kernels (losers in short, the others with their path), events by
    topic, and commands to go on with.
    """
    lines = said("FINISHED")
    assert (
        "Run mnist1d-1 finished: test accuracy 87.7%, loss 0.580, 80 epochs, 2800 steps, "
        "22,310 parameters, 48 s."
    ) in lines
    assert "Grew conv1d at first[0]." in lines
    assert "first[0]  mlp 2-4 CULLED" in lines
    assert (
        "conv1d GERMINATED 8 → TRAINING 9 → BLENDING 10 → SHADOWING 11 → PROBATIONARY 12 → "
        "FOSSILIZED 13"
    ) in lines
    assert any(line.split() == ["telemetry.training.step", "2,800"] for line in lines)
    assert any(line.endswith("replay fold mnist1d-1") for line in lines)
    assert not any("--resume" in line for line in lines)


@pytest.mark.parametrize(
    ("outcome", "changed", "sentence"),
    [
        ("INTERRUPTED", {}, "run mnist1d --resume --run-id mnist1d-1"),
        (
            "FINISHED",
            {"state": RunState("r", lost=(("telemetry.training.step", 7),))},
            "7 telemetry events were dropped",
        ),
        ("FINISHED", {"history_complete": False}, "The history has not taken in everything yet"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(
    outcome: str, changed: dict[str, Any], sentence: str
) -> None:
    """A run that was interrupted, dropped telemetry or left the history behind says so, and what to
    do.
    """
    assert any(sentence in line for line in said(outcome, **changed))
