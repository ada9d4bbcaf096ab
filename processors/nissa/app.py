"""Nissa's wiring: every topic in, facts into a table, telemetry into memory, HTTP out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import faust
from faust.types import EventT, StreamT
from faust.web import Request, Response, View
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from esper.clock import Clock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import TOPICS, Event
from esper.events.codec import decode
from esper.events.records import RunStarted
from processors import streams
from processors.nissa import compilations, runs
from processors.nissa.compilations import Compilations
from processors.nissa.live import SAMPLES, Live
from processors.nissa.metrics import Scene, exposition
from processors.nissa.runs import RunView
from processors.nissa.status import status

SENDER = "nissa"
SAMPLE_S = 15.0
_FACTS = ("system.events.run", "system.events.epoch", "decision.tamiyo")
_COMPILATIONS = ("compilation.attempts", "compilation.kernels")
_TELEMETRY = ("telemetry.seed.health", "telemetry.seed.performance", "telemetry.training.step", "telemetry.resources")
_BUILDS = b"\0compilations"
"""Key of the row that counts a partition's compilations; run ids have no NUL."""
_KEPT_RUNS = 50
_FRESH_US = 10_000_000
_log = logging.getLogger(__name__)


def build(settings: Settings, clock: Clock) -> faust.App:
    """The app, ready for a worker.

    Raises:
        EsperError: no broker is configured, or it does not answer.
    """
    app = streams.build(settings, part=SENDER, port=settings.nissa.port, clock=clock)
    table = streams.raw_table(app, "views", partitions=TOPICS["system.events.run"].partitions or settings.kafka.partitions)
    outbound = streams.Outbound(app, "dead.letters")
    live = Live()
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
        changed = False
        if topic in _FACTS:
            changed = _fold_run(table, live, decoded, event.message.partition)
        elif topic in _COMPILATIONS:
            changed = _fold_build(table, decoded)
        if changed and live.delay_us < _FRESH_US:
            await table.acknowledged()  # before Faust can commit the event's offset; a backlog, which comes again whole, does not wait

    @app.agent(streams.raw_topic(app, *_FACTS, *_COMPILATIONS, *_TELEMETRY), name="observe", concurrency=1)
    async def observed(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await note(event)
            read[event.message.topic, event.message.partition] = event.message.offset + 1

    def scene() -> Scene:
        rows = list(table.items())
        builds = Compilations()
        for key, value in rows:
            if key == _BUILDS:
                builds = builds.plus(compilations.decode(value))
        views = [runs.decode(value) for key, value in rows if key != _BUILDS]
        return Scene(views, builds, live, clock.now_us(), clock.monotonic() - began, sum(_lags(app, read)))

    async def sample() -> None:
        present = scene()
        live.sample(present.runs, present.now_us)

    app.timer(SAMPLE_S)(sample)

    @app.page("/health", name="health")
    async def health(web: View, request: Request) -> Response:
        del request
        state = streams.readiness(app)
        ready = all(state.values())
        return web.json({"ready": ready, **state}, status=200 if ready else 503)

    @app.page("/metrics", name="metrics")
    async def metrics(web: View, request: Request) -> Response:
        del request
        return web.bytes(exposition(scene()), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    @app.page("/api/v1/status", name="status")
    async def overview(web: View, request: Request) -> Response:
        wanted = request.query.get("samples", "0")
        samples = min(int(wanted), SAMPLES) if wanted.isdecimal() else 0
        return web.json(status(scene(), samples=samples))

    return app


def _fold_run(table: streams.AcknowledgedTable, live: Live, event: Event, partition: int) -> bool:
    """Fold an event into its run's row; gives whether that changed."""
    key = event.run_id.encode()
    known = table.get(key)
    view = runs.decode(known) if known else RunView(run_id=event.run_id, partition=partition)
    folded = runs.fold(view, event)
    if folded is not view:
        table[key] = runs.encode(folded)
    if folded.ended:
        live.forget(event.run_id)
    if isinstance(event, RunStarted):
        _prune(table, partition)
    return folded is not view


def _prune(table: streams.AcknowledgedTable, partition: int) -> None:
    """Forget the runs of this partition that were heard of the longest ago, all but `_KEPT_RUNS`."""
    views = [runs.decode(value) for key, value in table.items() if key != _BUILDS]
    mine = sorted((view for view in views if view.partition == partition), key=lambda view: view.updated_at)
    for view in mine[:-_KEPT_RUNS]:
        del table[view.run_id.encode()]


def _fold_build(table: streams.AcknowledgedTable, event: Event) -> bool:
    """Count a compilation; gives whether that changed anything."""
    known = table.get(_BUILDS)
    view = compilations.decode(known) if known else Compilations()
    folded = compilations.fold(view, event)
    if folded is not view:
        table[_BUILDS] = compilations.encode(folded)
    return folded is not view


def _lags(app: faust.App, read: dict[tuple[str, int], int]) -> Iterator[int]:
    """Offsets that are still to be read, of each partition from which something was read."""
    for tp in app.consumer.assignment():
        end, at = app.consumer.highwater(tp), read.get((tp.topic, tp.partition))
        if end is not None and at is not None:
            yield max(end - at, 0)
