"""What Nissa says of anomalies and alerts: the events of `observability.alerts`. Pure."""

from __future__ import annotations

from typing import Any

from esper.anomalies import Alert, Anomaly, Subject
from esper.anomalies.anomaly import Severity
from esper.clock import Clock
from esper.events import Event, Origin, event_id
from esper.events.records import AlertEnd, AlertRaised, AlertResolved, AnomalyDetected

TOPIC = "observability.alerts"
SENDER = "nissa"
SENTENCE_CHARACTERS = 2_000
"""A sentence may have the error of somebody's program in it, of any length."""
EVIDENCE = 8
_UNTRACED = "0" * 32

Notice = AlertRaised | AlertResolved
"""What routes hear."""


def alert_id(subject: Subject, raised_us: int) -> str:
    """The id of the alert of a subject that was first found at that time."""
    where = f"{subject.detector}/{subject.layer}/{subject.seed}"
    return event_id(subject.run_id, 0, f"alert/{where}/{raised_us}")


def detected(anomaly: Anomaly, clock: Clock, cause: Event | None) -> AnomalyDetected:
    """That a condition began to hold, or became worse, because of an event."""
    key = f"anomaly/{anomaly.when_us}/{anomaly.severity}"
    return AnomalyDetected(
        **_envelope(anomaly.subject, key, clock, cause),
        **_place(anomaly.subject, anomaly.severity, anomaly.sentence, anomaly.event_ids),
        epoch=anomaly.epoch,
        step=anomaly.step,
        detected_at=anomaly.when_us,
        value=anomaly.value,
        expected=anomaly.expected,
    )


def raised(alert: Alert, clock: Clock, cause: Event | None = None) -> AlertRaised:
    """That an alert is raised, or became worse."""
    key = f"raised/{alert.raised_us}/{alert.severity}"
    return AlertRaised(
        **_envelope(alert.subject, key, clock, cause),
        **_place(alert.subject, alert.severity, alert.sentence, alert.event_ids),
        alert_id=alert_id(alert.subject, alert.raised_us),
        epoch=alert.epoch,
        step=alert.step,
        raised_at=alert.raised_us,
        count=alert.anomalies,
        value=alert.value,
        expected=alert.expected,
    )


def resolved(
    alert: Alert, when_us: int, why: AlertEnd, clock: Clock, cause: Event | None = None
) -> AlertResolved:
    """That an alert is over."""
    return AlertResolved(
        **_envelope(alert.subject, f"resolved/{alert.raised_us}", clock, cause),
        **_place(alert.subject, alert.severity, alert.sentence, alert.event_ids),
        alert_id=alert_id(alert.subject, alert.raised_us),
        epoch=alert.epoch,
        step=alert.step,
        raised_at=alert.raised_us,
        resolved_at=when_us,
        # topics have no order among them: what ends a condition may be older than what began it
        held_us=max(when_us - alert.raised_us, 0),
        why=why,
        count=alert.anomalies,
    )


def _envelope(subject: Subject, key: str, clock: Clock, cause: Event | None) -> dict[str, Any]:
    where = f"{subject.detector}/{subject.layer}/{subject.seed}"
    trace = cause.trace_id if cause is not None else ""
    return Origin(subject.run_id, SENDER, trace or _UNTRACED, clock).envelope(
        f"alerts/{where}/{key}", causation_id=None if cause is None else cause.event_id
    )


def _place(
    subject: Subject, severity: Severity, sentence: str, event_ids: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "detector": subject.detector,
        "layer": subject.layer,
        "seed": subject.seed,
        "severity": severity,
        "sentence": sentence[:SENTENCE_CHARACTERS],
        "evidence": event_ids[:EVIDENCE],
    }
