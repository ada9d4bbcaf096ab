"""Tamiyo's wiring: packets in, answers out, one table write a packet; performance beside it; HTTP out."""

from __future__ import annotations

import logging
from typing import Any

import faust
from faust.types import EventT, StreamT

from esper.clock import Clock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import TOPICS, Message
from esper.events.codec import decode, schema_id
from esper.events.records import AdaptationOutcome, PerformanceDelta, RollbackRequested, SeedCommand, SystemStatePacket
from esper.events.registry import wire_schemas
from esper.oona.access import Access
from processors import streams
from processors.cluster import Followed, Follower
from processors.tamiyo import commands as orders
from processors.tamiyo import row as rows
from processors.tamiyo.answers import SENDER, answer, failed
from processors.tamiyo.bandits import Beta, generator
from processors.tamiyo.desk import Desk
from processors.tamiyo.experience import HORIZON_US, Experience
from processors.tamiyo.inheritance import beginning
from processors.tamiyo.tracker import ROWS, Tracker

_PACKETS = "system.events.epoch"
_DECISIONS = "decision.tamiyo"
_log = logging.getLogger(__name__)


def build(settings: Settings, clock: Clock) -> faust.App:
    """The app, ready for a worker.

    Raises:
        EsperError: no broker is configured, or it does not answer.
    """
    app, access = streams.build(settings, part=SENDER, clock=clock), Access.of(settings, SENDER)
    table = streams.raw_table(app, "runs", partitions=TOPICS[_PACKETS].partitions or settings.kafka.partitions)
    tracker = Tracker(table, clock)
    outbound = streams.Outbound(app, _DECISIONS, "innovation.blueprints", "dead.letters", SeedCommand.TOPIC, RollbackRequested.TOPIC)
    experience = Experience()

    def prior(context: str, packet: SystemStatePacket) -> Beta:
        return experience.prior(context, run_id=packet.run_id, now_us=packet.occurred_at)

    async def give_up(event: EventT[Any], error: PoisonError) -> None:
        _log.warning("A message of %s is given up: %s", event.message.topic, error)
        await outbound.send(streams.dead_letter(event, error, consumer=SENDER, clock=clock))

    async def review(event: EventT[Any]) -> None:
        try:
            packet = _packet(event)
        except PoisonError as error:
            await give_up(event, error)
            return
        key = packet.run_id.encode()
        known = table.get(key)
        try:
            row = rows.decode(known) if known else await beginning(packet, access=access, clock=clock)
            reply = answer(row, packet, prior=prior, clock=clock)
        except Exception as error:  # noqa: BLE001  # a mistake of ours: the trainer shall not wait for an answer that cannot come
            _log.exception("Packet %s of run %s cannot be answered", packet.packet, packet.run_id)
            await outbound.send(failed(packet, error, clock=clock), streams.dead_letter(event, error, consumer=SENDER, clock=clock))
            return
        if reply.row is not None:
            table[key] = rows.encode(reply.row)
            await table.acknowledged()  # an answer that was sent is remembered, or the next life would give another
        await outbound.send(*reply.messages)
        if reply.row is not None:
            tracker.turn(packet.run_id, [one for message in reply.messages if (one := _outcome(message)) is not None])

    @app.agent(streams.raw_topic(app, _PACKETS), name="review", concurrency=1)
    async def packets(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await review(event)

    @app.agent(streams.raw_topic(app, PerformanceDelta.TOPIC), name="perform", concurrency=1)
    async def deltas(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            try:
                tracker.take(decode(event.value, tuple(event.headers.items())))
            except PoisonError as error:
                await give_up(event, error)

    async def warm() -> None:
        wire_schemas()
        generator(0, 0, "").beta(1.0, 1.0)  # numpy loads its generators on first use
        await outbound.warm()

    app.task(warm)

    desk = Desk(outbound, clock)
    outcomes = Followed(_DECISIONS, (clock.now_us() - HORIZON_US) // 1000, lambda value: _learn(experience, value))
    follower = Follower(outcomes, *desk.followed(), access=access, clock=clock)
    app.service(follower)  # type: ignore[arg-type]  # Faust takes instances too

    def web() -> streams.Served:
        from processors.tamiyo.api import Tamiyo, add_routes  # noqa: PLC0415  # FastAPI loads while the worker joins its group

        tamiyo = Tamiyo(
            rows=lambda: {key.decode(): rows.decode(value) for key, value in table.items() if not key.startswith(ROWS)},
            performance=tracker.of,
            commands=desk.commands,
            followed=lambda: follower.caught_up(*orders.TOPICS),
            give=desk.give,
            clock=clock,
        )
        return streams.served(
            settings,
            title="Tamiyo decides",
            part=SENDER,
            port=settings.tamiyo.port,
            clock=clock,
            ready=lambda: {**streams.readiness(app), "experience": follower.caught_up(_DECISIONS)},
            add_routes=lambda api: add_routes(api, tamiyo),
        )

    app.http = streams.Web(web)
    return app


def _packet(event: EventT[Any]) -> SystemStatePacket:
    """The packet in a message.

    Raises:
        PoisonError: it holds something else.
    """
    packet = decode(event.value, tuple(event.headers.items()))
    if not isinstance(packet, SystemStatePacket):
        raise PoisonError(f"{packet.NAME} does not belong on {_PACKETS}, only SystemStatePacket does.")
    return packet


def _outcome(message: Message) -> AdaptationOutcome | None:
    """The outcome in a message of our own; None for other events."""
    if schema_id(message.value) != AdaptationOutcome.SCHEMA_ID:
        return None
    outcome = decode(message.value)
    return outcome if isinstance(outcome, AdaptationOutcome) else None


def _learn(experience: Experience, value: bytes) -> None:
    """Take an outcome; reviews, which are most of the topic, are not even decoded."""
    try:
        if schema_id(value) != AdaptationOutcome.SCHEMA_ID:
            return
        outcome = decode(value)
    except PoisonError as error:
        _log.warning("A message of %s teaches nothing: %s", _DECISIONS, error)
        return
    if isinstance(outcome, AdaptationOutcome):
        experience.take(outcome)
