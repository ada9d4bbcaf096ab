"""A run re-executed from its journal: no broker, no other part, no outbox, nothing written.

Any step is rebuilt, bit for bit.

The session is the one that trained. What came from outside comes from the record, kernels from an
archive, and telemetry stays in the process.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from rich.console import Console
from torch import nn

from esper.checkpoint import Snapshot, SnapshotWriter
from esper.checkpoint.tensors import Tensors
from esper.clock import Clock
from esper.errors import CorruptError, KeyMissingError, UnavailableError
from esper.events import Event, JournalEvent, Origin, decode
from esper.events.envelope import trace_id
from esper.kasmina import GrowingModel
from esper.kasmina.monitor import SeedMonitor
from esper.kasmina.unpacked import Unpacked
from esper.lifecycle import RunState
from esper.lifecycle.commands import Adapt, Move, ReportFailure, Resume
from esper.oona.durable.frames import Frame
from esper.tolaria.exchange.consultation import Consultation, Nobody
from esper.tolaria.exchange.grafting import Grafting, seeds_waiting
from esper.tolaria.exchange.telemetry import Telemetry
from esper.tolaria.recipes.environment import Environment, observe
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.recipes.splits import Split, Splits
from esper.tolaria.record.addresses import Address, Anchor, anchors
from esper.tolaria.record.checkpoints import Checkpoints
from esper.tolaria.record.journal import Journal
from esper.tolaria.record.resume import RestorePoint, recipe_of, standing
from esper.tolaria.replay.archived_kernels import ArchivedKernels
from esper.tolaria.run.trainee import trainee_of
from esper.tolaria.run.trainer import Trainer
from esper.tolaria.session.composition import Arrived, Parts, Stepping
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session
from esper.tolaria.step.method import Method
from esper.tolaria.step.tasks import Task
from esper.vault.boxes import MODELS, Box
from esper.vault.sealing import KEY_BYTES

T = TypeVar("T")
NOWHERE = (
    Path(os.devnull) / "nowhere"
)  # a run that is re-executed has no folder: what would write there fails


@dataclass(frozen=True, slots=True)
class Archive:
    """What re-executing a run takes: its whole journal in order, snapshots, kernels by id, and
    what executes its steps.

    `kernels` raises CorruptError for one that is lost. `inputs` are the versions of its data and
    sources, as `observe` takes them.
    """

    events: Sequence[JournalEvent]
    tensors: Tensors
    kernels: Callable[[str], Unpacked]
    loop: Loop
    clock: Clock
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The run."""
        return self.events[0].run_id

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was begun with."""
        return recipe_of(self.events)

    @property
    def threads(self) -> int:
        """Threads of torch that its steps had."""
        return self.loop.threads

    def apart(self, job: Callable[[Archive, Progress], T], progress: Progress) -> T:
        """What `job` makes of the run, wherever its steps can be executed.

        For a script that is a process of its own, of which nobody is told: then `job` and what it
        gives are pickled.
        """
        return self.loop.apart(partial(job, self, progress), job)


@dataclass(frozen=True, slots=True)
class Cast:
    """What a loop trains, as a session takes it."""

    growing: GrowingModel
    task: Task
    stepper: Stepping
    held_out: Split
    test: Split
    steps: int


class Driver(Protocol):
    """A loop under way."""

    @property
    def session(self) -> Session:
        """Its session."""

    def train_on(self) -> None:
        """Go on to the session's goal, which raises Arrived, or to the loop's end."""


class Loop(Protocol):
    """What executes the steps of a run: a recipe's loop, or a script."""

    @property
    def threads(self) -> int:
        """Threads of torch."""

    @property
    def seeded(self) -> bool:
        """Whether the run's seed gives its first parameters; those of a script are its own."""

    def begin(
        self, recipe: Recipe, begin: RestorePoint, session_of: Callable[[Cast], Session]
    ) -> Driver:
        """The loop before its first step from `begin` on, around the session that `session_of`
        makes. An execution that is under way ends.
        """

    def apart(self, here: Callable[[], T], job: Callable[[Archive, Progress], T]) -> T:
        """As `Archive.apart`: `here` is the same job in this process."""


@dataclass(frozen=True, slots=True)
class RecipeLoop:
    """The loop around the method, model and data of a recipe."""

    method: Method
    model: Callable[[], nn.Module]
    splits: Splits
    threads: int

    @property
    def seeded(self) -> bool:
        """By its recipe."""
        return True

    def begin(
        self, recipe: Recipe, begin: RestorePoint, session_of: Callable[[Cast], Session]
    ) -> Driver:
        """A trainer of a model of its own."""
        del begin
        trainee = trainee_of(recipe, self.model, self.splits, self.method)
        splits = trainee.splits
        session = session_of(
            Cast(
                trainee.growing,
                trainee.task,
                trainee.stepper,
                splits.validation,
                splits.test,
                trainee.steps,
            )
        )
        return Trainer(session, self.splits.train)

    def apart(self, here: Callable[[], T], job: Callable[[Archive, Progress], T]) -> T:
        """Here: it leaves nothing behind."""
        del job
        return here()


Scripted = Adapt | Move | ReportFailure
"""What may come from outside in a run that goes on by a script: decisions, kernels that arrive
(Move to TRAINING), loads that fail.
"""


@dataclass(frozen=True, slots=True)
class _Memory:
    """Frames of a journal that nobody keeps."""

    frames: list[Frame]

    def append(self, frame: Frame) -> None:
        self.frames.append(frame)


@dataclass(slots=True)
class Rerun:
    """A run that stands again where it stood.

    `begun` names the snapshot that it was begun from, empty for the first step; `notes` say what
    was lost.
    """

    trainer: Driver
    begun: str
    notes: tuple[str, ...]

    @property
    def session(self) -> Session:
        """The session, whose model is in `session.parts.growing`."""
        return self.trainer.session

    def snapshot(self) -> Snapshot:
        """All state, copied: what would come back of a snapshot that the live run had
        taken here.
        """
        living = self.session.snapshots.living()
        # through JSON, as a stored one: copies, with lists where there were tuples
        notes = json.loads(json.dumps(living.notes))
        return Snapshot(
            {name: tensor.detach().cpu().clone() for name, tensor in living.tensors.items()}, notes
        )

    def run_on(
        self, step: int | None, script: Sequence[tuple[int, Scripted]] = ()
    ) -> list[JournalEvent]:
        """Train on to `step`, or to the end of the run, with nothing from outside but the script:
        (steps completed, command) in order.

        Its journal is in memory only: the events are given back. Gates move seeds as in any run. A
        germinated seed whose arrival (Move to TRAINING) or failed load the script has is grafted
        there, any other at once. What is scripted for a seed that does not wait for a kernel is
        left out, and a decision that does not fit is answered with AdaptationRejected.
        """
        session = self.session
        before = session.parts.journal.state
        frames: list[Frame] = []
        journal = Journal(
            state=before,
            outbox=_Memory(frames),
            origin=session.parts.origin,
            guardrails=session.parts.recipe.guardrails,
            notify=lambda: None,
        )
        session.parts.journal, session.standing.goal = journal, step
        # nobody is there to resume it
        if before.status == "PAUSED":
            session.do(Resume(reason="Re-executed.", incarnation=before.incarnation))
        grafting, pending = session.parts.grafting, deque(script)

        def between(session: Session) -> None:
            while pending and pending[0][0] <= session.step:
                _carry_out(session, pending.popleft()[1])
            # these kernels come later by the script: grafted at once they would train too early
            grafting.held = {
                (command.layer, command.seed)
                for _, command in pending
                if not isinstance(command, Adapt)
            }

        with session.hooked(between), suppress(Arrived):
            self.trainer.train_on()
        return [
            event
            for frame in frames
            for message in frame.events
            if isinstance(event := decode(message.value), JournalEvent)
        ]


def _carry_out(session: Session, command: Scripted) -> None:
    """A scripted command, if it still says something."""
    if isinstance(command, Adapt):
        session.do(command)
        return
    place = (command.layer, command.seed)
    waiting = next(
        (seed for seed in seeds_waiting(session.state) if (seed.layer, seed.seed) == place), None
    )
    if waiting is None:
        return
    if isinstance(command, Move):
        session.parts.grafting.again(session.state, place, waiting.kernel_id)
    session.do(command)


@dataclass(slots=True)
class Reexecution:
    """Re-executes an archived run.

    `told` has the session before each step, and `session` is the last one, also where it went
    astray.

    `heard` has what the run tells of its steps: the telemetry of the live run.
    """

    archive: Archive
    progress: Progress
    usable: Callable[[Anchor], bool] = lambda _: True
    told: Callable[[Session], None] = lambda _: None
    heard: Callable[[Event], None] = lambda _: None
    notes: list[str] = field(default_factory=list)
    session: Session | None = None
    environment: Environment = field(default_factory=observe)

    def rebuild(self, address: Address) -> Rerun:
        """The run as it stood at `address`, from the nearest snapshot that is `usable` and whole,
        or from its first step.

        A timeline whose opening snapshot is not usable is reached through the one that it left. The
        global random streams of this process and torch's number of threads are the run's
        afterwards.

        Raises:
            Diverged: the run does something else than its journal has.
            CorruptError: the journal was changed, or a kernel is lost.
            UnavailableError: it begins with another run's state, and that is lost.
            KeyMissingError: it begins with a snapshot whose key is not at hand.
        """
        # how threads split a sum of floats decides its last bits
        torch.set_num_threads(self.archive.threads)
        begin = self._begin(address)
        recipe = alone(self.archive.recipe)
        trainer = self.archive.loop.begin(recipe, begin, partial(self._session, recipe, begin))
        rerun = Rerun(trainer, begin.name, tuple(self.notes))
        self.go_on(rerun, address)
        return rerun

    def go_on(self, rerun: Rerun, address: Address) -> None:
        """Execute the record from where the run stands to a later state of the same timeline.

        Raises as `rebuild` does.
        """
        session = rerun.session
        # no event behind the address: what came from outside there would change the state
        session.parts.journal.record(self.archive.events[session.state.sequence : address.sequence])
        session.standing.goal = address.step
        try:
            rerun.trainer.train_on()
        except Arrived:
            pass
        else:  # the last step of a run has no step after it
            session.recorder.catch_up()
        if (session.step, session.state.sequence) != (address.step, address.sequence):
            raise CorruptError(
                f"Re-executed, run {self.archive.run_id} ends at step {session.step} "
                f"with {session.state.sequence} events, not at {address} with "
                f"{address.sequence}; its journal or what executes its steps was changed."
            )

    def _begin(self, address: Address) -> RestorePoint:
        archive = self.archive
        for anchor in anchors(archive.events, address):
            if self.usable(anchor):
                try:
                    return standing(
                        archive.run_id,
                        archive.events,
                        anchor,
                        archive.tensors.read(anchor.key, anchor.sha256),
                        (),
                    )
                except KeyMissingError as error:
                    # not passed over like damage: the user can give the key, and re-executing from
                    # further back may take hours
                    if anchor.opens and anchor.source is None:
                        raise KeyMissingError(
                            f"Run {archive.run_id} begins with another run's state, which "
                            f"is a snapshot. {error}"
                        ) from error
                    raise
                except CorruptError as error:
                    self.notes.append(f"Snapshot {anchor.name} cannot be used: {error}")
            if anchor.opens:
                if anchor.source is None:
                    lost = self.notes[-1] if self.notes else "This replay does not use it."
                    raise UnavailableError(
                        f"Run {archive.run_id} begins with the state {anchor.name}, which "
                        f"is not available: restore it, or fork that run again. {lost}"
                    )
                # the timeline that was left may have been opened by a rollback, too
                source = self.rebuild(anchor.source)
                return replace(
                    standing(archive.run_id, archive.events, anchor, source.snapshot(), ()),
                    name=source.begun,
                )
        return RestorePoint(RunState(archive.run_id), None, "", ())

    def _session(self, recipe: Recipe, begin: RestorePoint, cast: Cast) -> Session:
        archive, clock, run_id = self.archive, self.archive.clock, self.archive.run_id
        origin = Origin(run_id, "trainer", trace_id("run", run_id), clock)
        journal = Journal(
            state=begin.state,
            outbox=None,
            origin=origin,
            guardrails=recipe.guardrails,
            notify=lambda: None,
        )
        monitor = SeedMonitor(cast.growing)
        session = self.session = Session(
            Parts(
                recipe=recipe,
                task=cast.task,
                held_out=cast.held_out,
                test=cast.test,
                growing=cast.growing,
                stepper=cast.stepper,
                journal=journal,
                consultation=Consultation(
                    run_id=run_id,
                    inbox=Nobody(),
                    producer=Nobody(),
                    clock=clock,
                    lockstep=False,
                    timeout_s=0.0,
                    timeline=begin.state.timeline,
                ),
                monitor=monitor,
                telemetry=Telemetry(
                    origin=origin,
                    emit=self.heard,
                    growing=cast.growing,
                    monitor=monitor,
                    gates=recipe.gates,
                ),
                grafting=Grafting(ArchivedKernels(archive.kernels), cast.growing, clock),
                checkpoints=Checkpoints(
                    SnapshotWriter(archive.tensors, clock), recipe.checkpoints, clock
                ),
                tensors=archive.tensors,
                origin=origin,
                clock=clock,
                progress=self.progress,
                environment=self.environment,
                run_dir=NOWHERE,
                models=Box(
                    MODELS, secrets.token_bytes(KEY_BYTES)
                ),  # for nobody: nothing is written
                lost=dict,
                require_pen=lambda: None,  # nobody else writes this journal
            ),
            cast.steps,
            self.told,
        )
        session.begin_at(archive.events[: begin.state.sequence], begin.snapshot, begin.state)
        return session


def alone(recipe: Recipe) -> Recipe:
    """The recipe of a session that asks nobody and takes no snapshots: all that came of it stands
    in the record.
    """
    return recipe.model_copy(
        update={
            "tamiyo": recipe.tamiyo.model_copy(update={"enabled": False}),
            "checkpoints": recipe.checkpoints.model_copy(
                update={"every_epochs": 0, "every_steps": 0, "every_minutes": math.inf}
            ),
        }
    )


def quiet() -> Progress:
    """Tells nobody."""
    return Progress(Console(file=io.StringIO()))
