"""Where alerts go: routes, each with a queue of its own, so that one that hangs holds up neither
the others nor what Nissa reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from mode import Service

from esper.anomalies.anomaly import Severity
from esper.errors import EsperError, printable
from esper.events.records import AlertResolved
from esper_processors.nissa.alerting.notices import Notice

QUEUE: Final = 256
"""Notices that wait for one route; what comes then is counted and lost to it."""
BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits between the attempts to deliver a notice."""
TIMEOUT_S: Final = 10.0
"""How long a server may take for one answer."""
_log = logging.getLogger(__name__)


class DeliveryError(EsperError):
    """A notice was not taken. `transient`: it may be at the next attempt."""

    def __init__(self, sentence: str, *, transient: bool) -> None:
        super().__init__(sentence)
        self.transient = transient


class Route(Protocol):
    """A way to people.

    Attributes:
        name: Name in logs and metrics.
        severity: The least that goes by it.
        resends: Whether it is told again each minute of what holds.
    """

    name: str
    severity: Severity
    resends: bool

    def deliver(self, notices: Sequence[Notice]) -> None:
        """Deliver some notices; called in a thread, one call after the other.

        Raises:
            DeliveryError: they were not taken.
        """


@dataclass(slots=True)
class DeliveryCounts:
    """What became of deliveries since Nissa started, by route."""

    delivered: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def passes(severity: Severity, least: Severity) -> bool:
    """Whether an alert is bad enough for a route."""
    return severity == "CRITICAL" or least == "WARNING"


def sentence_of(notice: Notice) -> str:
    """What a notice says in a line of plain text."""
    where = f" {notice.layer}" if notice.layer else ""
    seed = f"[{notice.seed}]" if notice.seed >= 0 else ""
    whose = f"run {notice.run_id}" if notice.run_id else "the stack"
    over = "over, " if isinstance(notice, AlertResolved) else ""
    text = f"{over}{notice.severity} {notice.detector}{where}{seed} of {whose}: {notice.sentence}"
    return printable(text).replace("\n", " ")


class _Lane:
    """A route and what waits for it."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.queue: asyncio.Queue[Sequence[Notice]] = asyncio.Queue(QUEUE)


class Dispatcher(Service):
    """Delivers notices by every route that is bad enough for them."""

    def __init__(self, routes: Sequence[Route], *, log_from: Severity) -> None:
        super().__init__()
        self._lanes = [_Lane(route) for route in routes]
        self._log_from = log_from
        self.figures = DeliveryCounts()

    def dispatch(self, notice: Notice) -> None:
        """Log a notice, and let it wait for its routes; never waits."""
        if passes(notice.severity, self._log_from):
            _log.warning("Alert: %s", sentence_of(notice))
        for lane in self._lanes:
            if passes(notice.severity, lane.route.severity):
                self._put(lane, [notice])

    def resend(self, notices: Sequence[Notice]) -> None:
        """Tell those routes that are told again what holds now."""
        for lane in self._lanes:
            due = [one for one in notices if passes(one.severity, lane.route.severity)]
            # a route that is behind has enough to do with what is new
            if lane.route.resends and due and lane.queue.empty():
                self._put(lane, due)

    def _put(self, lane: _Lane, notices: Sequence[Notice]) -> None:
        try:
            lane.queue.put_nowait(notices)
        except asyncio.QueueFull:
            self.figures.dropped[lane.route.name] += 1
            if _telling(self.figures.dropped[lane.route.name]):
                _log.warning(
                    "The route %s has %d notices waiting; this one is lost to it (number %d): %s",
                    lane.route.name,
                    QUEUE,
                    self.figures.dropped[lane.route.name],
                    sentence_of(notices[0]),
                )

    @Service.task
    async def _deliver(self) -> None:
        await asyncio.gather(*(self._work(lane) for lane in self._lanes))

    async def _work(self, lane: _Lane) -> None:
        while not self.should_stop:
            notices = await lane.queue.get()
            await self._until_taken(lane.route, notices)

    async def _until_taken(self, route: Route, notices: Sequence[Notice]) -> None:
        for wait in (*BACKOFF_S, None):
            try:
                await asyncio.to_thread(route.deliver, notices)
            except DeliveryError as error:
                if not error.transient or wait is None:
                    self._failed(route, error, notices)
                    return
            except Exception as error:  # noqa: BLE001  # a route's fault must not end the others
                self._failed(route, error, notices)
                return
            else:
                self.figures.delivered[route.name] += 1
                return
            await self.sleep(wait)

    def _failed(self, route: Route, error: Exception, notices: Sequence[Notice]) -> None:
        self.figures.failures[route.name] += 1
        if _telling(self.figures.failures[route.name]):
            _log.warning(
                "The route %s did not take an alert (failure %d): %s The alert was: %s",
                route.name,
                self.figures.failures[route.name],
                # a server's words may have lines of their own
                printable(" ".join(str(error)[:400].split())),
                sentence_of(notices[0]),
            )


def _telling(count: int) -> bool:
    """Whether the log has a line for it: the first, second, fourth and so on."""
    return not count & (count - 1)
