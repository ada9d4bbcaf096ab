"""What `esper alerts` prints of a run with faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.cli.views.alerts import _examined, _show, _told, open_of
from esper.events import Event
from esper.events.records import RunCompleted
from esper.json_text import json_text
from tests.unit.anomalies.planted import EPOCH, PLANTS, clean_run, seeded

RUN = {"run_id": "planted", "recipe": "digits", "state": "FINISHED"}
AT = 15 * EPOCH


def with_faults(*names: str) -> list[Event]:
    """A run with these faults."""
    random = seeded(3)
    events = clean_run(random)
    for name in names:
        events = PLANTS[name](random, events, AT)
    return events


def test_a_clean_run_has_a_trend_and_no_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    """In two lines."""
    events = with_faults()
    _show(_examined(RUN, events, events[-1].occurred_at))
    first, second, *bends = capsys.readouterr().out.splitlines()
    assert (first, bends) == ("Run planted (digits, FINISHED): no alerts.", [])
    assert second.startswith("Held-out loss falls: -")
    assert "95 % between -" in second


def test_a_run_of_which_only_the_end_was_read_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, and in the JSON."""
    events = with_faults()
    one = replace(_examined(RUN, events, events[-1].occurred_at), cut=("TrainingStep",))
    _show(one)
    assert "Only the latest 100,000 of these events were read: TrainingStep." in (
        capsys.readouterr().out.splitlines()
    )
    assert _told(one)["latest_only"] == ["TrainingStep"]


def test_faults_are_told_in_order_with_place_and_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A row each: how bad, whether it is over, when, what, where, and in words."""
    events = with_faults("gradient_explosion", "dead_layer", "slow_step")
    one = _examined(RUN, events, events[-1].occurred_at)
    _show(one)
    first, head, *rows, trend = capsys.readouterr().out.splitlines()
    assert first == "Run planted (digits, FINISHED): 3 alerts, 1 of which held at its end."
    assert head.split() == ["severity", "state", "epoch", "step", "what", "where", "happened"]
    assert trend.startswith("Held-out loss")
    by_detector = {alert.subject.detector: row for alert, row in zip(one.alerts, rows, strict=True)}
    assert by_detector["gradient_explosion"].split()[:2] == ["CRITICAL", "over"]
    dead = by_detector["dead_layer"]
    assert dead.startswith("CRITICAL  held to the end")
    assert " b  " in dead
    assert "Layer b is dead" in dead
    assert [alert.subject.detector for alert in open_of(one)] == ["dead_layer"]


def test_a_run_that_says_nothing_is_found_by_the_time() -> None:
    """Whatever its events say; and one that has ended is not."""
    events = with_faults()
    later = events[-1].occurred_at + 10**12
    assert _examined(RUN, events, later).alerts == []
    (alert,) = _examined(RUN | {"state": "RUNNING"}, events[:-1], later).alerts
    assert isinstance(events[-1], RunCompleted)
    assert alert.subject.detector == "stale_telemetry"


def test_scripts_get_every_field() -> None:
    """Subject and alert in one object; what is not finite is null."""
    events = with_faults("loss_not_finite")
    told = _told(_examined(RUN, events, events[-1].occurred_at))
    (alert,) = told["alerts"]
    assert (alert["detector"], alert["layer"], alert["seed"], alert["open"]) == (
        "loss_not_finite",
        "",
        -1,
        True,
    )
    assert alert["event_ids"][0] == f"TrainingStep-{AT}"
    assert '"value": null' in json_text(told)
    assert told["held_out_loss"]["points"] == 20


def test_a_run_without_events_has_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even a trend."""
    _show(_examined(RUN, [], 0))
    assert capsys.readouterr().out == "Run planted (digits, FINISHED): no alerts.\n"
