"""Anomalies in the events of a run, and alerts from them.

Pure, the same live and over a record: times and settings are passed in.
"""

from __future__ import annotations

from esper.anomalies.alert_book import Alert, AlertBook, AlertChange, AlertRules, Silence, fold
from esper.anomalies.anomaly import Anomaly, Cleared, Finding, Subject
from esper.anomalies.observer import DETECTORS, READ, Observer, ObserverState
from esper.anomalies.thresholds import Thresholds

__all__ = [
    "DETECTORS",
    "READ",
    "Alert",
    "AlertBook",
    "AlertChange",
    "AlertRules",
    "Anomaly",
    "Cleared",
    "Finding",
    "Observer",
    "ObserverState",
    "Silence",
    "Subject",
    "Thresholds",
    "fold",
]
