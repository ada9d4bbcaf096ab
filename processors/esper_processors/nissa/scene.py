"""What metrics are made from, and what makes them: the views of all runs at one moment, and
collectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from prometheus_client.core import Metric

from esper.errors import UsageError
from esper.events import Event
from esper_processors.nissa.alerting.routes import DeliveryCounts
from esper_processors.nissa.compilations import Compilations
from esper_processors.nissa.custom import Definition, Series
from esper_processors.nissa.live import Live
from esper_processors.nissa.runs import RunView

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Scene:
    """Everything that the metrics show."""

    runs: Sequence[RunView]
    compilations: Compilations
    live: Live
    now_us: int
    uptime_s: float
    lag: int
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    series: Sequence[Series] = ()
    refused: Mapping[tuple[str, str], int] = field(default_factory=dict)
    alerts_open: Mapping[str, int] = field(default_factory=dict)
    deliveries: DeliveryCounts = field(default_factory=DeliveryCounts)

    @cached_property
    def current(self) -> tuple[RunView, ...]:
        """The runs that go on: only these have metrics with their name."""
        return self.live.current(self.runs, self.now_us)


def _nothing() -> None:
    return None


def _ignored(memory: Any, event: Event) -> None:
    del memory, event


@dataclass(frozen=True, slots=True)
class Collector:
    """Metrics that belong together.

    Attributes:
        name: What logs call it. The metrics of a package's begin with it and an underscore, so
            that no two packages can clash.
        collect: Gives the metric families of prometheus_client with their present values, each
            time that Prometheus asks: of the scene, and of what the collector remembers.
        takes: Records whose events it is given as Nissa reads them; one that Kafka delivers again
            comes again, with the same `event_id`.
        begin: Makes what it remembers, when Nissa starts. That is in memory alone: after a restart
            it begins anew, as Prometheus expects of a counter.
        take: Notes an event in what it remembers.

    Raises:
        UsageError: the name is none, or `takes` has something else than records of events.
    """

    name: str
    collect: Callable[[Scene, Any], Iterable[Metric]]
    takes: tuple[type[Event], ...] = ()
    begin: Callable[[], Any] = _nothing
    take: Callable[[Any, Any], None] = _ignored

    def __post_init__(self) -> None:
        """Refuse what no metric could begin with, and what is no event."""
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no name of a collector: small letters, digits and underscores, "
                "a letter first, 64 at most."
            )
        for record in self.takes:
            if not (isinstance(record, type) and issubclass(record, Event)):
                raise UsageError(
                    f"The collector {self.name} takes {record!r}, which is no record of "
                    "esper.events.records."
                )
