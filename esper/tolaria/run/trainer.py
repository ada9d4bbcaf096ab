"""Tolaria's loop: epochs and steps of one run over its recipe's data."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass

from esper.lifecycle.commands import Complete, StartRun
from esper.tolaria.recipes.splits import Split
from esper.tolaria.recipes.structures import Structure, size
from esper.tolaria.record.forking import ForkStart
from esper.tolaria.run.random_streams import begin_streams
from esper.tolaria.run.startup import Startup
from esper.tolaria.run.training_batches import epoch_of
from esper.tolaria.session.composition import Arrived, Interrupted, RolledBack
from esper.tolaria.session.model_file import BEST_MODEL, save_model
from esper.tolaria.session.session import Session
from esper.tolaria.step.evaluation import parameters_digest
from esper.tolaria.step.stepping import Stepper


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended; meanings as in RunCompleted. `told` is the score as people read it."""

    outcome: str
    accuracy: float
    loss: float
    parameters: int
    digest: str
    steps: int
    epochs: int
    metrics: dict[str, float]
    score: float
    score_name: str
    told: str


@dataclass(slots=True)
class Trainer:
    """Trains one run from its first step, or from where it was restored or forked, to its last, or
    to the session's goal.

    `longest_step_s` is the longest time from the end of one step to the end of the next, with all
    that lies between: commands, validation, consultation. `startup` is told when a step of its own
    is done, after those that a record has.
    """

    session: Session
    train: Split
    fork: ForkStart | None = None
    startup: Startup | None = None
    longest_step_s: float = 0.0
    last_step_end: float = 0.0

    def run(self) -> RunOutcome:
        """Train until the last epoch or an interruption."""
        ended = "FINISHED"
        try:
            self.train_on()
        except Interrupted:
            ended = "INTERRUPTED"
        except Arrived:
            ended = "INTERRUPTED"
            with suppress(Interrupted):
                self.session.interrupted()
        return self._end(ended)

    def train_on(self) -> None:
        """Go through the epochs that are left.

        Raises:
            Interrupted: a person ended the run.
            Arrived: the session's goal is reached.
        """
        session = self.session
        if session.state.status == "NEW":
            # whatever making the model and the data drew is over: the first step sees fresh streams
            begin_streams(session.parts.recipe.run.seed, "run")
            if self.fork is None:
                session.do(start_of(session))
            else:
                session.fork(self.fork.command(start_of(session)), self.fork.snapshot)
        session.open_fork()
        with suppress(RolledBack):  # the loop goes on from there
            session.ask_again()
        while session.state.epoch < session.parts.recipe.run.epochs and not self._exhausted():
            try:
                if session.step == 0:
                    session.open_dialogue()
                self._epoch()
            except RolledBack:
                self.last_step_end = 0.0

    def _exhausted(self) -> bool:
        """Whether the score has not been better for as many epochs as the recipe waits."""
        session = self.session
        patience, best = session.parts.recipe.stopping.patience, session.cursor.best
        # an epoch that is begun is ended
        if not patience or best is None or best.since < patience or session.cursor.sums.batches:
            return False
        session.parts.progress.say(
            f"The run ends after epoch {session.state.epoch - 1}: {best.since} epochs without a "
            f"better {session.cursor.figures.score_name} than the {best.score:.4g} of epoch "
            f"{best.epoch}."
        )
        return True

    def _keep_best(self) -> None:
        """Keep the model of an epoch that was the best so far."""
        session, parts = self.session, self.session.parts
        best = session.cursor.best
        if not parts.recipe.stopping.keep_best or best is None or best.since:
            return
        # a run that is re-executed has no folder
        if parts.run_dir.is_dir():
            save_model(parts.growing, parts.run_dir / BEST_MODEL, parts.models)

    def _epoch(self) -> None:
        """The present epoch, from the session's cursor on."""
        session, parts, run = self.session, self.session.parts, self.session.parts.recipe.run
        epoch, stepper = session.state.epoch, parts.stepper
        assert isinstance(stepper, Stepper)  # noqa: S101  # a recipe's session has one
        if session.cursor.sums.batches == 0:
            session.checkpoint_at_epoch()
        # the batches are made again from the seed; a resumed epoch skips what it has done
        given = epoch_of(self.train, run, epoch, session.cursor.sums.batches)
        # a rollback leaves in mid-epoch, and workers end with what started them
        with closing(given):
            for batch in given:
                self._step(batch, stepper, epoch)
        session.end_epoch()
        self._keep_best()
        session.consult()

    def _step(self, batch: Structure, stepper: Stepper, epoch: int) -> None:
        """One step on a batch."""
        session, parts = self.session, self.session.parts
        begin = parts.clock.monotonic()
        session.between_steps()
        # asked before the step, whose events may use up the record
        live = not parts.journal.replaying
        telemetry = parts.recipe.telemetry
        sample = (session.step + 1) % telemetry.every_steps == 0
        # after `between_steps`: what the record has before this step has been taken
        forced = parts.journal.failures(session.step)
        figures = stepper.step(
            session.state,
            session.step,
            batch,
            sample=sample,
            forced=forced,
        )
        session.stepped(figures)
        now = parts.clock.monotonic()
        took = now - begin
        self.longest_step_s = max(
            self.longest_step_s, now - self.last_step_end if self.last_step_end else took
        )
        self.last_step_end = now
        if sample:
            parts.monitor.sampled(session.state)
        if telemetry.enabled:
            parts.telemetry.step(
                figures,
                epoch=epoch,
                step=session.step,
                samples=size(batch),
                duration_us=round(took * 1e6),
                timeline=session.state.timeline,
            )
            if sample:
                parts.telemetry.seeds(
                    session.state,
                    session.cursor.evidence,
                    step=session.step,
                    loss=session.cursor.figures.validation_loss,
                )
        parts.progress.stepped(session.step, session.total_steps, figures)
        if live and self.startup and self.startup.stepped() and session.state.incarnation:
            parts.progress.say(self.startup.sentence())

    def _end(self, ended: str) -> RunOutcome:
        session, growing = self.session, self.session.parts.growing
        # the file first: RunCompleted names its hash
        saved = save_model(
            growing, session.parts.run_dir / "model.safetensors", session.parts.models
        )
        digest, parameters = (
            parameters_digest(growing.module),
            sum(parameter.numel() for parameter in growing.module.parameters()),
        )
        test, task = session.cursor.test, session.parts.task
        if ended == "FINISHED":
            session.do(
                Complete(
                    outcome="FINISHED",
                    accuracy=test.accuracy,
                    loss=test.loss,
                    parameters=parameters,
                    digest=digest,
                    model_sha256=saved.sha256,
                    **task.fields(test.loss, test.metrics),
                )
            )
        return RunOutcome(
            ended,
            test.accuracy,
            test.loss,
            parameters,
            digest,
            session.step,
            session.state.epoch,
            dict(test.metrics),
            task.scored(test.loss, test.metrics),
            task.score,
            task.told(test.loss, test.metrics),
        )


def start_of(session: Session) -> StartRun:
    """The command that begins a run's journal."""
    parts, environment = session.parts, session.parts.environment
    return StartRun(
        incarnation=session.state.incarnation,
        recipe=parts.recipe.name,
        config=parts.recipe.canonical(),
        seed=parts.recipe.run.seed,
        decisions=parts.recipe.decisions.upper(),
        total_steps=session.total_steps,
        layers=parts.growing.inventory(),
        parameters=sum(parameter.numel() for parameter in parts.growing.module.parameters()),
        source_sha256=environment.source_sha256,
        versions=environment.versions,
        threads=environment.threads,
        instruction_set=environment.instruction_set,
        blas=environment.blas,
        onednn=environment.onednn,
    )
