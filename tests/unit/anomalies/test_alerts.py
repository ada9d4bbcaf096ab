"""How findings become alerts."""

from __future__ import annotations

import pickle

import pytest

from esper.anomalies import (
    AlertBook,
    AlertChange,
    AlertRules,
    Anomaly,
    Cleared,
    Finding,
    Silence,
    Subject,
    fold,
)
from esper.anomalies.alert_book import HOUR_US
from esper.anomalies.anomaly import Severity

SPIKE = Subject("loss_spike", "run-1")


def anomaly(when_us: int, subject: Subject = SPIKE, severity: Severity = "WARNING") -> Anomaly:
    """One at a time."""
    return Anomaly(
        subject, severity, when_us, 0, when_us, 2.0, 1.0, f"{severity} {when_us}", (f"e{when_us}",)
    )


def cleared(when_us: int, subject: Subject = SPIKE) -> Cleared:
    """Its end."""
    return Cleared(subject, when_us, 0, when_us)


def changes(
    findings: list[Finding], rules: AlertRules | None = None
) -> tuple[AlertBook, list[AlertChange]]:
    """What becomes of some findings."""
    return fold(AlertBook(), findings, rules or AlertRules())


def test_a_condition_is_one_alert_until_it_is_over() -> None:
    """Anomalies of the same subject are counted, others are alerts of their own."""
    other = Subject("loss_spike", "run-1", "a", 1)
    book, heard = changes([anomaly(1), anomaly(2), anomaly(3, other), cleared(4), anomaly(9)])
    assert [(one.kind, one.alert.subject) for one in heard] == [
        ("RAISED", SPIKE),
        ("RAISED", other),
        ("RESOLVED", SPIKE),
        ("RAISED", SPIKE),
    ]
    assert heard[2].alert.anomalies == 2
    assert heard[2].alert.resolved_us == 4
    assert heard[2].alert.event_ids == ("e1", "e2")
    assert [one.raised_us for one in book.open] == [3, 9]


def test_an_alert_becomes_worse_and_stays_so() -> None:
    """With the sentence of what was worst, first in the list."""
    critical = anomaly(2, severity="CRITICAL")
    plateau = anomaly(0, Subject("plateau", "run-1"))
    book, heard = changes([plateau, anomaly(1), critical, anomaly(3)])
    assert [one.kind for one in heard] == ["RAISED", "RAISED", "WORSE"]
    assert (book.open[0].severity, book.open[0].sentence) == ("CRITICAL", "CRITICAL 2")
    assert book.open[0].anomalies == 3


def test_no_more_alerts_than_so_many_an_hour() -> None:
    """The rest is counted, once for each condition; another run has its own."""
    findings: list[Finding] = []
    for number in range(5):
        findings += [anomaly(10 * number), anomaly(10 * number + 1), cleared(10 * number + 2)]
    findings += [anomaly(60, Subject("loss_spike", "run-2"))]
    book, heard = changes(findings, AlertRules(per_hour=2))
    raised = [one.alert.subject.run_id for one in heard if one.kind == "RAISED"]
    assert raised == ["run-1", "run-1", "run-2"]
    assert book.limited == {("run-1", "loss_spike"): 3}
    book, heard = fold(book, [anomaly(HOUR_US + 50)], AlertRules(per_hour=2))
    assert [one.kind for one in heard] == ["RAISED"]


def test_a_limited_alert_that_lasts_is_raised_when_the_hour_is_over() -> None:
    """A condition that holds is not lost to the limit."""
    rules = AlertRules(per_hour=1)
    book, _ = changes([anomaly(1), cleared(2), anomaly(3)], rules)
    assert book.open == []
    book, (raised,) = fold(book, [anomaly(HOUR_US + 2)], rules)
    assert raised.alert.raised_us == 3
    assert book.open == [raised.alert]


@pytest.mark.parametrize(
    ("silence", "withheld"),
    [
        (Silence(100), True),
        (Silence(100, detector="loss_*"), True),
        (Silence(100, run="run-?"), True),
        (Silence(100, detector="plateau"), False),
        (Silence(100, run="other"), False),
        (Silence(100, layer="a*"), False),
        (Silence(5), False),
    ],
)
def test_a_rule_withholds_what_it_covers(silence: Silence, *, withheld: bool) -> None:
    """By patterns of detector and run, until a time."""
    book, heard = changes([anomaly(10)], AlertRules(silences=(silence,)))
    assert bool(heard) is not withheld
    assert bool(book.open) is not withheld
    assert len(book.held) == 1
    _, later = fold(book, [anomaly(100)], AlertRules(silences=(silence,)))
    assert [one.kind for one in later] == (["RAISED"] if withheld else [])
    _, ended = fold(book, [cleared(11)], AlertRules())
    assert bool(ended) is not withheld


def test_a_book_survives_a_kill() -> None:
    """It is a value that can be pickled, and folding goes on from it."""
    book, _ = changes([anomaly(1), anomaly(2)])
    again = pickle.loads(pickle.dumps(book))  # noqa: S301  # its own
    assert fold(again, [cleared(3)], AlertRules()) == fold(book, [cleared(3)], AlertRules())
