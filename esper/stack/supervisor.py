"""The supervisor: one process for each ESPER_HOME that keeps the broker and the parts alive, and
ends with its owners.

Everything is decided in one thread that sleeps until a child dies, a signal comes or a tenth of a
second has passed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from esper import logs
from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.disk import appended, make_folder
from esper.errors import EsperError, UnavailableError
from esper.identity import Identity
from esper.oona.bus.access import Access
from esper.oona.bus.rights import OWNER
from esper.service.transport.sockets import Listening, own_socket
from esper.stack.embedded import aot, broker
from esper.stack.launches import broker_launch, broker_node, part_launch
from esper.stack.processes import owners, stack_state
from esper.stack.processes.child import BROKER_STOP_S, PARTS_STOP_S, Child
from esper.stack.processes.leash import Leash
from esper.stack.processes.parts import Part, claim_ports, part_environment
from esper.stack.processes.ports import HOST, PortClaims
from esper.stack.processes.wake import Wake

_log = logging.getLogger("esper.stack")
_TICK_S = 0.1
_OWNERS_S = 0.5
_BROKER_ATTEMPTS = 3
_CLUSTER_S = 15.0
_ANSWER_S = 2.0
_RECORD_AFTER_S = 30.0


def serve(
    settings: Settings,
    parts: Sequence[Part],
    *,
    environment: Mapping[str, str],
    record_aot: bool = True,
) -> int:
    """Be the supervisor of this ESPER_HOME until told to stop; the exit code.

    At once 0 where another one lives.
    """
    logs.configure()
    folder = settings.stack_dir
    make_folder(folder)
    with appended(folder / stack_state.LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        if (me := Identity.of(os.getpid())) is not None:
            stack_state.sign(lock, me)
        if not owners.wanted(folder):  # started by hand: its own life is its reason
            owners.join(folder, me)
        return Supervisor(
            settings, parts, clock=SystemClock(), environment=environment, record_aot=record_aot
        ).run()


class Supervisor:
    """One stack. `run` returns when it has ended and no process of it is left."""

    def __init__(
        self,
        settings: Settings,
        parts: Sequence[Part],
        *,
        clock: Clock,
        environment: Mapping[str, str],
        record_aot: bool,
    ) -> None:
        self._settings = settings
        self._parts = tuple(parts)
        self._clock = clock
        self._environment = environment
        self._record_aot = record_aot and not settings.kafka.bootstrap
        self._recording: aot.Recording | None = None
        self._folder = settings.stack_dir
        self._wake = Wake()
        self._broker: Child | None = None
        self._children: list[Child] = []
        self._own: list[socket.socket] = []
        self._settled: Identity | None = None
        self._written: stack_state.Signature | None = None
        self._unwritten = ""
        me, before = Identity.of(os.getpid()), stack_state.read(self._folder)
        if me is None:
            raise UnavailableError(
                "this system does not tell a process when it was started: Esper's stack "
                "needs /proc or psutil"
            )
        self._state = stack_state.StackState(
            phase="starting",
            supervisor=me,
            embedded=not settings.kafka.bootstrap,
            bootstrap=settings.kafka.bootstrap,
            started_at_us=clock.now_us(),
            ports=before.ports if before else {},
            scheme=settings.scheme,
        )

    def run(self) -> int:
        """Start everything and keep it alive until SIGTERM, SIGINT or the last owner's end.

        The exit code.
        """
        code = 0
        self._written = stack_state.write(self._folder, self._state)
        with PortClaims() as claims, Leash() as leash, self._wake:
            try:
                self._start(claims, leash)
                self._watch(leash)
            except EsperError as error:
                _log.error("%s", error)
                self._publish(phase="stopping", error=(type(error).__name__, str(error)))
                code = error.exit_code
            self._publish(phase="stopping")
            self._end()
            for own in self._own:
                own.close()
        # After the last process: an owner that joins now starts a stack of its own.
        owners.clear(self._folder)
        self._publish(phase="failed" if code else "down")
        return code

    def _start(self, claims: PortClaims, leash: Leash) -> None:
        embedded = self._state.embedded
        ports = claim_ports(
            claims,
            self._parts,
            home=self._settings.home.resolve(),
            before=self._state.ports,
            embedded=embedded,
        )
        bootstrap = f"{HOST}:{ports['broker']}" if embedded else self._settings.kafka.bootstrap
        self._publish(ports=ports, bootstrap=bootstrap)
        if embedded:
            launch = broker_launch(self._folder, ports, self._environment)
            self._broker = Child(launch, leash=leash, clock=self._clock)
            threading.Thread(target=_load_client, daemon=True).start()
            self._await_broker(self._broker)
        else:
            self._await_cluster(bootstrap)
        self._ensure_topics()
        if self._wake.stop:
            return
        self._environment = part_environment(
            self._environment, self._settings, self._parts, ports, bootstrap
        )
        launches = [
            part_launch(
                part, self._listening(claims, ports[part.name]), self._settings, self._environment
            )
            for part in self._parts
        ]
        self._children = [Child(launch, leash=leash, clock=self._clock) for launch in launches]
        self._publish(phase="running")

    def _listening(self, claims: PortClaims, port: int) -> Listening:
        """The sockets of one part.

        They are ours, and listen until we end: its lives come and go behind them.
        """
        # After the claim of the port: whoever holds that may take a leftover socket away.
        own = own_socket(self._settings.sockets_dir, port)
        self._own.append(own)
        return Listening(port, claims.listening(port), own)

    def _watch(self, leash: Leash) -> None:
        started = judged = self._clock.monotonic()
        while not self._wake.stop:
            now = self._clock.monotonic()
            if leash.mend():
                _log.warning("the leash was killed and started again")
            for child in self._everyone():
                child.tick()
            self._publish()
            self._settle()
            if now >= judged + _OWNERS_S:
                judged = now
                self._judge_owners()
            if self._record_aot and (
                now >= started + _RECORD_AFTER_S
                or all(child.ready or child.asleep for child in self._everyone())
            ):
                self._record(leash)
            self._wake.wait(_TICK_S)

    def _settle(self) -> None:
        """Once in each life of our own broker, end the transactions that it left open when it was
        killed: see `esper.oona.admin.hanging`.
        """
        child = self._broker
        if child is None or not child.ready or child.state().process == self._settled:
            return
        self._settled = child.state().process
        node = broker_node(self._folder, self._state.ports)
        threading.Thread(
            target=_end_transactions, args=(node, self._settings, self._clock), daemon=True
        ).start()

    def _judge_owners(self) -> None:
        if owners.wanted(self._folder):
            return
        # Looked at again under the guard: a run may have joined since, and must not find its stack
        # ending.
        with owners.guard(self._folder):
            if not owners.wanted(self._folder):
                self._publish(phase="stopping")
                self._wake.stop = True

    def _record(self, leash: Leash) -> None:
        if self._recording is None and not aot.recorded():
            self._recording = aot.Recording(
                leash=leash, environment=self._environment, log=self._folder / "logs" / "aot.log"
            )
        if self._recording is None or self._recording.over():
            self._record_aot = False

    def _end(self) -> None:
        if self._recording is not None:
            self._recording.stop()
        # Parts first: what they still have to say goes to the broker.
        self._end_all(self._children, PARTS_STOP_S)
        if self._broker is not None:
            self._end_all([self._broker], BROKER_STOP_S)

    def _end_all(self, children: Sequence[Child], grace: float) -> None:
        for child in children:
            child.stop()
        deadline = self._clock.monotonic() + grace
        left = list(children)
        while left := [
            child for child in left if not child.gone(kill=self._clock.monotonic() > deadline)
        ]:
            self._publish()
            self._wake.wait(_TICK_S)
        self._publish()

    def _await_broker(self, child: Child) -> None:
        while not child.ready and not self._wake.stop:
            child.tick()
            if child.error is not None and (
                not child.mends_itself or child.failures >= _BROKER_ATTEMPTS
            ):
                raise child.error
            self._publish()
            self._wake.wait(0.02)
        self._publish()

    def _await_cluster(self, bootstrap: str) -> None:
        from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - an embedded broker's supervisor loads it while Java starts

        bus = KafkaBus(
            Access(self._settings.kafka, OWNER)
        )  # by its protocol and as who may: a TLS port answers no plain request
        deadline = self._clock.monotonic() + _CLUSTER_S
        while not bus.available(_ANSWER_S) and not self._wake.stop:
            if self._clock.monotonic() > deadline:
                raise UnavailableError(
                    f"no broker answers at {bootstrap}: start it, or unset "
                    "ESPER_KAFKA__BOOTSTRAP for the embedded one"
                )
            self._wake.wait(_TICK_S)

    def _ensure_topics(self) -> None:
        """Make what the cluster lacks: topics, and of our own broker its principals with their
        rights, which no other part receives before.
        """
        outcome: list[EsperError] = []
        node = broker_node(self._folder, self._state.ports) if self._state.embedded else None
        thread = threading.Thread(target=_topics, args=(node, self._settings, outcome), daemon=True)
        thread.start()
        # In a thread, because Kafka's client cannot be interrupted: SIGTERM must not wait for it.
        while thread.is_alive() and not self._wake.stop:
            self._wake.wait(0.02)
        if outcome:
            raise outcome[0]

    def _everyone(self) -> list[Child]:
        return [*([self._broker] if self._broker else []), *self._children]

    def _publish(
        self,
        *,
        phase: stack_state.Phase | None = None,
        ports: Mapping[str, int] | None = None,
        bootstrap: str | None = None,
        error: tuple[str, str] | None = None,
    ) -> None:
        new = replace(
            self._state,
            phase=phase or self._state.phase,
            ports=dict(ports or self._state.ports),
            bootstrap=bootstrap or self._state.bootstrap,
            error=error or self._state.error,
            parts=tuple(child.state() for child in self._everyone()),
        )
        if new == self._state:
            self._mend()
            return
        if new.phase != self._state.phase:
            _log.info(
                "the stack is %s; Kafka is at %s", new.phase, new.bootstrap or "no address yet"
            )
        for part in new.parts:
            old = self._state.part(part.name)
            if old is None or (old.phase, old.process, old.reason) != (
                part.phase,
                part.process,
                part.reason,
            ):
                pid = part.process.pid if part.process else None
                _log.info(
                    "%s is %s (pid %s, %d restarts)%s",
                    part.name,
                    part.phase,
                    pid,
                    part.restarts,
                    f": {part.reason}" if part.reason else "",
                )
        self._state = new
        self._save()

    def _mend(self) -> None:
        """Write the state file again if somebody has changed, damaged or deleted it, or if it could
        not be written before.
        """
        if self._written is None or stack_state.signature(self._folder) != self._written:
            self._save()

    def _save(self) -> None:
        try:
            self._written = stack_state.write(self._folder, self._state)
            self._unwritten = ""
        except EsperError as error:  # a full disk is no reason to end what runs
            if self._unwritten != (reason := str(error)):
                _log.warning("the state file cannot be written; this is tried again: %s", reason)
            self._written, self._unwritten = None, reason


def _load_client() -> None:
    import esper.oona.admin.topic_creation  # noqa: F401, PLC0415 - the Kafka client loads while Java does


def _topics(node: broker.BrokerNode | None, settings: Settings, outcome: list[EsperError]) -> None:
    from esper.oona.admin import topic_creation  # noqa: PLC0415 - see above
    from esper.oona.bus import wire  # noqa: PLC0415 - see above
    from esper.stack.embedded.securing import secure  # noqa: PLC0415 - see above

    try:
        if settings.registry.url:
            wire.resolve(settings, register=True)
        if node is not None:
            secure(node, settings.kafka_keys_dir)
        topic_creation.ensure(
            node.admin if node is not None else Access.of(settings, OWNER), settings.kafka
        )
    except EsperError as error:
        outcome.append(error)


def _end_transactions(node: broker.BrokerNode, settings: Settings, clock: Clock) -> None:
    from esper.oona.admin import hanging, topic_creation  # noqa: PLC0415 - see above

    counts = {
        name: partitions for name, (partitions, _) in topic_creation.wanted(settings.kafka).items()
    }
    try:
        for sentence in hanging.mend(node.admin, counts, clock=clock, timeout_s=_CLUSTER_S):
            _log.warning(
                "a transaction that the broker had decided and left open is ended: %s", sentence
            )
    except (
        EsperError
    ) as error:  # whoever reads behind one is told to end it by `esper topics apply`
        _log.warning("transactions that the broker left open are not ended: %s", error)
