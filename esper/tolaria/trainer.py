"""Tolaria's loop: steps, gates, consultation and journal of one run. Commands and loads take effect between steps, nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from esper.clock import Clock
from esper.errors import EsperError, StorageFullError
from esper.events import JournalEvent, Origin
from esper.events.records import SeedTransitioned
from esper.kasmina.growth import GrowingModel, KernelTraining, Place
from esper.kasmina.loader import CacheSettings, KernelLoader
from esper.lifecycle import LIVE, RunState
from esper.lifecycle.commands import Complete, CountLost, EndEpoch, Move, Pause, ReportFailure, Resume, RunCommand, StartRun
from esper.oona.inbox import Delivered
from esper.tolaria import packet as packets
from esper.tolaria.commands import Vetting, commands_of
from esper.tolaria.consultation import Consultation
from esper.tolaria.environment import Environment
from esper.tolaria.evaluation import Figures, evaluate, paired, parameters_digest, with_shadow, without
from esper.tolaria.gates import Evidence, gate
from esper.tolaria.journal import Journal
from esper.tolaria.model_file import save_model
from esper.tolaria.packet import EpochFigures
from esper.tolaria.progress import Progress
from esper.tolaria.recipe import Recipe
from esper.tolaria.splits import Splits
from esper.tolaria.stepping import StepFigures, Stepper, batch_order, stream_seed
from esper.tolaria.telemetry import Telemetry
from esper.urza.cache import MIB, CacheLimits

NAP_S = 0.05  # while paused


class Interrupted(Exception):  # noqa: N818  # not an error: a person ended the run
    """The run was asked to end early."""


@dataclass(slots=True)
class Parts:
    """What a trainer is made of; `esper.tolaria.assembly` puts it together."""

    recipe: Recipe
    splits: Splits
    growing: GrowingModel
    journal: Journal
    consultation: Consultation
    telemetry: Telemetry
    loader: KernelLoader
    origin: Origin
    clock: Clock
    progress: Progress
    environment: Environment
    run_dir: Path
    lost: Callable[[], dict[str, int]]
    require_pen: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; meanings as in RunCompleted."""

    outcome: str
    accuracy: float
    loss: float
    parameters: int
    digest: str
    steps: int
    epochs: int


@dataclass(slots=True)
class Trainer:
    """Trains one run from its first step to its last.

    `longest_step_s` is the longest time from the end of one step to the end of the next, with all that lies between: commands, validation,
    consultation.
    """

    parts: Parts
    step: int = 0
    stop: bool = False
    evidence: dict[Place, Evidence] = field(default_factory=dict)
    paths: dict[Place, list[SeedTransitioned]] = field(default_factory=dict)
    figures: EpochFigures = field(default_factory=EpochFigures)
    test: Figures = field(default_factory=lambda: Figures(0.0, 0.0, ()))
    longest_step_s: float = 0.0
    last_step_end: float = 0.0

    @property
    def state(self) -> RunState:
        """The folded state."""
        return self.parts.journal.state

    @property
    def total_steps(self) -> int:
        """Steps that the schedule foresees."""
        run = self.parts.recipe.run
        return run.epochs * (len(self.parts.splits.train[1]) // run.batch_size)

    def run(self) -> Outcome:
        """Train until the last epoch or an interruption; RunCompleted is the journal's last event either way."""
        parts = self.parts
        stepper = Stepper(parts.growing, parts.recipe, self.total_steps)
        self._start()
        ended = "FINISHED"
        try:
            self._open_dialogue()
            for epoch in range(parts.recipe.run.epochs):
                self._epoch(epoch, stepper)
        except Interrupted:
            ended = "INTERRUPTED"
        return self._complete(ended)

    def interrupt(self) -> None:
        """End the run at the next step boundary. Safe in a signal handler."""
        self.stop = True

    # -- the journal -----------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        parts, environment = self.parts, self.parts.environment
        self._do(
            StartRun(
                incarnation=self.state.incarnation,
                recipe=parts.recipe.name,
                config=parts.recipe.canonical(),
                seed=parts.recipe.run.seed,
                decisions=parts.recipe.decisions.upper(),
                total_steps=self.total_steps,
                layers=parts.growing.inventory(),
                parameters=sum(parameter.numel() for parameter in parts.growing.module.parameters()),
                source_sha256=environment.source_sha256,
                versions=environment.versions,
                threads=environment.threads,
                instruction_set=environment.instruction_set,
                blas=environment.blas,
                onednn=environment.onednn,
            )
        )

    def _do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        """Write a command's events; when the disk is full, snapshot, stand still and go on once there is room."""
        parts, full = self.parts, False
        while True:
            try:
                if full:
                    parts.journal.do(Pause(reason="The disk is full."), self.step)
                    parts.journal.do(Resume(reason="There is room on the disk again.", incarnation=self.state.incarnation), self.step)
                    full = False
                events = parts.journal.do(command, self.step)
                break
            except StorageFullError as error:
                if not full:
                    saved = save_model(parts.growing, parts.run_dir / "paused.safetensors", elsewhere=True)
                    parts.progress.say(f"{error} Training stands still until there is room; a snapshot is in {saved.path}.")
                full = True
                if self.stop:
                    raise
                parts.clock.sleep(1.0)
        for event in events:
            if isinstance(event, SeedTransitioned):
                self._transitioned(event)
        if events:
            parts.growing.follow(self.state, self.step)
        return events

    def _transitioned(self, event: SeedTransitioned) -> None:
        place = (event.layer, event.seed)
        self.paths.setdefault(place, []).append(event)
        self.parts.progress.transitioned(event)
        if event.to_stage == "GERMINATED":
            self.evidence[place] = Evidence()
            self.parts.loader.request(self.parts.consultation.catalogue.kernels[event.kernel_id], layer=event.layer)
        elif event.to_stage == "DORMANT":
            self.evidence.pop(place, None)

    # -- between steps ---------------------------------------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        """Apply what has come in: commands, loaded kernels, pause, interruption."""
        parts = self.parts
        parts.require_pen()
        for delivered in parts.consultation.take():
            self._handle(delivered)
        self._place_loaded()
        if self.state.status == "PAUSED":
            parts.progress.say("Training is paused until it is told to resume.")
        while self.state.status == "PAUSED" and not self.stop:
            for delivered in parts.consultation.take():
                self._handle(delivered)
            parts.clock.sleep(NAP_S)
        if self.stop:
            raise Interrupted

    def _handle(self, delivered: Delivered) -> None:
        """Carry out the commands in a delivered message."""
        parts = self.parts
        kernels = parts.consultation.catalogue.kernels
        for command in commands_of(delivered, vetting=Vetting(kernels, self._shapes()), incarnation=self.state.incarnation):
            self._do(command)

    def _shapes(self) -> dict[Place, tuple[int, int]]:
        layers = self.parts.growing.layers
        return {
            (name, index): (layer.in_features, width) for name, layer in layers.items() for index, width in enumerate(layer.seeds.chunks)
        }

    def _place_loaded(self) -> None:
        """Graft kernels that the loader has ready."""
        growing = self.parts.growing
        for loaded in self.parts.loader.ready():
            waiting = [seed for seed in self.state.seeds if seed.stage == "GERMINATED" and seed.kernel_id == loaded.kernel_id]
            for seed in waiting:
                place = (seed.layer, seed.seed)
                try:
                    growing.graft(place, loaded.slot())
                except EsperError as error:
                    self._do(ReportFailure(layer=seed.layer, seed=seed.seed, phase="LOAD", error=str(error)))
                else:
                    self._do(Move(layer=seed.layer, seed=seed.seed, to_stage="TRAINING", reason="kernel loaded and verified"))

    # -- an epoch --------------------------------------------------------------------------------------------------------------------

    def _epoch(self, epoch: int, stepper: Stepper) -> None:
        parts, run = self.parts, self.parts.recipe.run
        inputs, labels = parts.splits.train
        order = batch_order(run.seed, epoch, len(labels), run.batch_size)
        seen: list[StepFigures] = []
        for indices in order:
            begin = parts.clock.monotonic()
            self._between_steps()
            every = parts.recipe.telemetry.every_steps
            sample = parts.recipe.telemetry.enabled and (self.step + 1) % every == 0
            figures = stepper.step(self.state, self.step, (inputs[indices], labels[indices]), sample=sample)
            self.step += 1
            self._advance_alphas()
            now = parts.clock.monotonic()
            took = now - begin
            self.longest_step_s = max(self.longest_step_s, now - self.last_step_end if self.last_step_end else took)
            self.last_step_end = now
            seen.append(figures)
            if parts.recipe.telemetry.enabled:
                samples = len(indices)
                parts.telemetry.step(
                    figures, epoch=epoch, step=self.step, samples=samples, duration_us=round(took * 1e6), timeline=self.state.timeline
                )
                if sample:
                    parts.telemetry.seeds(self.state, self.evidence, step=self.step)
            parts.progress.stepped(self.step, self.total_steps, figures)
        self._end_epoch(seen)
        self._consult()

    def _advance_alphas(self) -> None:
        if any(seed.stage == "BLENDING" for seed in self.state.seeds):
            self.parts.growing.follow(self.state, self.step)

    def _end_epoch(self, seen: list[StepFigures]) -> None:
        """Validate, measure the seeds, journal the epoch, and let the gates move."""
        parts, growing = self.parts, self.parts.growing
        validation = evaluate(growing.module, parts.splits.validation)
        self.test = evaluate(growing.module, parts.splits.test)
        self.figures = EpochFigures(
            train_loss=sum(one.loss for one in seen) / len(seen),
            train_accuracy=sum(one.accuracy for one in seen) / len(seen),
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            learning_rate=seen[-1].learning_rate,
            gradient_norm=seen[-1].gradient_norm,
        )
        self._measure(validation)
        for topic, lost in parts.lost().items():
            self._do(CountLost(topic=topic, lost=lost))
        self._do(
            EndEpoch(
                step=self.step,
                train_loss=self.figures.train_loss,
                train_accuracy=self.figures.train_accuracy,
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                test_loss=self.test.loss,
                test_accuracy=self.test.accuracy,
                learning_rate=self.figures.learning_rate,
                parameters_digest=parameters_digest(growing.module),
                alphas=tuple(growing.alpha(seed, self.step) for seed in self.state.seeds),
            )
        )
        for seed in self.state.seeds:
            move = gate(seed, self.evidence.get((seed.layer, seed.seed), Evidence()), self.state.epoch, parts.recipe.gates)
            if move:
                self._do(move)
        if parts.recipe.telemetry.enabled:
            parts.telemetry.resources(self.state)
            parts.telemetry.cache(self.state, parts.loader.figures())
        parts.progress.epoch_ended(self.state, self.figures, self.test)

    def _measure(self, live: Figures) -> None:
        """Take the evidence of every seed that holds a kernel, on the held-out split."""
        growing, held_out = self.parts.growing, self.parts.splits.validation
        for seed in self.state.seeds:
            place = (seed.layer, seed.seed)
            if place not in growing.kernels:
                continue
            known = self.evidence.setdefault(place, Evidence())
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

    def _consult(self) -> None:
        """Ask Tamiyo at an epoch boundary and apply what it answers in time."""
        if self.parts.recipe.tamiyo.enabled:
            self._ask()
            self._wait_for_loads()
        if self.stop:
            raise Interrupted

    def _open_dialogue(self) -> None:
        """Before the first step: wait for Tamiyo's first answer, and for the foundry when there are no kernels yet for these layers."""
        parts, settings = self.parts, self.parts.recipe.tamiyo
        if not settings.enabled:
            return
        begin = parts.clock.monotonic()
        offered = self._ask(patience_s=settings.start_timeout_s)
        left = settings.start_timeout_s - (parts.clock.monotonic() - begin)
        if not offered and (parts.consultation.lockstep or left > 0):
            parts.progress.say("Waiting for the foundry: it compiles and verifies kernels for these layers, once for all runs.")
            if not parts.consultation.wait_for_kernels(self._handle, lambda: self.stop, patience_s=left) and not self.stop:
                parts.progress.say("The foundry has not answered yet; training begins without kernels, which can come later.")
        if self.stop:
            raise Interrupted

    def _ask(self, patience_s: float | None = None) -> int:
        """Send the packet of this moment and apply what comes back; gives how many kernels it offered."""
        parts, consultation = self.parts, self.parts.consultation
        for delivered in consultation.take():
            self._handle(delivered)
        kernels = consultation.kernels(set(self._shapes().values()), packets.PER_ARM)
        parts.loader.prefetch(kernels)
        asked = packets.build(
            origin=parts.origin,
            state=self.state,
            growing=parts.growing,
            recipe=parts.recipe,
            figures=self.figures,
            evidence=self.evidence,
            statistics=parts.telemetry.statistics,
            kernels=kernels,
            total_steps=self.total_steps,
        )
        consultation.ask(asked, self._handle, lambda: self.stop, patience_s=patience_s)
        return len(asked.catalogue)

    def _wait_for_loads(self) -> None:
        """In lockstep a kernel is in its slot before the next step."""
        parts = self.parts
        while parts.consultation.lockstep and not self.stop and any(seed.stage == "GERMINATED" for seed in self.state.seeds):
            self._place_loaded()
            parts.clock.sleep(0.001)

    # -- the end ---------------------------------------------------------------------------------------------------------------------

    def _complete(self, ended: str) -> Outcome:
        growing = self.parts.growing
        saved = save_model(growing, self.parts.run_dir / "model.safetensors")
        digest, parameters = parameters_digest(growing.module), sum(parameter.numel() for parameter in growing.module.parameters())
        self._do(
            Complete(
                outcome=ended,  # type: ignore[arg-type]  # one of the two literals
                accuracy=self.test.accuracy,
                loss=self.test.loss,
                parameters=parameters,
                digest=digest,
                model_sha256=saved.sha256,
            )
        )
        return Outcome(ended, self.test.accuracy, self.test.loss, parameters, digest, self.step, self.state.epoch)


def kernel_training(recipe: Recipe) -> KernelTraining:
    """Kasmina's settings from a recipe."""
    return KernelTraining(**recipe.kernels.model_dump(exclude={"shadow_passes"}))


def cache_settings(recipe: Recipe) -> CacheSettings:
    """The kernel cache's limits from a recipe."""
    cache = recipe.cache
    memory = CacheLimits(cache.entries, cache.memory_mib * MIB, cache.layer_mib * MIB)
    return CacheSettings(memory, cache.disk_mib * MIB, cache.prefetch)


def seeded_model(recipe: Recipe, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The host model of a run, initialised from the run's seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(recipe.run.seed, "model"))
        return make()
