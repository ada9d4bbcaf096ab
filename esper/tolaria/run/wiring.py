"""A run's threads, bus and session, put together the same way for a recipe's loop and for a user's
own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint import SnapshotWriter, open_tensors
from esper.clock import Clock
from esper.config import Settings
from esper.errors import (
    DeniedError,
    FencedError,
    PoisonError,
    UnavailableError,
    UsageError,
    printable,
)
from esper.events import JournalEvent, Origin
from esper.events.envelope import trace_id
from esper.events.records import KernelPublished
from esper.events.seals import TRAINER, SealChain, Trust
from esper.journal.provenance import Provenance, note, provenance
from esper.journal.replay import save_state
from esper.kasmina import GrowingModel
from esper.kasmina.loader import CacheSettings, KernelLoader
from esper.kasmina.monitor import SeedMonitor
from esper.lifecycle import RunState
from esper.lifecycle.commands import Resume
from esper.oona.bus.access import Access
from esper.oona.bus.emitter import Emitter
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Bus, Producer, Start
from esper.oona.durable.drain import Drain
from esper.oona.durable.journal_reader import JOURNAL, require_known
from esper.oona.durable.outbox import Outbox
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.inbox import INBOX_TOPICS, Inbox
from esper.service.transport import signing
from esper.tolaria.exchange.consultation import Consultation
from esper.tolaria.exchange.grafting import Grafting, Published
from esper.tolaria.exchange.telemetry import Telemetry
from esper.tolaria.recipes.environment import Environment
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.recipes.splits import Split
from esper.tolaria.record.checkpoints import Checkpoints
from esper.tolaria.record.journal import Journal
from esper.tolaria.record.snapshot_content import RunSnapshot
from esper.tolaria.run.past import Past
from esper.tolaria.session.composition import Parts, Stepping
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session
from esper.tolaria.step.tasks import Task
from esper.urza.memory_tier import MIB, CacheLimits
from esper.urza.opening import open_store
from esper.vault.boxes import KERNELS, MODELS, open_box
from esper.vault.family_keys import require_own

BROKER_S = 10.0  # how long a run that begins waits for a broker
EMBEDDED_S = 30.0  # the same for one that the stack brings back when it has died
DRAIN_S = 30.0  # how long the end of a run waits for Kafka to have the whole journal


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where a run works: the installation, its folder, the bus and the outbox that it holds."""

    settings: Settings
    run_id: str
    bus: Bus
    outbox: Outbox
    clock: Clock
    progress: Progress

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.settings.runs_dir / self.run_id

    @property
    def trust(self) -> Trust:
        """Whose events this installation believes, its own trainer among them."""
        signing.ensure(self.settings.keys_dir, TRAINER, self.clock)
        return signing.trust(self.settings.keys_dir)

    @property
    def origin(self) -> Origin:
        """Who emits the run's events."""
        return Origin(self.run_id, "trainer", trace_id("run", self.run_id), self.clock)


@contextmanager
def place_of(
    settings: Settings,
    run_id: str,
    cluster: Access | str,
    clock: Clock,
    progress: Progress,
    *,
    resumed: bool = False,
) -> Iterator[RunContext]:
    """The place of a run, its outbox locked, on a broker that answers.

    A run that is `resumed` here for the first time has a journal there.

    Raises:
        UnavailableError: no broker answers.
        UsageError: another process holds the run, there is none to resume, or a new one has the id
            of one that came from elsewhere.
    """
    bus = KafkaBus(cluster)
    if not bus.available(BROKER_S if settings.kafka.bootstrap else EMBEDDED_S):
        raise UnavailableError(
            f"No broker answers at {bus.bootstrap}; start one with `esper up`, or correct "
            "ESPER_KAFKA__BOOTSTRAP."
        )
    folder = settings.runs_dir / run_id
    if resumed and not (folder / "outbox").is_dir() and provenance(folder) is None:
        require_known(bus, run_id, clock=clock, trust=signing.trust(settings.keys_dir))
        # before the outbox exists: with one and no note, the run would count as begun here
        note(folder, Provenance(f"Kafka at {bus.bootstrap}"))
    if not resumed and (imported := provenance(folder)) is not None and not imported.fork:
        raise UsageError(
            f"The id {run_id} is that of a run which came from {printable(imported.origin)}; "
            "choose another --run-id."
        )
    outbox = Outbox.open(settings.runs_dir / run_id / "outbox", clock=clock)
    try:
        yield RunContext(settings, run_id, bus, outbox, clock, progress)
    finally:
        outbox.close()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A session and what carries its events."""

    session: Session
    drain: Drain
    emitter: Emitter
    producer: Producer
    place: RunContext

    @property
    def rerun(self) -> bool:
        """It trains."""
        return False

    def ready(self) -> None:
        """Nothing is left to be done before the first step."""

    def settle(self) -> None:
        """At a run's end: keep its state, and wait until Kafka has the journal and the
        telemetry.
        """
        save_state(self.place.folder, self.session.state)
        self.emitter.flush(DRAIN_S)
        if isinstance(self.emitter.error, DeniedError):
            self.place.progress.say(f"Telemetry was lost: {self.emitter.error}")
        self.producer.flush(DRAIN_S)
        if not self.drain.wait_empty(DRAIN_S):
            self.place.progress.say(
                "The broker has not taken the whole journal yet; the rest is safe in the "
                "run's outbox and goes out when the run is resumed."
            )


def rig(
    stack: ExitStack,
    place: RunContext,
    past: Past,
    recipe: Recipe,
    *,
    task: Task,
    growing: GrowingModel,
    stepper: Stepping | None,
    held_out: Split,
    test: Split,
    steps: int,
    environment: Environment,
) -> Runtime:
    """Start what a run needs beside its loop, which `stack` ends again, and restore what its past
    has.
    """
    settings, clock, bus, origin, trust = (
        place.settings,
        place.clock,
        place.bus,
        place.origin,
        place.trust,
    )
    store = open_store(settings)
    # before anything is sealed: a key of this name that an import brought is known to others
    if not past.events and past.family == place.run_id:
        require_own(store, past.family)
    tensors = open_tensors(settings, past.family)
    chain = SealChain(signing.ensure(settings.keys_dir, TRAINER, clock), past.head)
    drain = Drain(place.outbox, bus, clock=clock, trust=trust)
    producer = stack.enter_context(bus.producer(sender_id="trainer"))
    letters = DeadLetters(producer, "trainer", clock)
    for message in past.aside:
        letters.put(message.received, PoisonError(message.sentence()))
    # a producer of its own: a burst of telemetry must not hold up packets
    emitter = Emitter(
        bus.producer(sender_id="trainer"), capacity=recipe.telemetry.ring, clock=clock
    )
    inbox = Inbox(
        bus,
        place.run_id,
        start=_inbox_start(bus, past.state, place.outbox),
        clock=clock,
        dead_letters=letters,
        known=past.state.commands,
        trust=trust,
    )
    loader = KernelLoader(
        settings.store_location,
        place.folder / "kernels",
        settings.kernel_cache_dir,
        clock,
        open_box(settings, store, KERNELS),
        cache_settings(recipe),
        settings.urza.endpoint,
    )
    stack.callback(drain.stop)
    drain.start()
    # RunResumed is on Kafka before inbox and loader start: until then another process may write
    recorded = (
        (
            *past.events[past.beginning.state.sequence :],
            *_resumed(past, place, drain, recipe, chain),
        )
        if past.events
        else ()
    )
    for begin, end in (
        (emitter.start, emitter.stop),
        (inbox.start, inbox.stop),
        (loader.start, loader.stop),
    ):
        begin()
        stack.callback(end)
    consultation = Consultation(
        run_id=place.run_id,
        inbox=inbox,
        producer=producer,
        clock=clock,
        lockstep=recipe.decisions == "lockstep",
        timeout_s=recipe.tamiyo.consult_timeout_s,
        timeline=past.state.timeline,
        catalogue=past.catalogue,
        offered=past.offered,
    )
    monitor = SeedMonitor(growing)
    session = Session(
        Parts(
            recipe=recipe,
            task=task,
            held_out=held_out,
            test=test,
            growing=growing,
            stepper=stepper,
            journal=Journal(
                state=past.beginning.state,
                outbox=place.outbox,
                origin=origin,
                guardrails=recipe.guardrails,
                notify=drain.notify,
                chain=chain,
                recorded=recorded,
            ),
            consultation=consultation,
            monitor=monitor,
            telemetry=Telemetry(
                origin=origin,
                emit=emitter.emit,
                growing=growing,
                monitor=monitor,
                gates=recipe.gates,
            ),
            grafting=Grafting(Published(loader, consultation), growing, clock),
            checkpoints=Checkpoints(SnapshotWriter(tensors, clock), recipe.checkpoints, clock),
            tensors=tensors,
            origin=origin,
            clock=clock,
            progress=place.progress,
            environment=environment,
            run_dir=place.folder,
            models=open_box(settings, store, MODELS),
            lost=emitter.lost,
            require_pen=lambda: _require_both(drain, inbox, place),
        ),
        steps,
    )
    session.begin_at(
        past.events[: past.beginning.state.sequence], past.beginning.snapshot, past.beginning.state
    )
    return Runtime(session, drain, emitter, producer, place)


def cache_settings(recipe: Recipe) -> CacheSettings:
    """The kernel cache's limits from a recipe."""
    cache = recipe.cache
    memory = CacheLimits(cache.entries, cache.memory_mib * MIB, cache.layer_mib * MIB)
    return CacheSettings(memory, cache.disk_mib * MIB, cache.prefetch)


def _resumed(
    past: Past, place: RunContext, drain: Drain, recipe: Recipe, chain: SealChain
) -> tuple[JournalEvent, ...]:
    """RunResumed, committed to Kafka before anything else happens: whoever wrote this run before is
    fenced.
    """
    # beside the session's journal, which still has the record to re-execute
    writer = Journal(
        state=past.state,
        outbox=place.outbox,
        origin=place.origin,
        guardrails=recipe.guardrails,
        notify=drain.notify,
        chain=chain,
    )
    begun = past.beginning
    events = writer.do(
        Resume(
            reason="Resumed.",
            incarnation=past.state.incarnation + 1,
            snapshot_id=begun.name,
            restored_step=RunSnapshot.of(begun.snapshot).cursor["step"] if begun.snapshot else 0,
        ),
        past.state.step,
    )
    if not drain.wait_empty(DRAIN_S):
        _require_pen(drain, place.run_id)
        raise UnavailableError(
            f"The broker did not take the resumption of run {place.run_id} within "
            f"{DRAIN_S:.0f} s; try again."
        )
    return events


def _inbox_start(bus: Bus, state: RunState, outbox: Outbox) -> Start:
    """Where the inbox begins.

    A new run hears answers and commands from now on, kernels from the beginning; a resumed one from
    where it was.

    Its own journal it watches from what Kafka has acknowledged on.
    """
    topics = (
        [JOURNAL]
        if state.sequence > 0
        else [JOURNAL, *(topic for topic in INBOX_TOPICS if topic != KernelPublished.TOPIC)]
    )
    with bus.reader(topics, start="end") as reader:
        now = dict(reader.position())
    own = (JOURNAL, bus.partition_of(JOURNAL, outbox.run_id.encode()))
    now[own] = (
        min(now[own], outbox.acknowledged().offset) if outbox.acknowledged().offset else now[own]
    )
    # positions win: what the journal answers is not read again, what came since is not skipped
    return now | {(topic, partition): offset for topic, partition, offset in state.positions}


def _require_both(drain: Drain, inbox: Inbox, place: RunContext) -> None:
    """Stop a trainer that can write no more, or hear no more: it would wait forever.

    Say what it has heard that nobody of its own said.
    """
    _require_pen(drain, place.run_id)
    for sentence in inbox.take_warnings():
        place.progress.say(sentence)
    if inbox.error is not None:
        raise inbox.error


def _require_pen(drain: Drain, run_id: str) -> None:
    """Stop a trainer whose journal cannot be carried to Kafka any more: another writer has it, or
    the outbox is damaged.
    """
    if drain.fenced:
        raise FencedError(
            f"Another trainer has taken over run {run_id}; this one has stopped and writes "
            "nothing more."
        )
    if drain.error is not None:
        raise drain.error
