"""What `esper watch` draws."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from esper.cli.views.watch import _picture

RUN = {
    "run_id": "mine",
    "recipe": "digits",
    "state": "RUNNING",
    "epochs": 3,
    "steps": 60,
    "total_steps": 120,
    "seconds": 4.2,
    "parameters": 900,
    "host_parameters": 754,
}


def drawn(**changed: Any) -> str:
    """The picture as text, without colours."""
    seen = {
        "run": RUN,
        "epochs": [],
        "train": [],
        "seeds": [["first", 0], ["first", 1]],
        "moves": [],
        "decisions": [],
        "alerts": [],
    } | changed
    console = Console(file=io.StringIO(), width=120)
    console.print(_picture(seen))
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # a StringIO


def moves(*path: tuple[int, str]) -> list[dict[str, Any]]:
    """Of the first seed, in the order of the journal."""
    return [{"layer": "first", "seed": 0, "step": step, "stage": stage} for step, stage in path]


def line(text: str, place: str) -> str:
    """The letters of a seed."""
    (found,) = [one for one in text.splitlines() if one.startswith(place)]
    return found.removeprefix(place).strip()


def test_a_run_that_has_just_begun_says_so() -> None:
    """No step, no decision, seeds that sleep."""
    text = drawn(run=RUN | {"steps": 0, "epochs": 0})
    assert "mine  digits, RUNNING: epoch 0, step 0 of 120, 4 s; 900 parameters (+146)" in text
    assert "no step was told yet" in text
    assert "Tamiyo has decided nothing yet." in text
    assert line(text, "first[1]") == "·"


def test_a_seed_is_drawn_up_to_now() -> None:
    """Two steps a letter here, and no further than the run has come."""
    path = moves((20, "GERMINATED"), (20, "TRAINING"), (40, "BLENDING"), (50, "FOSSILIZED"))
    text = drawn(moves=path)
    assert line(text, "first[0]") == "·" * 10 + "t" * 10 + "b" * 5 + "█" * 6
    assert line(text, "first[1]") == "·" * 31
    assert "t training" in text
    assert "culled" not in text


def test_what_a_rollback_has_undone_is_not_drawn() -> None:
    """The seed went back at step 30, whatever it had been later."""
    path = moves((20, "TRAINING"), (40, "BLENDING"), (30, "RESETTING"), (30, "DORMANT"))
    assert line(drawn(moves=path), "first[0]") == "·" * 10 + "t" * 5 + "·" * 16


def test_of_many_seeds_those_are_drawn_that_moved() -> None:
    """The others are counted."""
    seeds = [["first", index] for index in range(1000)]
    text = drawn(seeds=seeds, moves=moves((20, "TRAINING")))
    assert [one for one in text.splitlines() if one.startswith("first[")] == [
        "first[0]  " + "·" * 10 + "t" * 21
    ]
    assert "and 999 more seeds" in text


def test_alerts_stand_below_the_head_three_at_most() -> None:
    """The worst first, as they are given; the others are counted."""
    alerts = [
        {"severity": severity, "detector": "d", "step": 9, "sentence": f"Fault {number}."}
        for number, severity in enumerate(("CRITICAL", "WARNING", "WARNING", "WARNING", "WARNING"))
    ]
    lines = drawn(alerts=alerts).splitlines()
    assert lines[1:5] == [
        "CRITICAL  Fault 0.",
        "WARNING  Fault 1.",
        "WARNING  Fault 2.",
        "and 2 more: esper alerts mine",
    ]


def test_names_of_others_move_no_terminal() -> None:
    """Markup and escape sequences in names are letters."""
    hostile = "[red]\x1b[2J[/]"
    text = drawn(
        run=RUN | {"run_id": hostile, "recipe": hostile},
        epochs=[{"epoch": 1, "validation_loss": None, "score": 0.5, "score_name": hostile}],
        seeds=[[hostile, 0]],
        moves=[{"layer": hostile, "seed": 0, "step": 3, "stage": "TRAINING"}],
        alerts=[{"severity": "WARNING", "detector": "d", "step": 1, "sentence": hostile}],
        decisions=[
            {
                "epoch": 1,
                "decision_id": "1234567890",
                "command": "GERMINATE",
                "family": hostile,
                "layer": hostile,
                "seed": 0,
                "confidence": 0.5,
                "answer": "OPEN",
                "verdict": None,
                "shadow_gap": None,
            }
        ],
    )
    assert "\x1b" not in text
    assert text.count("[red]") >= 4
    assert "held-out loss" not in text
