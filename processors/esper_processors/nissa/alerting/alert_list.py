"""Alerts as `observability.alerts` tells them, the latest. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from esper.events import Event
from esper.events.records import AlertRaised, AlertResolved
from esper_processors.nissa.alerting.notices import Notice

ALERTS = 1_000
"""Alerts that are listed at most, the latest."""
IDS = 10_000


class AlertList:
    """The fold of the topic; what comes twice changes nothing."""

    def __init__(self) -> None:
        self._alerts: OrderedDict[str, Notice] = OrderedDict()
        self._ids: OrderedDict[str, None] = OrderedDict()

    def take(self, event: Event) -> None:
        """Note an event of the topic."""
        self._ids[event.event_id] = None
        if len(self._ids) > IDS:
            self._ids.popitem(last=False)
        if not isinstance(event, AlertRaised | AlertResolved):
            return
        # partitions have no order among them: an end stays the end
        if isinstance(self._alerts.get(event.alert_id), AlertResolved):
            return
        self._alerts[event.alert_id] = event
        if len(self._alerts) > ALERTS:
            self._alerts.popitem(last=False)

    def has(self, event: Event) -> bool:
        """Whether this event is on the topic already."""
        return event.event_id in self._ids

    def over(self, run_id: str = "") -> list[dict[str, Any]]:
        """Alerts of a run, or of all, that are over."""
        return [
            as_row(alert)
            for alert in self._alerts.values()
            if isinstance(alert, AlertResolved) and run_id in ("", alert.run_id)
        ]


def as_row(notice: Notice, withheld: str = "") -> dict[str, Any]:
    """An alert for the API; times in microseconds since 1970.

    `withheld` says why nobody was told: SILENCED or LIMITED.
    """
    ended = isinstance(notice, AlertResolved)
    return {
        "alert_id": notice.alert_id,
        "run_id": notice.run_id,
        "detector": notice.detector,
        "layer": notice.layer,
        "seed": notice.seed,
        "severity": notice.severity,
        "epoch": notice.epoch,
        "step": notice.step,
        "sentence": notice.sentence,
        "raised_at": notice.raised_at,
        "count": notice.count,
        "evidence": list(notice.evidence),
        "open": not ended,
        "withheld": withheld,
        "resolved_at": notice.resolved_at if isinstance(notice, AlertResolved) else None,
        "why": notice.why if isinstance(notice, AlertResolved) else None,
    }
