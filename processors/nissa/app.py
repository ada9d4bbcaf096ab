"""Nissa's wiring: every topic in, facts into a table, telemetry into memory, HTTP out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import faust
from faust.types import EventT, StreamT

from esper.clock import Clock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import TOPICS, Origin, encode
from esper.events.codec import decode
from esper.events.records import MetricLabel, MetricRecorded
from esper.oona.access import Access
from processors import streams
from processors.cluster import Followed, Follower
from processors.nissa import custom
from processors.nissa.custom import Definition, Sample
from processors.nissa.live import Live
from processors.nissa.metrics import Scene
from processors.nissa.resources import default_collectors, sampled
from processors.nissa.rows import COMPILATIONS, CUSTOM, FACTS, Rows

SENDER = "nissa"
SAMPLE_S = 15.0
DEFINITIONS = "esper-nissa-definitions"
"""Nissa's own topic of declared metrics, compacted, one partition, so that every worker knows all in the same order."""
_TELEMETRY = (
    "telemetry.seed.health",
    "telemetry.seed.performance",
    "telemetry.training.step",
    "telemetry.resources",
    "telemetry.cache",
    CUSTOM,
)
_FRESH_US = 10_000_000
_log = logging.getLogger(__name__)


def build(settings: Settings, clock: Clock) -> faust.App:
    """The app, ready for a worker.

    Raises:
        EsperError: no broker is configured, or it does not answer.
    """
    app = streams.build(settings, part=SENDER, clock=clock)
    table = streams.raw_table(app, "views", partitions=TOPICS["system.events.run"].partitions or settings.kafka.partitions)
    outbound = streams.Outbound(app, "dead.letters", "telemetry.resources", CUSTOM)
    own_topic = app.topic(
        DEFINITIONS, partitions=1, compacting=True, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    origin = Origin("", SENDER, "0" * 32, clock)
    collectors = default_collectors(SENDER)
    rows, live = Rows(table), Live()
    definitions: dict[str, Definition] = {}
    read: dict[tuple[str, int], int] = {}
    began = clock.monotonic()

    async def note(event: EventT[Any]) -> None:
        topic = event.message.topic
        try:
            decoded = decode(event.value, tuple(event.headers.items()))
        except PoisonError as error:
            _log.warning("A message of %s is given up: %s", topic, error)
            await outbound.send(streams.dead_letter(event, error, consumer=SENDER, clock=clock))
            return
        live.take(topic, decoded, clock.now_us())
        view, changed = rows.take(topic, decoded, event.message.partition)
        if view is not None and view.ended:
            live.forget(view.run_id)
        if changed and live.delay_us < _FRESH_US:
            await table.acknowledged()  # before Faust can commit the event's offset; a backlog, which comes again whole, does not wait

    @app.agent(streams.raw_topic(app, *FACTS, *COMPILATIONS, *_TELEMETRY), name="observe", concurrency=1)
    async def observed(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await note(event)
            read[event.message.topic, event.message.partition] = event.message.offset + 1

    def scene() -> Scene:
        uptime = clock.monotonic() - began
        lag = sum(_lags(app, read))
        return Scene(rows.runs(), rows.builds(), live, clock.now_us(), uptime, lag, definitions, rows.series())

    async def sample() -> None:
        present = scene()
        live.sample(present.runs, present.now_us)
        await outbound.send(*(encode(reading) for reading in sampled(collectors, origin)))

    app.timer(SAMPLE_S)(sample)
    app.task(own_topic.maybe_declare)

    def learn(value: bytes) -> None:
        definition = custom.decode(value)
        definitions.setdefault(definition.name, definition)

    follower = Follower(Followed(DEFINITIONS, 0, learn), access=Access.of(settings, SENDER), clock=clock)
    app.service(follower)  # type: ignore[arg-type]  # Faust takes instances too

    async def declare(definition: Definition) -> None:
        await (await own_topic.send(key=definition.name.encode(), value=custom.encode(definition)))
        learn(custom.encode(definition))

    async def record(samples: Sequence[Sample]) -> None:
        await outbound.send(*(encode(event) for event in _recorded(samples, definitions, origin)))

    def web() -> streams.Served:
        from processors.nissa.api import Nissa, add_routes  # noqa: PLC0415  # FastAPI loads while the worker joins its group

        with_routes = Nissa(scene=scene, attempts=rows.attempts, declare=declare, record=record)
        return streams.served(
            settings,
            title="Nissa observes",
            part=SENDER,
            port=settings.nissa.port,
            clock=clock,
            ready=lambda: {**streams.readiness(app), "definitions": follower.caught_up(DEFINITIONS)},
            add_routes=lambda api: add_routes(api, with_routes),
        )

    app.http = streams.Web(web)
    return app


def _recorded(samples: Sequence[Sample], definitions: dict[str, Definition], origin: Origin) -> Iterator[MetricRecorded]:
    """The events of samples that came in one request. A label named run is the run that the event belongs to."""
    at = origin.clock.now_us()
    for number, sample in enumerate(samples):
        run_id = dict(sample.labels).get("run", "")
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
    for tp in app.consumer.assignment():
        end, at = app.consumer.highwater(tp), read.get((tp.topic, tp.partition))
        if end is not None and at is not None:
            yield max(end - at, 0)
