"""What is known of one run: memories of its detectors, its alerts, and which events they have
seen. Pure; a clock is passed in for the times of what is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from esper.anomalies import (
    READ,
    AlertBook,
    AlertRules,
    Anomaly,
    Finding,
    Observer,
    ObserverState,
    Subject,
    fold,
)
from esper.clock import Clock
from esper.events import Event
from esper.events.records import (
    AlertEnd,
    AlertRaised,
    AlertResolved,
    AnomalyDetected,
    RunCompleted,
    RunFailed,
    RunResumed,
    RunStarted,
)
from esper_processors.nissa.alerting import notices

ROUTED_WITHIN_US = 3_600_000_000
"""An alert is recorded, but sent nowhere, where what it is about is older: a backlog, or a run that
died long ago, wakes nobody.
"""
SEEN = 256
"""Latest events of a run whose ids are kept: one that was sent twice counts once."""
Place = tuple[str, int, int]
"""Topic, partition and offset of a message."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """What has to be said, and has not been yet.

    Attributes:
        event: The event for `observability.alerts`.
        routed: Whether it goes out by the routes too.
    """

    event: AnomalyDetected | AlertRaised | AlertResolved
    routed: bool


@dataclass(frozen=True, slots=True)
class KnownAlerts:
    """All that is known of a run; another `RunAlerts` goes on from it.

    Attributes:
        run_id: The run; empty for the stack itself.
        state: What its observer knows.
        book: Its alerts that hold.
        places: The next offset of each topic and partition that its events came from: those before
            are in `state` already.
        seen: The beginnings of the latest events' ids, 8 bytes each as a number, oldest first.
        ended: Whether the run is over.
        newest_us: Time of its latest event, microseconds since 1970.
        routed: Alerts that hold and that somebody was told of.
        unsent: What has still to be said.
    """

    run_id: str
    state: ObserverState = field(default_factory=ObserverState)
    book: AlertBook = field(default_factory=AlertBook)
    places: Mapping[tuple[str, int], int] = field(default_factory=dict)
    seen: tuple[int, ...] = ()
    ended: bool = False
    newest_us: int = 0
    routed: frozenset[Subject] = frozenset()
    unsent: tuple[Unsent, ...] = ()


class RunAlerts:
    """The alerts of one run, or of the stack itself."""

    def __init__(self, kept: KnownAlerts, clock: Clock) -> None:
        self._kept = kept
        self._observer = Observer(state=kept.state)
        # in order of arrival, and quick to look into
        self._seen = dict.fromkeys(kept.seen)
        self._places = dict(kept.places)
        self._clock = clock

    @property
    def kept(self) -> KnownAlerts:
        """What is known now."""
        return replace(
            self._kept,
            state=self._observer.state,
            places=dict(self._places),
            seen=tuple(self._seen),
        )

    @property
    def book(self) -> AlertBook:
        """Its alerts that hold."""
        return self._kept.book

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self._kept.ended

    @property
    def newest_us(self) -> int:
        """Time of its latest event, microseconds since 1970."""
        return self._kept.newest_us

    @property
    def routed(self) -> frozenset[Subject]:
        """Alerts that hold and that somebody was told of."""
        return self._kept.routed

    @property
    def unsent(self) -> tuple[Unsent, ...]:
        """What has still to be said, in order."""
        return self._kept.unsent

    def sent(self, many: int) -> None:
        """The first so many of `unsent` have been said."""
        self._kept = replace(self._kept, unsent=self._kept.unsent[many:])

    def take(self, event: Event, place: Place, rules: AlertRules) -> bool:
        """Give an event to the detectors; False where it changes nothing.

        What Kafka delivers again stands before the place that was read to, and what a sender sent
        again has an id that was seen: neither counts twice.
        """
        topic, partition, offset = place
        at = (topic, partition)
        if type(event) not in READ or offset < self._places.get(at, 0):
            return False
        self._places[at] = offset + 1
        mark = int(event.event_id.replace("-", "")[:16], 16)
        if mark in self._seen:
            return True
        self._seen[mark] = None
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]
        # telemetry of a run's last moment may be read after its end
        if self.ended and not isinstance(event, RunStarted | RunResumed):
            return True
        newest = max(self.newest_us, event.occurred_at)
        self._kept = replace(self._kept, ended=False, newest_us=newest)
        self._note(self._observer.see(event), rules, event.occurred_at, event)
        if isinstance(event, RunCompleted | RunFailed):
            self.end("RUN_ENDED", event.occurred_at, event)
        return True

    def at(self, now_us: int, rules: AlertRules) -> bool:
        """See what holds because nothing came until now; False where nothing changes."""
        if self.ended:
            return False
        # a run that has been silent for long is as old as its last word
        return self._note(self._observer.at(now_us), rules, self.newest_us)

    def found(self, findings: Sequence[Finding], rules: AlertRules, now_us: int) -> bool:
        """Take findings that no detector made, of the stack itself; False where nothing changes."""
        return self._note(findings, rules, now_us)

    def end(self, why: AlertEnd, when_us: int, cause: Event | None = None) -> None:
        """Nothing of the run is looked at any more: its alerts are over."""
        for alert in self.book.open:
            event = notices.resolved(alert, when_us, why, self._clock, cause)
            self._say(event, routed=alert.subject in self.routed)
        self._observer.forget(self._kept.run_id)
        self._kept = replace(self._kept, ended=True, book=AlertBook(), routed=frozenset())

    def _note(
        self,
        findings: Sequence[Finding],
        rules: AlertRules,
        cause_us: int,
        cause: Event | None = None,
    ) -> bool:
        """Fold findings into the book, and say what is new."""
        fresh = self._clock.now_us() - cause_us <= ROUTED_WITHIN_US
        before = self.book
        for finding in findings:
            held = self.book.held.get(finding.subject)
            book, changes = fold(self.book, [finding], rules)
            self._kept = replace(self._kept, book=book)
            if isinstance(finding, Anomaly) and (
                held is None or book.held[finding.subject].severity != held.severity
            ):
                self._say(notices.detected(finding, self._clock, cause), routed=False)
            for change in changes:
                subject = change.alert.subject
                if change.kind == "RESOLVED":
                    over = notices.resolved(
                        change.alert, finding.when_us, "CLEARED", self._clock, cause
                    )
                    # whoever was told that it holds is told that it is over, however late
                    self._say(over, routed=subject in self.routed)
                    self._kept = replace(self._kept, routed=self.routed - {subject})
                else:
                    self._say(notices.raised(change.alert, self._clock, cause), routed=fresh)
                    if fresh:
                        self._kept = replace(self._kept, routed=self.routed | {subject})
        return self.book is not before

    def _say(self, event: AnomalyDetected | AlertRaised | AlertResolved, *, routed: bool) -> None:
        self._kept = replace(self._kept, unsent=(*self.unsent, Unsent(event, routed)))
