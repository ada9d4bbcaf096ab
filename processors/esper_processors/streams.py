"""How Esper's stream processors run on Faust: one way to build an app, to name its topics, to
dead-letter, and to start its worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import faust
from faust.app.base import BootStrategy
from faust.exceptions import ConsumerNotStarted, ProducerSendError
from faust.types import FutureMessage, TopicT
from mode import Service
from mode.types import ServiceT
from mode.utils.objects import cached_property
from mode.utils.queues import FlowControlEvent

from esper import logs
from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.disk import make_folder
from esper.errors import EsperError, UnavailableError, UsageError
from esper.events import Message
from esper.oona.bus.access import Access
from esper.oona.bus.wire import SAME, FrameCodec
from esper_processors.access import app_options, credentials, until_renewed

if TYPE_CHECKING:
    from fastapi import FastAPI

    from esper.oona.durable.audit_trail import AuditTrail
    from esper.service import Server
    from esper.service.checks.customs import Customs

_CLUSTER_TIMEOUT_S = 60.0
_QUIET_S = 60.0
_MAX_REQUEST_BYTES = 9 << 20  # a dead letter holds a message of any size that Oona sends
ROCKSDB = {"write_buffer_size": 4 << 20, "block_cache_size": 16 << 20, "max_open_files": 256}
"""Small tables: RocksDB's own defaults reserve up to 2 GiB."""


_TIMES: Mapping[str, Any] = {
    # a worker that joined while topics were being made learns of their partitions by this; the
    # default is 5 min
    "consumer_metadata_max_age_ms": 2_000,
    "producer_metadata_max_age_ms": 2_000,
    "broker_request_timeout": 20.0,
    "producer_request_timeout": 20.0,
}
"""What the options of the settings may change."""
_WEB_STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class Served:
    """A part's HTTP server with the trail of what it is asked to change."""

    server: Server
    trail: AuditTrail


class Web(Service):
    """A part's HTTP server in its worker's own loop, from before the worker joins its group until
    all else has stopped.

    `make` is called in a thread: what it imports takes a third of a second, in which the worker
    joins its group.
    """

    def __init__(self, make: Callable[[], Served]) -> None:
        super().__init__()
        self._make = make
        self._served: Served | None = None
        self._over = asyncio.Event()

    @Service.task
    async def _serve(self) -> None:
        try:
            self._served = await asyncio.to_thread(self._make)
            with self._served.trail:
                await self._served.server.serve()
        except EsperError as error:  # a port in use, keys that cannot be read
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(
                error.exit_code
            )  # a worker may be killed at any moment, so it may also end at once
        finally:
            self._over.set()

    async def on_stop(self) -> None:
        """Answer no more; requests under way have a moment to end."""
        if self._served is not None:
            self._served.server.stop()
            # bounded: a client that keeps its request open must not keep the worker
            await asyncio.wait_for(self._over.wait(), _WEB_STOP_S)


def served(
    settings: Settings,
    *,
    title: str,
    part: str,
    port: int,
    clock: Clock,
    ready: Callable[[], Mapping[str, bool]],
    details: Callable[[], Mapping[str, Any]],
    add_routes: Callable[[FastAPI], None],
    customs: Customs | None = None,
) -> Served:
    """The HTTP server of a part, with tokens, roles and audit as everywhere.

    Imports FastAPI: call it in the thread of `Web`.

    Raises:
        EsperError: the port is in use, or the keys of tokens cannot be read.
    """
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415  # the same
    from esper.oona.durable.audit_trail import AuditTrail  # noqa: PLC0415  # it loads while the worker joins its group
    from esper.service import Server, create_app  # noqa: PLC0415  # the same

    trail = AuditTrail(
        KafkaBus(Access.of(settings, part)),
        sender_id=part,
        clock=clock,
        folder=settings.audit_dir,
        keys=settings.keys_dir,
    )
    api = create_app(
        title=title,
        part=part,
        settings=settings,
        clock=clock,
        ready=ready,
        audit=trail,
        details=details,
        customs=customs,
    )
    add_routes(api)
    return Served(Server(api, settings=settings, port=port, clock=clock), trail)


class _Boot(BootStrategy):
    """Starts what Faust starts, with our HTTP server where Faust's own would be."""

    def web_server(self) -> Iterable[ServiceT]:
        """The HTTP server, where the app has one."""
        http: Web | None = getattr(self.app, "http", None)
        return [http] if http is not None else []


class StreamFlow(FlowControlEvent):
    """Whether messages go into the queues of streams.

    Faust resumes a flow that it has resumed before: once to read changelogs, and again when streams
    have their partitions back and messages are in their queues. mode empties all queues at each
    resumption, so that these messages were read, never handled, and asked for by nobody.
    """

    def resume(self) -> None:
        """Let messages in; what waited in the queues is stale only where the flow had stopped."""
        if not self.is_active():
            # mode 0.7.1 empties the queues in here
            super().resume()


class App(faust.App):
    """A Faust app whose HTTP server is `http`."""

    BootStrategy = _Boot
    http: Web | None = None
    frames: FrameCodec = SAME

    @cached_property
    def flow_control(self) -> StreamFlow:
        """What stops and starts the flow into the queues of streams."""
        return StreamFlow(loop=self.loop)


def build(settings: Settings, *, part: str, clock: Clock) -> App:
    """A Faust app named `esper-<part>` with its tables under the stack's folder.

    Timeouts make it answer again about six seconds after a `kill -9` (Faust's defaults: 60 s).
    Tables live in a folder a cluster, since RocksDB remembers changelog offsets, which mean nothing
    on another cluster.

    Raises:
        UsageError: no broker is configured.
        UnavailableError: the broker does not answer.
        DeniedError: it does not let this part in.
    """
    bootstrap = settings.kafka.bootstrap
    if not bootstrap:
        raise UsageError(
            f"The {part} processor needs a broker: set ESPER_KAFKA__BOOTSTRAP, or start "
            "the stack with `esper up`."
        )
    access = Access.of(settings, part)
    folder = settings.stack_dir / part / _cluster(access, clock)
    make_folder(folder)
    # stable over restarts: under a new name Kafka waits for the dead member until its session ends
    member = hashlib.sha256(f"{socket.gethostname()}\x1f{folder}".encode()).hexdigest()[:16]
    app = App(
        f"esper-{part}",
        broker=[f"kafka://{address}" for address in bootstrap.split(",")],
        broker_credentials=credentials(access),
        **{**_TIMES, **app_options(access)},
        autodiscover=False,
        datadir=folder,
        store="rocksdb://",
        # Faust's exactly-once covers one transaction of one worker; answers are told apart by their
        # ids
        processing_guarantee="at_least_once",
        consumer_group_instance_id=member,  # a restarted worker takes its partitions back at once
        # part of the assignment that it takes back: another port must not change it
        canonical_url=f"http://{member}",
        # packets from before the first start still wait for an answer
        consumer_auto_offset_reset="earliest",
        # the least that Kafka takes by default (group.min.session.timeout.ms)
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        broker_rebalance_timeout=10.0,
        broker_commit_interval=1.0,
        producer_max_request_size=_MAX_REQUEST_BYTES,
        # a standby needs a second worker of the part, which a stack does not have
        table_standby_replicas=0,
        # no timer here is for one worker alone, so the topic that elects a leader is not needed
        topic_disable_leader=True,
        topic_partitions=settings.kafka.partitions,
        topic_replication_factor=settings.kafka.replication,
        # a message in hand comes again after the rebalance; waiting for it would hold up the whole
        # group
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
        web_enabled=False,
    )
    app.frames = access.frames
    if access.kafka.security_protocol != "PLAINTEXT":
        app.task(lambda: _renewed(access))
    return app


async def _renewed(access: Access) -> None:
    """End this worker once its password or certificate is another: the supervisor starts one that
    has it, and nothing is lost by any end.
    """
    await until_renewed(access)
    sys.stderr.write(
        f"{access.user}'s secrets for Kafka have changed: this worker ends, and its "
        "successor starts with the new ones.\n"
    )
    sys.stderr.flush()
    os._exit(os.EX_TEMPFAIL)


def _cluster(access: Access, clock: Clock) -> str:
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415  # its client says why a broker refuses it, which aiokafka keeps to its log

    bus = KafkaBus(access)
    deadline = clock.monotonic() + _CLUSTER_TIMEOUT_S
    while True:
        try:
            return bus.cluster_id()
        except UnavailableError:
            if clock.monotonic() > deadline:
                raise
            clock.sleep(0.3)


def raw_topic(app: faust.App, *names: str) -> TopicT:
    """Some of Esper's topics as bytes: decoding happens inside the agent, since a decoder's
    exception would kill it.
    """
    return app.topic(
        *names, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )


def own_topic(app: faust.App, name: str, **config: object) -> TopicT:
    """A topic of a part's own, which is made where it is missing: as bytes, compacted, one
    partition, so that whoever reads it whole knows all in the same order.

    `config` is what Kafka shall keep it by, beside its defaults.
    """
    topic = app.topic(
        name,
        partitions=1,
        compacting=True,
        config=config,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )
    app.task(topic.maybe_declare)
    return topic


class AcknowledgedTable(faust.Table[bytes, bytes]):
    """A table of bytes that knows when the changelog has its last write: what was answered must be
    remembered first.
    """

    _last_write: FutureMessage | None = None

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Send a write to the changelog, and keep its future."""
        # the last is enough: writes of one message go to one partition, whose order the producer
        # keeps
        self._last_write = super().send_changelog(*args, **kwargs)
        return self._last_write

    async def acknowledged(self) -> None:
        """Wait until the broker has the last write."""
        if self._last_write is not None:
            await self._last_write


@contextmanager
def kafka_errors() -> Iterator[None]:
    """Raise what Kafka's client raised.

    Faust wraps what befalls a message before it is queued (the broker is away, and the buffer is
    full) in an error of its own, which says nothing of whether to try again.
    """
    try:
        yield
    except ProducerSendError as error:
        raise (error.__cause__ or error) from None


class FramedSender:
    """Sends framed events through the app's producer."""

    def __init__(self, app: faust.App, *names: str) -> None:
        self._app = app
        self._topics = {name: raw_topic(app, name) for name in names}
        self._frames: FrameCodec = getattr(app, "frames", SAME)

    async def warm(self) -> None:
        """Ask for the partitions of every topic now: the first answer would otherwise take 40 ms
        more a topic.
        """
        producer = self._app.producer._producer  # type: ignore[attr-defined]  # noqa: SLF001  # Faust has no such call
        for name in self._topics:
            await producer.partitions_for(name)

    async def send(self, *messages: Message) -> None:
        """Send `messages` in order and return once the broker has acknowledged each.

        Raises:
            KafkaError: it has not.
        """
        with kafka_errors():
            pending = [
                await self._topics[message.topic].send(
                    key=message.key,
                    value=self._frames.outgoing(message.value),
                    headers=list(message.headers),
                )
                for message in messages
            ]
        # sent in order, awaited together: one round trip to the broker instead of one a message
        await asyncio.gather(*pending)


def readiness(app: faust.App) -> dict[str, bool]:
    """What a worker needs before it consumes: its partitions, and its tables recovered."""
    try:
        assigned = bool(app.consumer.assignment())
    except ConsumerNotStarted:
        assigned = False
    return {
        # while a rebalance runs the old assignment is still listed
        "assigned": assigned and not app.rebalancing,
        "recovered": bool(app.tables.actives_ready),
    }


class _Sparse(logging.Filter):
    """Lets one of aiokafka's lines of a kind pass a minute: without a broker, it writes 200 lines a
    second.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        kind, now = (record.pathname, record.lineno), self._clock.monotonic()
        if now - self._last.get(kind, -math.inf) < _QUIET_S:
            return False
        self._last[kind] = now
        return True


def run(build_app: Callable[[Settings, Clock], faust.App]) -> NoReturn:
    """Build the app, run its worker until SIGTERM or SIGINT, and exit.

    An EsperError is printed as its sentence.

    The interpreter's own end is left out: once the worker has stopped, everything is closed, and
    taking all modules apart takes seconds where cores are short.
    """
    clock = SystemClock()
    try:
        app = build_app(Settings.load(), clock)
    except EsperError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    worker = faust.Worker(
        app,
        loglevel="warn",
        quiet=True,
        logging_config=logs.configuration({"sparse": lambda: _Sparse(clock)}),
    )
    worker.spinner = None  # a log is no terminal
    logs.tell_where()
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
