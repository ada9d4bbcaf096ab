"""Nissa's wiring: every topic in, facts into a table, telemetry into memory, HTTP out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import faust
from aiokafka.errors import KafkaError

from esper.bounded.names import is_run_id
from esper.clock import Clock
from esper.config import Settings
from esper.events import TOPICS, Event, Origin, encode
from esper.events.records import MetricLabel, MetricRecorded
from esper.oona.bus.access import Access
from esper.oona.bus.port import Received
from esper.service.transport.signing import Keyring
from esper_processors import consumers as consuming
from esper_processors import streams
from esper_processors.cluster import Follower
from esper_processors.consumers import Consumers, checked_table
from esper_processors.nissa.alerting.desk import AlertDesk
from esper_processors.nissa.collectors import Collectors, installed
from esper_processors.nissa.custom import Definition, Sample
from esper_processors.nissa.declared import DEFINITIONS, DeclaredMetrics
from esper_processors.nissa.live import Live
from esper_processors.nissa.page.broadcast import Broadcast
from esper_processors.nissa.resources import default_samplers, sampled
from esper_processors.nissa.rows import COMPILATIONS, CUSTOM, FACTS, RunRows, check
from esper_processors.nissa.scene import Scene
from esper_processors.nissa.status import standing
from esper_processors.time_limit import time_limit

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)
SENDER = "nissa"
SAMPLE_S = 15.0
COLLECTOR_S = 20.0
"""Seconds that a collector may take for one event or one page; Prometheus waits for 10."""
_TELEMETRY = (
    "telemetry.seed.health",
    "telemetry.seed.performance",
    "telemetry.training.step",
    "telemetry.resources",
    "telemetry.cache",
    CUSTOM,
)
_TOPICS = (*FACTS, *COMPILATIONS, *_TELEMETRY)
_FRESH_US = 10_000_000


def build(settings: Settings, clock: Clock) -> faust.App:
    """The app, ready for a worker.

    Raises:
        EsperError: no broker is configured, or it does not answer, or the collector of an installed
            package cannot be used.
    """
    # a package that cannot be used is named before anything runs
    collectors = Collectors(installed(_TOPICS), limit=partial(time_limit, COLLECTOR_S))
    app = streams.build(settings, part=SENDER, clock=clock)
    outbound = streams.FramedSender(app, "dead.letters", "telemetry.resources", CUSTOM)
    consumers = Consumers(
        app, outbound, part=SENDER, clock=clock, trust=Keyring(settings.keys_dir).trust
    )
    partitions = TOPICS["system.events.run"].partitions or settings.kafka.partitions
    table = checked_table(
        app, "views", partitions=partitions, rows=consuming.RowGuard(check), consumers=consumers
    )
    origin, samplers = Origin("", SENDER, "0" * 32, clock), default_samplers(SENDER)
    rows, live = RunRows(table), Live()
    declared = DeclaredMetrics(app, collectors)
    read: dict[tuple[str, int], int] = {}
    broadcast, began = Broadcast(clock), clock.monotonic()
    alerting = AlertDesk(
        app,
        settings,
        clock,
        reading=lambda: {place: (end, at) for place, end, at in _reading(app, read)},
        opened=consumers.opened,
        said=lambda event: broadcast.take(event, None),
        caught_up=lambda *topics: follower.caught_up(*topics),  # noqa: PLW0108  # made below
    )

    async def observe(event: Event, received: Received) -> None:
        view, changed = rows.take(received.topic, event, received.partition)
        place = received.topic, received.partition
        # an event that could not be said is given again, until the broker takes what it makes known
        if read.get(place) != received.offset + 1:
            live.take(received.topic, event, clock.now_us())
            collectors.take(event)
            broadcast.take(event, view if changed else None)
            read[place] = received.offset + 1
        if view is not None and view.ended:
            # its gauges are not shown any more, and would only hold memory
            live.forget(view.run_id)
        if changed and live.delay_us < _FRESH_US:
            # before Faust can commit the event's offset; a backlog, which comes again whole, does
            # not wait
            await table.acknowledged()
        await alerting.take(event, received)

    consumers.agent("observe", _TOPICS, observe, acknowledge=alerting.acknowledge)

    def scene() -> Scene:
        return Scene(
            rows.runs(),
            rows.builds(),
            live,
            clock.now_us(),
            clock.monotonic() - began,
            sum(_lags(app, read)),
            declared.by_name,
            rows.series(),
            dict(consumers.refusals.counts),
            alerting.open_by_severity(),
            alerting.dispatcher.figures,
        )

    async def sample() -> None:
        present = scene()
        live.sample(present.runs, present.now_us)
        try:
            await outbound.send(*(encode(reading) for reading in sampled(samplers, origin)))
        except (
            KafkaError
        ) as error:  # the next sample says more than this one; Faust would end the worker
            _log.warning("Samples of resources cannot be sent: %s", error)

    app.timer(SAMPLE_S)(sample)
    follower = Follower(
        declared.followed(),
        *alerting.followed(),
        access=Access.of(settings, SENDER),
        clock=clock,
        take=consumers.take,
    )
    app.service(follower)  # type: ignore[arg-type]  # Faust takes instances too

    async def record(samples: Sequence[Sample]) -> None:
        events = _recorded(samples, declared.by_name, origin)
        await outbound.send(*(encode(event) for event in events))

    def web() -> streams.Served:
        from esper_processors.nissa.api import Nissa, add_routes  # noqa: PLC0415  # FastAPI loads while the worker joins its group
        from esper_processors.nissa.page import http as paged  # noqa: PLC0415  # the same

        page = paged.page_of(
            settings, clock, broadcast, state=lambda: standing(scene()), alerts=alerting.alerts_of
        )
        nissa = Nissa(
            scene=scene,
            collectors=collectors,
            attempts=rows.attempts,
            declare=declared.declare,
            record=record,
            alerting=alerting,
        )

        def add_all(api: FastAPI) -> None:
            add_routes(api, nissa)
            paged.add_routes(api, page)

        return streams.served(
            settings,
            title="Nissa observes",
            part=SENDER,
            port=settings.nissa.port,
            clock=clock,
            ready=lambda: {
                **streams.readiness(app),
                "definitions": follower.caught_up(DEFINITIONS),
                "alerts": alerting.ready(),
                "progress": consumers.well(),
            },
            details=consumers.details,
            add_routes=add_all,
            customs=paged.customs(page),
        )

    app.http = streams.Web(web)
    return app


def _recorded(
    samples: Sequence[Sample], definitions: dict[str, Definition], origin: Origin
) -> Iterator[MetricRecorded]:
    """The events of samples that came in one request.

    A label named run is the run that the event belongs to.
    """
    at = origin.clock.now_us()
    for number, sample in enumerate(samples):
        run_id = dict(sample.labels).get("run", "")
        run_id = run_id if is_run_id(run_id) else ""  # a label may say what no run is called
        yield MetricRecorded(
            **Origin(run_id, origin.sender_id, origin.trace_id, origin.clock).envelope(
                f"metric/{at}/{number}/{sample.name}/{sample.labels}"
            ),
            name=sample.name,
            value=sample.value,
            unit=definitions[sample.name].unit,
            labels=tuple(MetricLabel(name=name, value=value) for name, value in sample.labels),
        )


def _lags(app: faust.App, read: dict[tuple[str, int], int]) -> Iterator[int]:
    """Offsets that are still to be read, of each partition from which something was read."""
    for _, end, at in _reading(app, read):
        yield max(end - at, 0)


def _reading(
    app: faust.App, read: dict[tuple[str, int], int]
) -> Iterator[tuple[tuple[str, int], int, int]]:
    """Each partition from which something was read: where it ends, and how far it was read."""
    for tp in app.consumer.assignment():
        place = (tp.topic, tp.partition)
        end, at = app.consumer.highwater(tp), read.get(place)
        if end is not None and at is not None:
            yield place, end, at
