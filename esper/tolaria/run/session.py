"""What surrounds the steps of a run: its journal, commands, kernels, gates, consultation and snapshots.

Everything takes effect between two steps and nowhere else. While a resumed run executes its record again, what comes from outside is taken
from there; once the record is used up, from the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from esper.checkpoint import Snapshot
from esper.checkpoint.tensors import Tensors
from esper.clock import Clock
from esper.errors import CorruptError, EsperError, FencedError, StorageFullError
from esper.events import JournalEvent, Origin
from esper.events.records import CheckpointRequested, RollbackRequested, RunForked, SeedTransitioned
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.seeded.statistics import SeedStatistics
from esper.lifecycle import LIVE, RunState, from_canonical
from esper.lifecycle.commands import CountLost, EndEpoch, Fork, Pause, ReportFailure, Resume, RollBack, RunCommand, Source
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.exchange import packet as packets
from esper.tolaria.exchange.commands import Vetting, commands_of
from esper.tolaria.exchange.consultation import Consultation
from esper.tolaria.exchange.grafting import Grafting, seeds_waiting
from esper.tolaria.exchange.packet import EpochFigures
from esper.tolaria.exchange.telemetry import Telemetry
from esper.tolaria.recipes.environment import Environment
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.recipes.splits import Pair
from esper.tolaria.record.checkpoints import Checkpoints, Moment
from esper.tolaria.record.journal import Journal
from esper.tolaria.record.snapshots import (
    address,
    health_notes,
    kernel_notes,
    model_tensors,
    place_of,
    random_notes,
    restore_health,
    restore_model,
    restore_random,
)
from esper.tolaria.run.cursor import Cursor, Sums, cursor_of
from esper.tolaria.run.model_file import save_model
from esper.tolaria.run.progress import Progress
from esper.tolaria.run.report import growth
from esper.tolaria.step.evaluation import Figures, evaluate, paired, parameters_digest, with_shadow, without
from esper.tolaria.step.gates import Evidence, gate
from esper.tolaria.step.stepping import StepFigures, Stepper
from esper.vault.boxes import Box

NAP_S = 0.05  # while paused


class Interrupted(Exception):  # noqa: N818  # not an error: a person ended the run
    """The run was asked to end early."""


class RolledBack(Exception):  # noqa: N818  # not an error: the loop begins again at the restored cursor
    """The run stands at an earlier step, in a new timeline."""


class Arrived(Exception):  # noqa: N818  # not an error: what was asked for is done
    """A run that is executed again stands where it was to end."""


@dataclass(slots=True)
class Parts:
    """What a session is made of; `esper.tolaria.run.wiring` puts it together.

    Without a stepper the loop is a user's own: it cannot be executed again, so no snapshots are taken.
    """

    recipe: Recipe
    held_out: Pair
    test: Pair
    growing: GrowingModel
    stepper: Stepper | None
    journal: Journal
    consultation: Consultation
    telemetry: Telemetry
    grafting: Grafting
    checkpoints: Checkpoints
    tensors: Tensors
    origin: Origin
    clock: Clock
    progress: Progress
    environment: Environment
    run_dir: Path
    models: Box
    lost: Callable[[], dict[str, int]]
    require_pen: Callable[[], None]


@dataclass(slots=True)
class Session:
    """One run at its trainer. `requested` is the command that a snapshot is still to be taken for, `stop` that a person wants it to end.

    `forked` says where a fork began. `goal` is the step at which a run that is executed again ends.
    """

    parts: Parts
    total_steps: int
    cursor: Cursor = field(default_factory=Cursor)
    stop: bool = False
    goal: int | None = None
    paths: dict[Place, list[SeedTransitioned]] = field(default_factory=dict)
    requested: Source = field(default_factory=lambda: Source(""))
    forked: RunForked | None = None

    @property
    def state(self) -> RunState:
        """The folded state."""
        return self.parts.journal.state

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self.cursor.step

    # -- the journal -----------------------------------------------------------------------------------------------------------------

    def do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        """Write a command's events, and let the tensors follow; when the disk is full, snapshot, stand still and go on once there is room."""
        self.catch_up()
        events = self._written(command)
        for event in events:
            self._note(event)
        if events:
            self.parts.growing.follow(self.state, self.step)
        return events

    def _written(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        parts, full = self.parts, False
        while True:
            try:
                if full:
                    parts.journal.do(Pause(reason="The disk is full."), self.step)
                    parts.journal.do(Resume(reason="There is room on the disk again.", incarnation=self.state.incarnation), self.step)
                    full = False
                return parts.journal.do(command, self.step)
            except FencedError:
                parts.require_pen()  # says who has taken over
                raise
            except StorageFullError as error:
                if not full:
                    saved = save_model(parts.growing, parts.run_dir / "paused.safetensors", parts.models, elsewhere=True)
                    parts.progress.say(f"{error} Training stands still until there is room; a snapshot is in {saved.path}.")
                full = True
                if self.stop:
                    raise
                parts.clock.sleep(1.0)

    def catch_up(self, *, after_step: bool = False) -> None:
        """Apply what the record has from outside at this step; kernels that failed in the step of this number only `after_step`."""
        parts, applied = self.parts, False
        while (event := parts.journal.outside(self.step, after_step=after_step)) is not None:
            if isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING":
                parts.grafting.again(self.state, (event.layer, event.seed), event.kernel_id)
            self._note(parts.journal.accept())
            applied = True
        if applied:
            parts.growing.follow(self.state, self.step)

    def _note(self, event: JournalEvent) -> None:
        """What an event means beyond state and tensors."""
        self.parts.checkpoints.heard(event)
        if isinstance(event, RunForked):
            self.forked = event
        if not isinstance(event, SeedTransitioned):
            return
        place = (event.layer, event.seed)
        self.paths.setdefault(place, []).append(event)
        self.parts.progress.transitioned(event)
        if event.to_stage == "GERMINATED":
            self.cursor.evidence[place] = Evidence()
            self.parts.grafting.request(event.layer, event.kernel_id)
        elif event.to_stage == "DORMANT":
            self.cursor.evidence.pop(place, None)

    def remember(self, events: Sequence[JournalEvent]) -> None:
        """Take note of a resumed run's events before its beginning."""
        for event in events:
            self.parts.checkpoints.heard(event)
            if isinstance(event, RunForked):
                self.forked = event
            if isinstance(event, SeedTransitioned):
                self.paths.setdefault((event.layer, event.seed), []).append(event)

    # -- a fork ----------------------------------------------------------------------------------------------------------------------

    def fork(self, command: Fork, snapshot: Snapshot) -> None:
        """Begin the journal of a fork, and take over its parent's tensors."""
        for event in self._written(command):
            self._note(event)
        self.restore(snapshot, self.state)

    def open_fork(self) -> None:
        """Where a fork begins: keep a snapshot of its own to roll back to, and ask Tamiyo for what the parent's state has no answer to."""
        if self.forked is None or self.state.sequence != self.forked.sequence + 1:
            return
        if self.parts.stepper and not self.parts.journal.replaying:
            self._begin_checkpoint("forked", Source(""))
        if self.step and self.forked.parent_packet < self.state.epoch:
            self.consult()

    # -- between steps ---------------------------------------------------------------------------------------------------------------

    def between_steps(self) -> None:
        """Apply what has come in: commands, loaded kernels, snapshots, pause, interruption.

        Raises:
            Arrived: the goal is reached.
            Interrupted: a person wants the run to end.
        """
        parts = self.parts
        parts.require_pen()
        self.catch_up()
        if self.step == self.goal:
            raise Arrived
        if parts.journal.replaying:
            self._schedule("schedule", due=parts.checkpoints.at_step(self.step))
        else:
            for delivered in parts.consultation.take():
                self.handle(delivered)
            self._place_loaded()
            self._checkpoints()
            if self.state.status == "PAUSED":
                parts.progress.say("Training is paused until it is told to resume.")
            while self.state.status == "PAUSED" and not self._stopping():
                for delivered in parts.consultation.take():
                    self.handle(delivered)
                self._checkpoints()
                parts.clock.sleep(NAP_S)
        if self.stop:
            self.interrupted()

    def handle(self, delivered: Delivered) -> None:
        """Carry out what a delivered message asks for."""
        parts, event = self.parts, delivered.event
        source = Source(event.event_id, *delivered.position)
        if isinstance(event, RollbackRequested):
            if source.command_id not in self.state.commands:
                self.roll_back(event.snapshot_id, event.reason, source, at_most_epoch=event.at_most_epoch)
        elif isinstance(event, CheckpointRequested):
            if source.command_id not in self.state.commands:
                self.requested = source
        else:
            kernels = parts.consultation.catalogue.kernels
            for command in commands_of(delivered, vetting=Vetting(kernels, parts.growing.shapes()), incarnation=self.state.incarnation):
                self.do(command)

    def _failed(self, figures: StepFigures) -> None:
        """After a step: report the kernels that failed in it; one that is FOSSILIZED sends the run back, and a second time ends it.

        Raises:
            EsperError: a fossilised kernel failed again.
            RolledBack: it failed for the first time.
        """
        before = self.state.instabilities
        self.catch_up(after_step=True)
        if self.parts.journal.replaying:
            return
        for fault in figures.faults:  # those that the record had are not among them: their kernels did not run
            layer, seed = fault.place
            self.do(ReportFailure(layer=layer, seed=seed, phase=fault.phase, error=fault.error, consecutive=fault.consecutive))
        if self.state.instabilities > before:
            self._unstable(again=before > 0)

    def _unstable(self, *, again: bool) -> None:
        if again:
            raise EsperError(
                "A fossilised kernel failed, and this run has been rolled back for such a failure before, so it stops; its journal says which "
                "kernel and why (instability_detected in the history)."
            )
        self.parts.progress.say("A fossilised kernel failed: the run goes back to its last snapshot.")
        self.roll_back("", "A fossilised kernel failed.")

    # -- an epoch --------------------------------------------------------------------------------------------------------------------

    def stepped(self, figures: StepFigures) -> None:
        """A step is done: count it."""
        self._failed(figures)
        self.cursor.step += 1
        self.cursor.sums.add(figures)
        if any(seed.stage == "BLENDING" for seed in self.state.seeds):
            self.parts.growing.follow(self.state, self.step)

    def end_epoch(self) -> None:
        """Validate, measure the seeds, journal the epoch, and let the gates move."""
        parts, growing, cursor = self.parts, self.parts.growing, self.cursor
        validation, cursor.test = evaluate(growing, parts.held_out), evaluate(growing, parts.test)
        sums = cursor.sums
        cursor.figures = EpochFigures(
            train_loss=sums.loss / sums.batches,
            train_accuracy=sums.accuracy / sums.batches,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            learning_rate=sums.learning_rate,
            gradient_norm=sums.gradient_norm,
        )
        self._measure(validation)
        if not parts.journal.replaying:
            for topic, lost in parts.lost().items():
                self.do(CountLost(topic=topic, lost=lost))
        self.do(
            EndEpoch(
                step=self.step,
                train_loss=cursor.figures.train_loss,
                train_accuracy=cursor.figures.train_accuracy,
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                test_loss=cursor.test.loss,
                test_accuracy=cursor.test.accuracy,
                learning_rate=sums.learning_rate,
                parameters_digest=parameters_digest(growing.module),
                alphas=tuple(growing.alpha(seed, self.step) for seed in self.state.seeds),
            )
        )
        for seed in self.state.seeds:
            if move := gate(seed, cursor.known((seed.layer, seed.seed)), self.state.epoch, parts.recipe.gates):
                self.do(move)
        cursor.sums = Sums()
        if parts.recipe.telemetry.enabled:
            parts.telemetry.resources(self.state)
            parts.telemetry.cache(self.state, parts.grafting.kernels.figures())
        parts.progress.epoch_ended(self.state, cursor.figures, cursor.test)

    def _measure(self, live: Figures) -> None:
        """Take the evidence of every seed that holds a kernel, on the held-out split."""
        growing, held_out = self.parts.growing, self.parts.held_out
        for seed in self.state.seeds:
            place = (seed.layer, seed.seed)
            if place not in growing.kernels:
                continue
            known = self.cursor.evidence.setdefault(place, Evidence())
            known.trained_steps = growing.kernels[place].trained
            known.blended = seed.stage == "BLENDING" and growing.blended(seed, self.step)
            if seed.stage == "TRAINING":
                shadow = with_shadow(growing, held_out, place)
                known.shadow_gap, known.shadow_gap_error = paired(live.batch_losses, shadow.batch_losses)
            elif seed.stage in LIVE:
                removed = without(growing, held_out, place)
                known.dependence, known.dependence_error = paired(removed.batch_losses, live.batch_losses)
                if self.parts.recipe.telemetry.enabled:
                    self.parts.telemetry.performance(self.state, place, live, removed)

    # -- Tamiyo ----------------------------------------------------------------------------------------------------------------------

    def consult(self) -> None:
        """Ask Tamiyo at an epoch boundary and apply what it answers in time."""
        if self.parts.recipe.tamiyo.enabled:
            self._ask()
            self._wait_for_loads()
        if self.stop:
            self.interrupted()

    def ask_again(self) -> None:
        """Before a resumed run's first step, at the beginning of an epoch, in lockstep: ask again what Tamiyo thinks of the epoch before.

        The life before may have been ended while it waited for that answer, or for the kernels that it named. Tamiyo answers a packet twice alike,
        and what has been applied is not applied again.
        """
        self.catch_up()  # the end of the life before and the beginning of this one are on record, after the snapshot
        if self.parts.consultation.lockstep and self.state.incarnation and self.step and not self.cursor.sums.batches:
            self.consult()

    def open_dialogue(self) -> None:
        """Before the first step: wait for Tamiyo's first answer, and for the foundry when there are no kernels yet for these layers."""
        parts, settings = self.parts, self.parts.recipe.tamiyo
        if not settings.enabled:
            return
        begin = parts.clock.monotonic()
        offered = self._ask(patience_s=settings.start_timeout_s)
        left = settings.start_timeout_s - (parts.clock.monotonic() - begin)
        if not parts.journal.replaying and not offered and (parts.consultation.lockstep or left > 0):
            parts.progress.say("Waiting for the foundry: it compiles and verifies kernels for these layers, once for all runs.")
            if not parts.consultation.wait_for_kernels(self.handle, self._stopping, patience_s=left) and not self.stop:
                parts.progress.say("The foundry has not answered yet; training begins without kernels, which can come later.")
        if self.stop:
            self.interrupted()

    def _ask(self, patience_s: float | None = None) -> int:
        """Send the packet of this moment and apply what comes back; gives how many kernels it offered. A record answers by itself."""
        parts, consultation = self.parts, self.parts.consultation
        self.catch_up()
        if parts.journal.replaying:
            return 0
        for delivered in consultation.take():
            self.handle(delivered)
        kernels = consultation.kernels(set(parts.growing.shapes().values()), packets.PER_ARM)
        parts.grafting.kernels.prefetch(kernels)
        asked = packets.build(
            origin=parts.origin,
            state=self.state,
            growing=parts.growing,
            recipe=parts.recipe,
            figures=self.cursor.figures,
            evidence=self.cursor.evidence,
            statistics=parts.telemetry.statistics,
            kernels=kernels,
            total_steps=self.total_steps,
            forked=self.forked,
        )
        consultation.ask(asked, self.handle, self._stopping, patience_s=patience_s)
        return len(asked.catalogue)

    def _stopping(self) -> bool:
        """Whether a person wants the run to end; a run that another trainer has taken over waits for nobody."""
        self.parts.require_pen()
        return self.stop

    def _wait_for_loads(self) -> None:
        """In lockstep a kernel is in its slot before the next step."""
        parts = self.parts
        while parts.consultation.lockstep and not self._stopping() and not parts.journal.replaying and seeds_waiting(self.state):
            self._place_loaded()
            parts.clock.sleep(0.001)

    def _place_loaded(self) -> None:
        for command in self.parts.grafting.arrived(self.state):
            self.do(command)

    # -- snapshots -------------------------------------------------------------------------------------------------------------------

    def checkpoint_at_epoch(self) -> None:
        """At the beginning of an epoch: take a snapshot if one is due."""
        self._schedule("epoch", due=self.parts.checkpoints.at_epoch(self.state.epoch))

    def _schedule(self, reason: str, *, due: bool) -> None:
        """Begin a snapshot that is `due` by the recipe, or that is long overdue.

        In lockstep the one under way is waited for: to which snapshot a run can go back must not depend on the speed of a disk. A record that is
        executed again has its own, but for those of which it does not know because the process died before they were durable: these are taken again.
        """
        parts, checkpoints = self.parts, self.parts.checkpoints
        if parts.stepper is None:
            return
        if parts.journal.replaying:
            if due and parts.journal.past_snapshots and not checkpoints.known(self.state.timeline, self.step):
                checkpoints.put_by()
                self._begin_checkpoint(reason, Source(""))
            return
        if due and parts.consultation.lockstep and checkpoints.begun != (self.state.timeline, self.step):
            self._record_checkpoint(wait=True)
        if not checkpoints.writer.busy and (due or checkpoints.overdue()):
            self._begin_checkpoint(reason, Source(""))

    def _checkpoints(self) -> None:
        """Journal the snapshot that has become durable; begin one that was asked for, that is due, or that is overdue."""
        checkpoints = self.parts.checkpoints
        if self.parts.stepper is None:
            return
        self._record_checkpoint(wait=False)
        if self.requested.command_id and not checkpoints.writer.busy:
            self._begin_checkpoint("requested", self.requested)
            self.requested = Source("")
        elif self.state.status == "RUNNING":
            self._schedule("schedule", due=checkpoints.at_step(self.step))

    def _record_checkpoint(self, *, wait: bool) -> None:
        checkpoints, before = self.parts.checkpoints, self.parts.checkpoints.failed
        while (record := checkpoints.collect(wait=wait)) is not None:
            self.do(record)
        if checkpoints.failed is not None and before is None:
            self.parts.progress.say(
                f"A snapshot could not be written: {checkpoints.failed} Training goes on; the next one is tried in time."
            )

    def _begin_checkpoint(self, reason: str, source: Source) -> None:
        living = self.living()
        self.parts.checkpoints.begin(living.tensors, living.notes, Moment(self.state, self.step, reason, source))

    def living(self) -> Snapshot:
        """What a snapshot taken now would hold; the tensors are the living ones, not copies."""
        parts = self.parts
        assert parts.stepper is not None  # noqa: S101  # a loop without one has no snapshots
        notes: dict[str, Any] = {
            "state": self.state.canonical(),
            "cursor": self.cursor.notes(),
            "kernels": kernel_notes(parts.growing),
            "health": health_notes(parts.growing),
            "statistics": {address(place): asdict(one) for place, one in parts.telemetry.statistics.items()},
            "random": random_notes(),
            "stepper": parts.stepper.notes(),
        }
        return Snapshot(model_tensors(parts.growing, parts.stepper.host_optimizer), notes)

    def restore(self, snapshot: Snapshot, state: RunState) -> None:
        """Make tensors, cursor and figures what the snapshot holds, as far as `state` still has them."""
        parts, notes = self.parts, snapshot.notes
        assert parts.stepper is not None  # noqa: S101  # a loop without one has no snapshots
        self.cursor = cursor_of(notes["cursor"])
        dormant = {(seed.layer, seed.seed) for seed in state.seeds if seed.stage == "DORMANT"}
        self.cursor.evidence = {place: known for place, known in self.cursor.evidence.items() if place not in dormant}
        restore_model(parts.growing, parts.stepper.host_optimizer, snapshot, state=from_canonical(notes["state"]), step=self.step)
        parts.growing.follow(state, self.step)
        parts.stepper.restore(notes["stepper"])
        restore_health(parts.growing, notes["health"])
        parts.telemetry.statistics = {place_of(name): SeedStatistics(**one) for name, one in notes["statistics"].items()}
        restore_random(notes["random"], snapshot.tensors)
        for seed in seeds_waiting(state):
            parts.grafting.request(seed.layer, seed.kernel_id)

    def roll_back(self, snapshot_id: str, reason: str, source: Source = Source(""), *, at_most_epoch: int = -1) -> None:  # noqa: B008  # frozen
        """Go on from an earlier snapshot, in a new timeline; the latest when none is named, or an earlier one where that is damaged.

        It is of at most `at_most_epoch` completed epochs, unless that is -1.

        Raises:
            RolledBack: it is done; the loop begins again at the restored cursor.
            EsperError: there is no snapshot to go back to.
        """
        parts = self.parts
        self._record_checkpoint(wait=True)
        candidates = [
            one
            for one in reversed(parts.checkpoints.taken)
            if snapshot_id in ("", one.snapshot_id) and (at_most_epoch < 0 or one.at_epoch <= at_most_epoch)
        ]
        for one in candidates:
            try:
                snapshot = parts.tensors.read(one.address, one.sha256)
            except CorruptError as error:
                parts.progress.say(f"Snapshot {one.snapshot_id} cannot be used: {error}")
                continue
            restored = replace(from_canonical(snapshot.notes["state"]), step=one.at_step)
            self.do(RollBack(snapshot_id=one.snapshot_id, restored=restored, reason=reason, source=source))
            self.restore(snapshot, self.state)
            parts.consultation.begin_timeline(self.state.timeline)
            parts.progress.say(f"Timeline {self.state.timeline} begins at step {self.step}, from snapshot {one.snapshot_id}: {reason}")
            raise RolledBack
        missing = f"There is no snapshot {snapshot_id}" if snapshot_id and not candidates else "No snapshot can be used"
        if not snapshot_id and not candidates and at_most_epoch >= 0:
            missing = f"There is no snapshot of epoch {at_most_epoch} or before"
        if source.command_id:
            parts.progress.say(f"{missing} to roll back to; the request is ignored. `esper checkpoints` lists them.")
            return
        raise EsperError(f"{missing} to roll back to: {reason}")

    def growth(self) -> str:
        """What grew, or why nothing did, in a sentence."""
        parts = self.parts
        offered = parts.consultation.kernels(set(parts.growing.shapes().values()), packets.PER_ARM)
        return growth(self.state, self.paths, asked=parts.recipe.tamiyo.enabled, offered=len(offered))

    # -- the end ---------------------------------------------------------------------------------------------------------------------

    def interrupted(self) -> None:
        """Leave the run so that `--resume` goes on from here.

        Raises:
            Interrupted: always.
        """
        if not self.parts.journal.replaying:
            self._record_checkpoint(wait=True)
            if (
                self.parts.stepper
                and self.step
                and (not self.parts.checkpoints.taken or self.parts.checkpoints.taken[-1].at_step != self.step)
            ):
                self._begin_checkpoint("interrupted", Source(""))
                self._record_checkpoint(wait=True)
            self.do(Pause(reason="Interrupted; `esper run --resume` goes on from here."))
        raise Interrupted
