"""Claims about custom metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.errors import RejectedError, UsageError
from esper.events import Origin
from esper.events.records import MetricLabel, MetricRecorded
from esper_processors.nissa import custom
from esper_processors.nissa.custom import SERIES_LIMIT, Definition, declare, validate
from esper_processors.nissa.rows import RunRows

DEPTH = Definition(
    name="queue_depth", kind="gauge", help="Jobs that wait", labels=("queue", "zone")
)
SENT = Definition(name="mails_sent", kind="counter", help="Mails sent")
KNOWN = {one.name: one for one in (DEPTH, SENT)}
LABELS = {"queue": "a", "zone": "b"}


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"name": "9lives"}, "the first no digit"),
        ({"name": "queue-depth"}, "take letters"),
        ({"name": "jobs_total"}, "leave it out"),
        ({"labels": ("__name",)}, "label name"),
        ({"labels": ("a", "a")}, "twice"),
        ({"labels": tuple("abcdefghi")}, "most is 8"),
    ],
)
def test_names_follow_prometheus_grammar(changed: dict[str, Any], remedy: str) -> None:
    """A name or label that Prometheus does not take is refused in a sentence with the remedy."""
    with pytest.raises(UsageError, match=remedy):
        declare(replace(DEPTH, **{"name": "fresh", **changed}), {})


@pytest.mark.parametrize("name", ["esper_training_loss", "esper_anything", "queue_depth"])
def test_a_name_that_stands_is_refused(name: str) -> None:
    """Built-in names and other definitions' names cannot be taken.

    The same definition again is no news.
    """
    with pytest.raises(RejectedError):
        declare(replace(SENT, name=name), KNOWN)
    assert declare(DEPTH, {})
    assert not declare(DEPTH, KNOWN)
    assert custom.decode(custom.encode(DEPTH)) == DEPTH


@pytest.mark.parametrize(
    ("name", "value", "labels", "remedy"),
    [
        ("nobody", 1, {}, "define it"),
        ("queue_depth", "1", LABELS, "send a number"),
        ("queue_depth", True, LABELS, "send a number"),
        ("queue_depth", float("nan"), LABELS, "finite"),
        ("queue_depth", float("inf"), LABELS, "finite"),
        ("mails_sent", -1, {}, "counter"),
        ("queue_depth", 1, {**LABELS, "shard": "1"}, "no label 'shard'"),
        ("queue_depth", 1, {"queue": "a"}, "lacks the label 'zone'"),
        ("queue_depth", 1, {"queue": "a", "zone": 3}, "no text"),
        ("queue_depth", 1, {"queue": "a", "zone": "z" * 129}, "128 characters"),
    ],
)
def test_samples_are_held_against_their_definition(
    name: str, value: Any, labels: dict[str, Any], remedy: str
) -> None:
    """Unknown name, wrong type, non-finite value, unknown or missing label: each is refused, saying
    what to do.
    """
    with pytest.raises(UsageError, match=remedy):
        validate(name, value, labels, KNOWN, set())


def test_cardinality_is_bounded() -> None:
    """The hundred-and-first combination of label values is refused, one that stands
    already is not.
    """
    present = {(("queue", str(number)), ("zone", "b")) for number in range(SERIES_LIMIT)}
    assert validate("queue_depth", 1, {"queue": "7", "zone": "b"}, KNOWN, present).value == 1.0
    with pytest.raises(UsageError, match="fewer values"):
        validate("queue_depth", 1, {"queue": "new", "zone": "b"}, KNOWN, present)


def recorded(value: float, at: ManualClock, sender: str = "nissa") -> MetricRecorded:
    """A sample as an event."""
    labels = tuple(MetricLabel(name=name, value=text) for name, text in sorted(LABELS.items()))
    envelope = Origin("", sender, "0" * 32, at).envelope(f"metric/{value}")
    return MetricRecorded(**envelope, name="queue_depth", value=value, unit="", labels=labels)


def test_the_newest_value_of_a_series_stays_in_the_table() -> None:
    """A sample that comes late or twice does not replace a newer one, and other bytes of the table
    are no series.
    """
    clock = ManualClock()
    old = recorded(1.0, clock)
    clock.advance(1)
    rows = RunRows({b"run": b"{}"})
    for event in (recorded(2.0, clock), old, recorded(2.0, clock)):
        rows.take("telemetry.custom", event, 0)
    assert [(one.name, dict(one.labels), one.value) for one in rows.series()] == [
        ("queue_depth", LABELS, 2.0)
    ]
