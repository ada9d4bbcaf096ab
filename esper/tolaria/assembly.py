"""Where a run is put together: settings and recipe in, a trained model and a complete journal out."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from esper.checkpoint import SnapshotWriter
from esper.clock import Clock
from esper.config import Settings
from esper.errors import EsperError, FencedError, UnavailableError, UsageError
from esper.events import Event, JournalEvent, Origin, decode
from esper.events.envelope import trace_id
from esper.events.records import FieldReportAnswered, KernelPublished, SeedTransitioned
from esper.history.queries import events_by_topic, wait_caught_up
from esper.journal.replay import save_state
from esper.kasmina import GrowingModel, Place, germinate
from esper.kasmina.loader import KernelLoader
from esper.lifecycle import RunState, from_canonical
from esper.lifecycle.commands import Fail, Resume
from esper.oona.dead_letters import DeadLetters
from esper.oona.drain import Drain
from esper.oona.emitter import Emitter
from esper.oona.inbox import INBOX_TOPICS, Inbox
from esper.oona.journal import read_topics, require_new
from esper.oona.kafka import KafkaBus
from esper.oona.outbox import Outbox
from esper.oona.port import Bus, Received, Start
from esper.oona.start import start
from esper.tolaria.checkpoints import Checkpoints
from esper.tolaria.consultation import Consultation
from esper.tolaria.environment import observe
from esper.tolaria.grafting import Grafting
from esper.tolaria.journal import Journal
from esper.tolaria.names import named, require_run_id
from esper.tolaria.progress import Progress
from esper.tolaria.recipe import Recipe, function
from esper.tolaria.resume import Beginning, beginning, differences, folded, recipe_of
from esper.tolaria.session import Parts, Session
from esper.tolaria.splits import Splits, cached
from esper.tolaria.stepping import Stepper, numerics_of
from esper.tolaria.telemetry import Telemetry
from esper.tolaria.trainer import Outcome, Trainer, cache_settings, kernel_training, seeded_model, total_steps
from esper.urza.catalogue import Catalogue
from esper.urza.local import LocalStore
from esper.urza.store import Store

PROBED = 3  # samples of the forward in which layers show their geometry
DRAIN_S = 30.0  # how long the end of a run waits for Kafka to have the whole journal
HISTORY_S = 20.0  # how long it waits for the history to have every event


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that has ended in order."""

    run_id: str
    outcome: Outcome
    seconds: float
    longest_step_s: float
    state: RunState
    paths: dict[Place, list[SeedTransitioned]]
    events: dict[str, int]
    model_path: Path
    history_path: Path
    history_complete: bool

    @property
    def dropped(self) -> int:
        """Telemetry events that were dropped."""
        return sum(count for _, count in self.state.lost)

    def as_json(self) -> dict[str, Any]:
        """The result for scripts."""
        outcome = self.outcome
        return {
            "run_id": self.run_id,
            "outcome": outcome.outcome,
            "accuracy": outcome.accuracy,
            "loss": outcome.loss,
            "epochs": outcome.epochs,
            "steps": outcome.steps,
            "seeds": dict(Counter(seed.stage for seed in self.state.seeds)),
            "events": self.events,
            "dropped": self.dropped,
            "parameters": outcome.parameters,
            "digest": outcome.digest,
            "seconds": round(self.seconds, 3),
            "longest_step_s": round(self.longest_step_s, 4),
            "history_complete": self.history_complete,
            "model": str(self.model_path),
        }


def load_data(recipe: Recipe, settings: Settings) -> Splits:
    """The recipe's data, made once and kept under ESPER_HOME.

    Raises:
        UsageError: the function does not exist or returns something else.
    """
    make = function(recipe.data, "data")
    source = Path(make.__code__.co_filename)
    made = cached(recipe.name, make, source, settings.home.resolve() / "data")
    if not isinstance(made, Splits):
        raise UsageError(f"data = {recipe.data!r} returns {type(made).__name__}; it has to return esper.tolaria.splits.Splits.")
    return made


def train(
    settings: Settings,
    recipe: Recipe | None,
    *,
    run_id: str,
    bootstrap: str,
    history_url: str,
    clock: Clock,
    console: Console,
    history_s: float = HISTORY_S,
) -> Finished:
    """Train a run on a bus that answers, and wait until Kafka and, for at most `history_s` seconds, the history have all of it.

    Without a recipe the run `run_id` is resumed, with the recipe that its journal has.

    Raises:
        EsperError: the run cannot be begun or cannot go on; when it had begun, its journal says so too.
    """
    run_id = run_id or named(recipe.name if recipe else "run", clock)
    require_run_id(run_id)
    bus = KafkaBus(bootstrap)
    if not bus.available(10.0):
        raise UnavailableError(f"No broker answers at {bootstrap}; start one with `esper up`, or mend ESPER_KAFKA__BOOTSTRAP.")
    run_dir, progress = settings.runs_dir / run_id, Progress(console)
    store = LocalStore(settings.store_dir)
    with ExitStack() as stack:
        outbox = stack.enter_context(_closing(Outbox.open(run_dir / "outbox", clock=clock)))
        if recipe is None:
            past = _past(outbox, bus, clock, store, progress)
            recipe = recipe_of(past.events)
        else:
            past = _nothing(outbox, bus, clock)
        torch.set_num_threads(recipe.run.threads)
        environment = observe()
        for difference in differences(past.events, environment) if past.events else ():
            progress.say(difference)
        splits = load_data(recipe, settings)
        numerics = numerics_of(recipe.run)
        module = germinate(
            numerics.place(seeded_model(recipe, function(recipe.model, "model"))),
            seeds=recipe.kasmina.seeds,
            include=recipe.kasmina.include,
            exclude=recipe.kasmina.exclude,
        )
        growing = GrowingModel(module, training=kernel_training(recipe), numerics=numerics)
        growing.probe(splits.train[0][:PROBED])
        drain = Drain(outbox, bus, clock=clock)
        producer = stack.enter_context(bus.producer(sender_id="trainer"))
        emitter = Emitter(bus.producer(sender_id="trainer"), capacity=recipe.telemetry.ring, clock=clock)
        origin = Origin(run_id, "trainer", trace_id("run", run_id), clock)
        inbox = Inbox(
            bus,
            run_id,
            start=_inbox_start(bus, past.state),
            clock=clock,
            dead_letters=DeadLetters(producer, "trainer", clock),
            known=past.state.commands,
        )
        loader = KernelLoader(settings.store_dir, run_dir / "kernels", settings.kernel_cache_dir, clock, cache_settings(recipe))
        stack.callback(drain.stop)
        drain.start()
        recorded = (*past.events[past.beginning.state.sequence :], *_resumed(past, outbox, drain, origin, recipe)) if past.events else ()
        for begin, end in ((emitter.start, emitter.stop), (inbox.start, inbox.stop), (loader.start, loader.stop)):
            begin()
            stack.callback(end)
        consultation = Consultation(
            run_id=run_id,
            inbox=inbox,
            producer=producer,
            clock=clock,
            lockstep=recipe.decisions == "lockstep",
            timeout_s=recipe.tamiyo.consult_timeout_s,
            timeline=past.state.timeline,
            catalogue=past.catalogue,
            offered=past.offered,
        )
        steps = total_steps(recipe, splits.train)
        session = Session(
            Parts(
                recipe=recipe,
                held_out=splits.validation,
                test=splits.test,
                growing=growing,
                stepper=Stepper(growing, recipe, steps),
                journal=Journal(
                    state=past.beginning.state,
                    outbox=outbox,
                    origin=origin,
                    guardrails=recipe.guardrails,
                    notify=drain.notify,
                    recorded=recorded,
                ),
                consultation=consultation,
                telemetry=Telemetry(origin=origin, emit=emitter.emit, growing=growing, gates=recipe.gates),
                grafting=Grafting(loader, consultation, growing, clock),
                checkpoints=Checkpoints(SnapshotWriter(store, clock), recipe.checkpoints, clock),
                store=store,
                origin=origin,
                clock=clock,
                progress=progress,
                environment=environment,
                run_dir=run_dir,
                lost=emitter.lost,
                require_pen=lambda: _require_pen(drain, run_id),
            ),
            steps,
        )
        session.remember(past.events[: past.beginning.state.sequence])
        if past.beginning.snapshot is not None:
            session.restore(past.beginning.snapshot, past.beginning.state)
        trainer = Trainer(session, splits.train)
        begun = clock.monotonic()
        outcome = _trained(trainer, progress)
        seconds = clock.monotonic() - begun
        save_state(run_dir, session.state)
        _settle(drain, emitter, producer_flush=producer.flush, progress=progress)
        complete = wait_caught_up(history_url, bus, timeout=history_s)
        events = events_by_topic(history_url, run_id) if complete else _told(session, emitter)
        return Finished(
            run_id=run_id,
            outcome=outcome,
            seconds=seconds,
            longest_step_s=trainer.longest_step_s,
            state=session.state,
            paths=session.paths,
            events=events,
            model_path=run_dir / "model.safetensors",
            history_path=settings.history_dir,
            history_complete=complete,
        )


@dataclass(frozen=True, slots=True)
class _Past:
    """What there is of a run: its events and their fold, where it begins now, and the kernels that it may meet."""

    events: tuple[JournalEvent, ...]
    state: RunState
    beginning: Beginning
    catalogue: Catalogue
    offered: tuple[str, ...] | None


def _nothing(outbox: Outbox, bus: Bus, clock: Clock) -> _Past:
    """The past of a new run, whose id nobody has used."""
    run_id = outbox.run_id
    require_new(bus, run_id, clock=clock)
    if outbox.next_sequence > 0:
        raise UsageError(
            f"Run {run_id} was begun here and never reached Kafka; its events are in {outbox.directory}. Go on with it by --resume, or choose "
            "another --run-id."
        )
    start(outbox, bus, clock=clock)
    state = RunState(run_id)
    return _Past((), state, Beginning(state, None, "", ()), Catalogue(), None)


def _past(outbox: Outbox, bus: Bus, clock: Clock, store: Store, progress: Progress) -> _Past:
    """The past of a run that is resumed: fences any other writer of it, brings outbox and Kafka together, folds."""
    run_id, events = outbox.run_id, list[JournalEvent]()

    def hear(received: Received) -> None:
        event = decode(received.value, received.headers)
        assert isinstance(event, JournalEvent)  # noqa: S101  # nothing else is on the journal's topic
        events.append(event)

    started = start(outbox, bus, clock=clock, on_event=hear)
    state = folded(run_id, events)
    found = beginning(run_id, events, store)
    for note in (*started.notes, *found.notes):
        progress.say(note)
    progress.say(f"Run {run_id} goes on from {f'snapshot {found.name}' if found.name else 'its first step'}.")
    kernels: list[Event] = []
    offered: set[str] | None = None
    for event in read_topics(bus, [KernelPublished.TOPIC, FieldReportAnswered.TOPIC], clock=clock):
        if isinstance(event, KernelPublished):
            kernels.append(event)
        elif isinstance(event, FieldReportAnswered) and event.run_id == run_id:
            offered = (offered or set()) | set(event.kernels)
    return _Past(tuple(events), state, found, Catalogue().evolve(kernels), None if offered is None else tuple(sorted(offered)))


def _resumed(past: _Past, outbox: Outbox, drain: Drain, origin: Origin, recipe: Recipe) -> tuple[JournalEvent, ...]:
    """RunResumed, committed to Kafka before anything else happens: whoever wrote this run before is fenced."""
    pen = Journal(state=past.state, outbox=outbox, origin=origin, guardrails=recipe.guardrails, notify=drain.notify)
    begun = past.beginning
    step = from_canonical(begun.snapshot.notes["state"]).step if begun.snapshot else 0
    events = pen.do(
        Resume(
            reason="Resumed by `esper run --resume`.",
            incarnation=past.state.incarnation + 1,
            snapshot_id=begun.name,
            restored_step=step,
        ),
        past.state.step,
    )
    if not drain.wait_empty(DRAIN_S):
        _require_pen(drain, outbox.run_id)
        raise UnavailableError(f"The broker did not take the resumption of run {outbox.run_id} within {DRAIN_S:.0f} s; try again.")
    return events


def _inbox_start(bus: Bus, state: RunState) -> Start:
    """Where the inbox begins. A new run hears answers and commands from now on, kernels from the beginning; a resumed one from where it was."""
    if state.sequence > 0:
        return {(topic, partition): offset for topic, partition, offset in state.positions}
    topics = [topic for topic in INBOX_TOPICS if topic != KernelPublished.TOPIC]
    with bus.reader(topics, start="end") as reader:
        return reader.position()


def _trained(trainer: Trainer, progress: Progress) -> Outcome:
    """Run the loop with Ctrl-C and SIGTERM ending it in order; what cannot go on is journalled as RunFailed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if trainer.session.stop:
            raise KeyboardInterrupt
        progress.say("Ending the run after this step; once more ends it at once.")
        trainer.session.stop = True

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    progress.start()
    try:
        return trainer.run()
    except FencedError:
        raise
    except EsperError as error:
        _journal_failure(trainer, type(error).__name__, str(error))
        raise
    except Exception as error:
        _journal_failure(trainer, type(error).__name__, f"{type(error).__name__}: {error}")
        raise
    finally:
        progress.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _journal_failure(trainer: Trainer, error: str, reason: str) -> None:
    session = trainer.session
    if session.state.status in ("RUNNING", "PAUSED") and not session.parts.journal.replaying:
        session.parts.journal.do(Fail(error=error, reason=reason), session.step)


def _settle(drain: Drain, emitter: Emitter, *, producer_flush: Any, progress: Progress) -> None:
    """Wait until Kafka has the journal and the telemetry."""
    emitter.flush(DRAIN_S)
    producer_flush(DRAIN_S)
    if not drain.wait_empty(DRAIN_S):
        progress.say(
            "The broker has not taken the whole journal yet; the rest is safe in the run's outbox and goes out when the run is opened again."
        )


def _told(session: Session, emitter: Emitter) -> dict[str, int]:
    """What the trainer itself wrote, by topic: the answer when the history cannot be asked."""
    written = Counter(emitter.delivered())
    written["system.events.run"] = session.state.sequence
    return dict(written)


def _require_pen(drain: Drain, run_id: str) -> None:
    """Stop a trainer whose journal cannot be carried to Kafka any more: another writer has it, or the outbox is damaged."""
    if drain.fenced:
        raise FencedError(f"Another trainer has taken over run {run_id}; this one has stopped and writes nothing more.")
    if drain.error is not None:
        raise drain.error


@contextmanager
def _closing(outbox: Outbox) -> Iterator[Outbox]:
    try:
        yield outbox
    finally:
        outbox.close()
