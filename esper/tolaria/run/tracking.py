"""A run of which Esper has the figures alone: nothing grows, no model is looked at, and the loop is
anybody's. Its journal has the beginning, each epoch and the end; steps are telemetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from esper.errors import UnavailableError, UsageError
from esper.events.records import TrainingStep
from esper.events.seals import TRAINER, SealChain
from esper.journal.replay import save_state
from esper.lifecycle import RunState
from esper.lifecycle.commands import Complete, EndEpoch, Pause, Resume, StartRun
from esper.oona.bus.emitter import Emitter
from esper.oona.bus.port import Received
from esper.oona.durable.authentic import Judge, judged
from esper.oona.durable.drain import Drain
from esper.oona.durable.start import start
from esper.service.transport import signing
from esper.tolaria.recipes.environment import observe
from esper.tolaria.recipes.recipe import Recipe, validated
from esper.tolaria.record.journal import Journal
from esper.tolaria.record.resume import folded, recipe_of
from esper.tolaria.run.past import nothing
from esper.tolaria.run.wiring import DRAIN_S, RunContext
from esper.tolaria.step.tasks import Metric, Task

TRACKED: Final = "own.loop:tracked"
"""The model of a run that is only tracked: nobody can make it."""

_FLUSH_S: Final = 1.0  # training does not wait longer for a broker that is gone


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a tracker was given: see `esper.GrowthTracker`."""

    steps: int
    score: str
    higher_is_better: bool
    seed: int
    parameters: int
    step: int
    epoch: int

    def recipe(self) -> Recipe:
        """The recipe that it amounts to.

        Raises:
            UsageError: the arguments make no sense.
        """
        for what in ("steps", "parameters", "step", "epoch"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UsageError(f"{what} has to be a whole number, 0 or more, not {value!r}.")
        if self.score != "loss":
            # the rules for names, and what is said of them, are those of a task's metrics
            Task("tracked", lambda *_: None, (Metric(self.score, "fraction"),))  # type: ignore[arg-type]  # never called
        return validated(
            {
                "name": "tracked",
                "model": TRACKED,
                "data": "own.loop:data",
                "run": {"seed": self.seed},
                "tamiyo": {"enabled": False},
            }
        )


@dataclass(slots=True)
class RunTracker:
    """A run that is told what happens: `step` after each optimizer step, `epoch` after an epoch."""

    asked: Tracked
    journal: Journal
    drain: Drain
    emitter: Emitter
    place: RunContext
    _step: int = 0
    _epoch: int = 0
    _sums: dict[str, float] = field(default_factory=dict)
    _batches: int = 0
    _rate: float = 0.0
    _begun: float = 0.0
    _held_out: tuple[float, dict[str, float]] | None = None
    _ended: bool = False

    def __post_init__(self) -> None:
        """Stand where the loop goes on."""
        self._step, self._epoch = self.asked.step, self.asked.epoch
        self._begun = self.place.clock.monotonic()

    @property
    def run_id(self) -> str:
        """The run's name in journal and history."""
        return self.place.run_id

    def step(
        self,
        loss: float | Tensor,
        *,
        learning_rate: float = 0.0,
        gradient_norm: float = 0.0,
        samples: int = 0,
        **metrics: float | Tensor,
    ) -> None:
        """An optimizer step is done.

        Args:
            loss: its training loss, in the task's unit.
            learning_rate: of the host.
            gradient_norm: Euclidean norm before clipping.
            samples: in its batch.
            metrics: its metrics by name; `accuracy` is a fraction.

        Raises:
            UsageError: a figure is no number, or the run has ended.
        """
        figures, now = self._figures(loss, metrics), self.place.clock.monotonic()
        took, self._begun = round((now - self._begun) * 1e6), now
        self._step, self._batches, self._rate = self._step + 1, self._batches + 1, learning_rate
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.emitter.emit(
            TrainingStep(
                **self.place.origin.envelope(f"step/{self._step}", timeline=0),
                epoch=self._epoch,
                step=self._step,
                loss=figures["loss"],
                accuracy=figures.get("accuracy", 0.0),
                gradient_norm=_number(gradient_norm, "gradient_norm"),
                learning_rate=_number(learning_rate, "learning_rate"),
                samples=samples,
                duration_us=took,
                metrics={k: v for k, v in figures.items() if k not in ("loss", "accuracy")},
            )
        )

    def epoch(self, loss: float | Tensor, **metrics: float | Tensor) -> None:
        """An epoch is over: its figures on data that are not trained on.

        An epoch that the journal has already, from before the loop went on from a checkpoint, is
        not written twice.

        Raises:
            UsageError: a figure is no number, the score is missing, no step was told since the last
                epoch, or the run has ended.
        """
        figures = self._figures(loss, metrics)
        if self.asked.score not in figures:
            raise UsageError(
                f"The score of run {self.run_id} is {self.asked.score}: give it to each epoch, "
                f"tracker.epoch(loss, {self.asked.score}=...)."
            )
        if not self._batches:
            raise UsageError("Call tracker.epoch(...) after at least one tracker.step(...).")
        means = {name: value / self._batches for name, value in self._sums.items()}
        self._sums, self._batches = {}, 0
        self._epoch += 1
        held_out = {name: value for name, value in figures.items() if name != "loss"}
        self._held_out = figures["loss"], held_out
        if self._epoch <= self.journal.state.epoch:
            return
        # killed later, the loop begins again after this epoch and tells its steps to nobody
        self.emitter.flush(_FLUSH_S)
        accuracy, score = held_out.get("accuracy", 0.0), figures[self.asked.score]
        self.journal.do(
            EndEpoch(
                step=self._step,
                train_loss=means["loss"],
                train_accuracy=means.get("accuracy", 0.0),
                validation_loss=figures["loss"],
                validation_accuracy=accuracy,
                # a loop of one's own has no test split: reports show the held-out one
                test_loss=figures["loss"],
                test_accuracy=accuracy,
                learning_rate=self._rate,
                parameters_digest="",
                alphas=(),
                metrics=held_out,
                test_metrics=held_out,
                score=score,
                test_score=score,
                score_name=self.asked.score,
                higher_is_better=self.asked.higher_is_better,
            ),
            self._step,
        )

    def end(self, error: BaseException | None) -> None:
        """End the journal: completed, or, after an error, paused, so that it can go on."""
        if self._ended:
            return
        self._ended = True
        if error is None:
            loss, metrics = self._held_out or (0.0, {})
            figures = {"loss": loss, **metrics}
            self.journal.do(
                Complete(
                    outcome="FINISHED",
                    accuracy=metrics.get("accuracy", 0.0),
                    loss=loss,
                    parameters=self.asked.parameters,
                    digest="",
                    model_sha256="",
                    metrics=metrics,
                    score=figures.get(self.asked.score, 0.0),
                    score_name=self.asked.score,
                    higher_is_better=self.asked.higher_is_better,
                ),
                self._step,
            )
        elif self.journal.state.status == "RUNNING":
            reason = f"Left by {type(error).__name__}: {error}; it goes on when it is resumed."
            self.journal.do(Pause(reason=reason), self._step)
        save_state(self.place.folder, self.journal.state)
        self.emitter.flush(DRAIN_S)
        if not self.drain.wait_empty(DRAIN_S):
            self.place.progress.say(
                "The broker has not taken the whole journal yet; the rest is safe in the run's "
                "outbox and goes out when the run is resumed."
            )

    def as_json(self) -> dict[str, Any]:
        """Where the run stands, for scripts."""
        loss, metrics = self._held_out or (0.0, {})
        return {
            "run_id": self.run_id,
            "status": self.journal.state.status,
            "epochs": self._epoch,
            "steps": self._step,
            "loss": loss,
            "metrics": dict(metrics),
            "score": {"loss": loss, **metrics}.get(self.asked.score, 0.0),
            "score_name": self.asked.score,
        }

    def sentence(self) -> str:
        """The run and what came of it, for people."""
        status = self.journal.state.status.lower()
        return f"Run {self.run_id}: {self._step} steps, {status}. Nothing grows in it."

    def _figures(
        self, loss: float | Tensor, metrics: Mapping[str, float | Tensor]
    ) -> dict[str, float]:
        if self._ended:
            raise UsageError(f"Run {self.run_id} has ended: tell its figures within the block.")
        figures = {name: _number(value, name) for name, value in metrics.items()}
        if not 0 <= figures.get("accuracy", 0.0) <= 1:
            raise UsageError(
                f"accuracy is a fraction from 0 to 1, not {figures['accuracy']:g}: divide it by "
                "100, or give it another name."
            )
        return {"loss": _number(loss, "loss"), **figures}


def _number(value: Any, name: str) -> float:
    """A figure as a number; a tensor of one element is read."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{name} is {type(value).__name__}, and has to be one number.") from None


@contextmanager
def tracking(asked: Tracked, place: RunContext, *, resume: bool) -> Iterator[RunTracker]:
    """Within: a run that is told what happens.

    Raises:
        UsageError: the run id is taken, or there is no such run to go on with.
        UnavailableError: the broker does not take the resumption.
    """
    recipe = asked.recipe()
    with ExitStack() as resources:
        state, head = _before(place) if resume else (_new(place), "")
        chain = SealChain(signing.ensure(place.settings.keys_dir, TRAINER, place.clock), head)
        drain = Drain(place.outbox, place.bus, clock=place.clock, trust=place.trust)
        emitter = Emitter(
            place.bus.producer(sender_id="trainer"),
            capacity=recipe.telemetry.ring,
            clock=place.clock,
        )
        for begin, end in ((drain.start, drain.stop), (emitter.start, emitter.stop)):
            begin()
            resources.callback(end)
        journal = Journal(
            state=state,
            outbox=place.outbox,
            origin=place.origin,
            guardrails=recipe.guardrails,
            notify=drain.notify,
            chain=chain,
        )
        tracker = RunTracker(asked, journal, drain, emitter, place)
        if resume:
            _resume(tracker)
        else:
            _start(tracker, recipe)
        try:
            yield tracker
        # Ctrl-C too has to end the journal
        except BaseException as error:
            tracker.end(error)
            raise
        tracker.end(None)


def _new(place: RunContext) -> RunState:
    return nothing(place.outbox, place.bus, place.clock, place.trust).state


def _before(place: RunContext) -> tuple[RunState, str]:
    """The folded journal of a run that goes on, and the digest of its last event; any other writer
    of it is fenced.
    """
    messages, judge = list[Received](), Judge(place.run_id, place.trust)
    started = start(
        place.outbox, place.bus, clock=place.clock, trust=place.trust, on_event=messages.append
    )
    events = [event for event, _ in judged(messages, judge)]
    judge.require_events()
    for note in (*started.notes, *judge.warnings()):
        place.progress.say(note)
    state = folded(place.run_id, events)
    if recipe_of(events).model != TRACKED:
        raise UsageError(
            f"Run {place.run_id} grows a model, so no tracker goes on with it: use what began it."
        )
    return state, judge.head


def _start(tracker: RunTracker, recipe: Recipe) -> None:
    asked, environment = tracker.asked, observe()
    tracker.journal.do(
        StartRun(
            incarnation=0,
            recipe=recipe.name,
            config=recipe.canonical(),
            seed=asked.seed,
            decisions=recipe.decisions.upper(),
            total_steps=asked.steps,
            # no layer has seeds, so there is nothing that anybody could graft
            layers=(),
            parameters=asked.parameters,
            source_sha256=environment.source_sha256,
            versions=environment.versions,
            threads=environment.threads,
            instruction_set=environment.instruction_set,
            blas=environment.blas,
            onednn=environment.onednn,
        ),
        0,
    )


def _resume(tracker: RunTracker) -> None:
    place, journal = tracker.place, tracker.journal
    if tracker.asked.epoch > journal.state.epoch:
        raise UsageError(
            f"Run {place.run_id} has {journal.state.epoch} epochs in its journal, and the loop "
            f"goes on after {tracker.asked.epoch}: give the epoch that its checkpoint is of."
        )
    journal.do(
        Resume(
            reason="Resumed.",
            incarnation=journal.state.incarnation + 1,
            snapshot_id="",
            restored_step=tracker.asked.step,
        ),
        max(tracker.asked.step, journal.state.step),
    )
    if not tracker.drain.wait_empty(DRAIN_S):
        raise UnavailableError(
            f"The broker did not take the resumption of run {place.run_id} within "
            f"{DRAIN_S:.0f} s; try again."
        )
