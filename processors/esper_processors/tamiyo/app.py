"""Tamiyo's wiring: packets in, answers out, one table write a packet; performance beside it.

HTTP out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import faust

from esper.clock import Clock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import TOPICS, Event, Message
from esper.events.codec import decode, schema_id
from esper.events.envelope import SignedEvent
from esper.events.records import (
    AdaptationOutcome,
    PerformanceDelta,
    RollbackRequested,
    SeedCommand,
    SystemStatePacket,
)
from esper.events.schemas import wire_schema, wire_schemas
from esper.events.seals import Signer
from esper.oona.bus.access import Access
from esper.oona.bus.port import Received
from esper.service.transport import signing
from esper.service.transport.signing import Keyring
from esper_processors import streams
from esper_processors.cluster import Followed, Follower
from esper_processors.consumers import (
    Consumers,
    RowGuard,
    checked_table,
    fitting,
    require_sendable,
    retriable,
)
from esper_processors.tamiyo import command_log as orders
from esper_processors.tamiyo import row as rows
from esper_processors.tamiyo.answers import SENDER, answer, failed
from esper_processors.tamiyo.deciding import bandits, performance, policies
from esper_processors.tamiyo.deciding.bandits import Beta, generator
from esper_processors.tamiyo.deciding.experience import HORIZON_US, Experience
from esper_processors.tamiyo.deciding.tracker import ROWS, Tracker
from esper_processors.tamiyo.desk import Desk
from esper_processors.tamiyo.inheritance import beginning
from esper_processors.time_limit import time_limit

_LIMIT = partial(time_limit, 60.0)  # s; the supervisor ends a loop that has not turned for 120
_PACKETS = "system.events.epoch"
_DECISIONS = "decision.tamiyo"


def build(settings: Settings, clock: Clock) -> faust.App:
    """The app, ready for a worker.

    Raises:
        EsperError: no broker is configured, or it does not answer, or the policy or bandit of an
            installed package cannot be used.
    """
    bandits.known(), policies.known()  # a package that cannot be used is named before anything runs
    app, access = streams.build(settings, part=SENDER, clock=clock), Access.of(settings, SENDER)
    outbound = streams.FramedSender(
        app,
        _DECISIONS,
        "innovation.blueprints",
        "dead.letters",
        SeedCommand.TOPIC,
        RollbackRequested.TOPIC,
    )
    keyring, say = (
        Keyring(settings.keys_dir),
        partial(_say, outbound, signing.ensure(settings.keys_dir, SENDER, clock)),
    )
    consumers = Consumers(app, outbound, part=SENDER, clock=clock, trust=keyring.trust)
    partitions = TOPICS[_PACKETS].partitions or settings.kafka.partitions
    table = checked_table(
        app, "runs", partitions=partitions, rows=RowGuard(check), consumers=consumers
    )
    tracker = Tracker(table, clock)
    experience = Experience()

    def prior(context: str, packet: SystemStatePacket) -> Beta:
        return experience.prior(context, run_id=packet.run_id, now_us=packet.occurred_at)

    async def review(event: Event, received: Received) -> None:
        if not isinstance(event, SystemStatePacket):
            raise PoisonError(
                f"{event.NAME} does not belong on {received.topic}, only SystemStatePacket does."
            )
        key = event.run_id.encode()
        try:
            row = rows.known(table.get(key)) or await beginning(
                event, access=access, clock=clock, trust=keyring.trust()
            )
            reply = answer(row, event, prior=prior, clock=clock, limit=_LIMIT)
            kept = (
                fitting(rows.encode(reply.row), f"run {event.run_id}")
                if reply.row is not None
                else None
            )
            # before the table is written: a row without its answer would give the packet no answer
            # ever
            require_sendable(reply.messages)
        except Exception as error:
            if not retriable(error):  # the trainer shall not wait for an answer that cannot come
                await say(failed(event, error, clock=clock))
            raise
        if kept is not None:
            table[key] = kept
            tracker.turn(
                event.run_id,
                [
                    outcome
                    for message in reply.messages
                    if (outcome := _outcome(message)) is not None
                ],
            )
            # what was answered is remembered before anybody hears it, with what was measured until
            # then: the next life would give another answer, and be told no delta again
            await table.acknowledged()
        await say(*reply.messages)
        if reply.fault is not None:  # answered and remembered; counted and put aside as poison is
            raise reply.fault

    async def perform(event: Event, _: Received) -> None:
        tracker.take(event)

    consumers.agent("review", (_PACKETS,), review)
    consumers.agent("perform", (PerformanceDelta.TOPIC,), perform)

    async def warm() -> None:
        wire_schemas()
        generator(0, 0, "").beta(1.0, 1.0)  # numpy loads its generators on first use
        await outbound.warm()

    app.task(warm)

    desk = Desk(outbound, clock, consumers.opened)
    outcomes = Followed(
        _DECISIONS,
        # without a consumer group: every worker has to know the outcomes of all partitions
        (clock.now_us() - HORIZON_US) // 1000,
        lambda received: _learn(experience, received, consumers.opened),
    )
    follower = Follower(outcomes, *desk.followed(), access=access, clock=clock, take=consumers.take)
    app.service(follower)  # type: ignore[arg-type]  # Faust takes instances too

    def web() -> streams.Served:
        from esper_processors.tamiyo.api import Tamiyo, add_routes  # noqa: PLC0415  # FastAPI loads while the worker joins its group

        tamiyo = Tamiyo(
            rows=lambda: {
                key.decode(): row
                for key, value in table.items()
                if not key.startswith(ROWS) and (row := rows.known(value)) is not None
            },
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
            ready=lambda: {
                **streams.readiness(app),
                "experience": follower.caught_up(_DECISIONS),
                "progress": consumers.well(),
            },
            details=consumers.details,
            add_routes=lambda api: add_routes(api, tamiyo),
        )

    app.http = streams.Web(web)
    return app


def check(key: bytes, value: bytes) -> None:
    """Make sure that a row of the table can be read; raises whatever its reader raises."""
    if key.startswith(ROWS):
        key[len(ROWS) :].decode()
        performance.decode(value)
        return
    key.decode()
    # kept answers are decoded too: a poisoned one would only show when its packet comes again
    for kept in rows.decode(value).answers:
        for message in kept.values:
            decode(message)


def _outcome(message: Message) -> AdaptationOutcome | None:
    """The outcome in a message of our own; None for other events."""
    if schema_id(message.value) != AdaptationOutcome.SCHEMA_ID:
        return None
    outcome = decode(message.value)
    return outcome if isinstance(outcome, AdaptationOutcome) else None


async def _say(outbound: streams.FramedSender, signer: Signer, *messages: Message) -> None:
    """Send messages of our own, decisions signed."""
    await outbound.send(*(_signed(message, signer) for message in messages))


def _signed(message: Message, signer: Signer) -> Message:
    """A message of ours as it is sent.

    One that is sent again, and may be of an earlier Esper, gets the same signature again.
    """
    event = decode(message.value)
    return signer.seal(event) if isinstance(event, SignedEvent) else message


def _learn(experience: Experience, received: Received, opened: Callable[[Received], Event]) -> None:
    """Take an outcome that Tamiyo signed.

    Reviews, which are most of the topic, are not even decoded.
    """
    if wire_schema(schema_id(received.value)).record is not AdaptationOutcome:
        return
    outcome = opened(received)
    if isinstance(outcome, AdaptationOutcome):
        experience.take(outcome, at_us=received.timestamp_us)
