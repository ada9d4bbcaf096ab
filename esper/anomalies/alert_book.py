"""From findings to alerts: raised once, resolved, limited in number, silenced by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from esper.anomalies.anomaly import Anomaly, Finding, Severity, Subject

Withheld = Literal["", "SILENCED", "LIMITED"]
"""Why an alert is not shown to anybody; empty where it is."""
HOUR_US = 3_600_000_000
_CAUSES = 8  # ids of events that an alert keeps


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition from its first anomaly to its end.

    Attributes:
        subject: The detector, and what it is about.
        severity: The worst that it has been.
        raised_us: Time of the first anomaly, microseconds since 1970.
        step: Optimizer steps completed then; -1 where unknown.
        epoch: Epochs completed then; -1 where unknown.
        sentence: What happened, as its first anomaly of this severity says.
        value: What was measured then.
        expected: What is usual, or the limit.
        event_ids: The first events that caused it.
        anomalies: How many anomalies it stands for.
        last_us: Time of the latest.
        resolved_us: When it was over; None while it holds.
        withheld: Why it was not raised; empty where it was.
    """

    subject: Subject
    severity: Severity
    raised_us: int
    step: int
    epoch: int
    sentence: str
    value: float
    expected: float
    event_ids: tuple[str, ...]
    anomalies: int
    last_us: int
    resolved_us: int | None = None
    withheld: Withheld = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """A rule that withholds alerts.

    Attributes:
        until_us: When it ends, microseconds since 1970.
        detector: Pattern of detectors, as file names have them (`*`, `?`).
        run: Pattern of run ids.
        layer: Pattern of layers; what is about no layer has an empty one.
    """

    until_us: int
    detector: str = "*"
    run: str = "*"
    layer: str = "*"

    def covers(self, subject: Subject, when_us: int) -> bool:
        """Whether it withholds alerts of `subject` at that time."""
        return (
            when_us < self.until_us
            and fnmatchcase(subject.detector, self.detector)
            and fnmatchcase(subject.run_id, self.run)
            and fnmatchcase(subject.layer, self.layer)
        )


@dataclass(frozen=True, slots=True)
class AlertRules:
    """What is withheld.

    Attributes:
        per_hour: Alerts that one detector may raise in one run within an hour.
        silences: Rules of people.
    """

    per_hour: int = 6
    silences: tuple[Silence, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertBook:
    """Alerts that hold, and what limits need to know: small, and can be pickled.

    Attributes:
        held: Alerts that hold, those that are withheld among them.
        raised_us: When the alerts of a run and detector were raised, within the last hour.
        limited: How many alerts of a run and detector were withheld by the limit.
    """

    held: Mapping[Subject, Alert] = field(default_factory=dict)
    raised_us: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    limited: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def open(self) -> list[Alert]:
        """Alerts that hold and are not withheld, the worst first, then the oldest."""
        shown = [alert for alert in self.held.values() if not alert.withheld]
        return sorted(shown, key=lambda one: (one.severity != "CRITICAL", one.raised_us))


@dataclass(frozen=True, slots=True)
class AlertChange:
    """What became of an alert: it was raised, or is over. Others hear of it by this."""

    kind: Literal["RAISED", "WORSE", "RESOLVED"]
    alert: Alert


def fold(
    book: AlertBook, findings: Sequence[Finding], rules: AlertRules
) -> tuple[AlertBook, list[AlertChange]]:
    """The book after some findings, and what others should hear.

    An alert that is withheld is raised later if its condition still holds when the silence has
    ended or the hour is over.
    """
    changes: list[AlertChange] = []
    for finding in findings:
        book, change = (
            _anomaly(book, finding, rules)
            if isinstance(finding, Anomaly)
            else _cleared(book, finding.subject, finding.when_us)
        )
        changes += change
    return book, changes


def _cleared(
    book: AlertBook, subject: Subject, when_us: int
) -> tuple[AlertBook, list[AlertChange]]:
    alert = book.held.get(subject)
    if alert is None:
        return book, []
    held = {key: one for key, one in book.held.items() if key != subject}
    resolved = replace(alert, resolved_us=when_us)
    return replace(book, held=held), [] if alert.withheld else [AlertChange("RESOLVED", resolved)]


def _anomaly(
    book: AlertBook, anomaly: Anomaly, rules: AlertRules
) -> tuple[AlertBook, list[AlertChange]]:
    subject, when_us = anomaly.subject, anomaly.when_us
    before = book.held.get(subject)
    if before is not None and not before.withheld:
        alert = _again(before, anomaly)
        worse = alert.severity != before.severity
        return _holding(book, alert), [AlertChange("WORSE", alert)] if worse else []
    pair = (subject.run_id, subject.detector)
    recent = tuple(one for one in book.raised_us.get(pair, ()) if one > when_us - HOUR_US)
    silenced = any(silence.covers(subject, when_us) for silence in rules.silences)
    withheld: Withheld = (
        "SILENCED" if silenced else "LIMITED" if len(recent) >= rules.per_hour else ""
    )
    alert = replace(_again(before, anomaly) if before else _first(anomaly), withheld=withheld)
    if withheld:
        limited = book.limited
        if withheld == "LIMITED" and (before is None or before.withheld != "LIMITED"):
            limited = {**limited, pair: limited.get(pair, 0) + 1}
        return replace(_holding(book, alert), limited=limited), []
    raised = {**book.raised_us, pair: (*recent, when_us)}
    return replace(_holding(book, alert), raised_us=raised), [AlertChange("RAISED", alert)]


def _holding(book: AlertBook, alert: Alert) -> AlertBook:
    return replace(book, held={**book.held, alert.subject: alert})


def _first(anomaly: Anomaly) -> Alert:
    return Alert(
        subject=anomaly.subject,
        severity=anomaly.severity,
        raised_us=anomaly.when_us,
        step=anomaly.step,
        epoch=anomaly.epoch,
        sentence=anomaly.sentence,
        value=anomaly.value,
        expected=anomaly.expected,
        event_ids=anomaly.event_ids[:_CAUSES],
        anomalies=1,
        last_us=anomaly.when_us,
    )


def _again(alert: Alert, anomaly: Anomaly) -> Alert:
    """The alert with one more anomaly; what it says changes only if that is worse."""
    ids = tuple(dict.fromkeys((*alert.event_ids, *anomaly.event_ids)))[:_CAUSES]
    alert = replace(alert, anomalies=alert.anomalies + 1, last_us=anomaly.when_us, event_ids=ids)
    if alert.severity in (anomaly.severity, "CRITICAL"):
        return alert
    return replace(
        alert,
        severity=anomaly.severity,
        sentence=anomaly.sentence,
        value=anomaly.value,
        expected=anomaly.expected,
    )
