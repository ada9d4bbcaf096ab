"""Where a run is put together: settings and recipe in, a trained model and a complete
journal out.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from esper.checkpoint import open_tensors
from esper.clock import Clock
from esper.config import Settings
from esper.errors import EsperError, FencedError
from esper.events.records import SeedTransitioned
from esper.history.queries import events_by_topic, wait_caught_up
from esper.kasmina import Place
from esper.lifecycle import RunState
from esper.lifecycle.commands import Fail
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.run_notes import require_living
from esper.policies import spec_of
from esper.service.transport.signing import Keyring
from esper.tolaria.recipes.environment import observe
from esper.tolaria.recipes.fitting import fitted, too_short
from esper.tolaria.recipes.recipe import OWNER, Permit, Recipe
from esper.tolaria.recipes.run_names import named, require_run_id
from esper.tolaria.recipes.sources import keep_sources
from esper.tolaria.recipes.splits import Splits
from esper.tolaria.record.forking import ForkStart
from esper.tolaria.record.permits import permit_for
from esper.tolaria.record.resume import differences, recipe_of
from esper.tolaria.run.past import forked, nothing, past
from esper.tolaria.run.startup import Startup
from esper.tolaria.run.trainee import (
    data_digest,
    inputs_of,
    load_data,
    model_of,
    seen,
    total_steps,
    trainee_of,
)
from esper.tolaria.run.trainer import RunOutcome, Trainer
from esper.tolaria.run.wiring import Runtime, place_of, rig
from esper.tolaria.session.progress import Progress
from esper.tolaria.step.method import method_of
from esper.tolaria.step.preflight import require_usable

HISTORY_S = 20.0  # how long it waits for the history to have every event


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that has ended in order."""

    run_id: str
    outcome: RunOutcome
    seconds: float
    longest_step_s: float
    start: dict[str, float]
    state: RunState
    paths: dict[Place, list[SeedTransitioned]]
    growth: str
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
            "metrics": outcome.metrics,
            "score": outcome.score,
            "score_name": outcome.score_name,
            "epochs": outcome.epochs,
            "steps": outcome.steps,
            "growth": self.growth,
            "seeds": dict(Counter(seed.stage for seed in self.state.seeds)),
            "events": self.events,
            "dropped": self.dropped,
            "parameters": outcome.parameters,
            "digest": outcome.digest,
            "seconds": round(self.seconds, 3),
            "longest_step_s": round(self.longest_step_s, 4),
            "start": self.start,
            "history_complete": self.history_complete,
            "model": str(self.model_path),
        }


def train(
    settings: Settings,
    recipe: Recipe | None,
    *,
    run_id: str,
    cluster: Access | str,
    history_url: str,
    clock: Clock,
    console: Console,
    history_s: float = HISTORY_S,
    fork: ForkStart | None = None,
    until: int | None = None,
    startup: Startup | None = None,
    permit: Permit = OWNER,
    allow: Sequence[str] = (),
    require: Callable[[Recipe], None] | None = None,
) -> Finished:
    """Train a run on a bus that answers, and wait until Kafka and, for at most `history_s` seconds,
    the history have all of it.

    Without a recipe the run `run_id` is resumed, with the recipe that its journal has. With `fork`
    it begins with another run's state. After `until` epochs it is interrupted, and can be resumed.
    `startup` has what the process did before, if anything. `permit` says which functions of the
    recipe may be called; for a run that is resumed, that depends on where it was begun, and on
    `allow`. `require` is asked before any of them is called, wherever the recipe came from, and
    raises where it may not be trained.

    Raises:
        EsperError: the run cannot be begun or cannot go on; when it had begun, its journal says so
            too.
    """
    run_id = run_id or named(recipe.name if recipe else "run", clock)
    require_run_id(run_id)
    progress, startup = Progress(console), startup or Startup.of(clock)
    # where it was deleted it has no folder any more
    if recipe is None and not (settings.runs_dir / run_id / "outbox").is_dir():
        require_living(KafkaBus(cluster), run_id, Keyring(settings.keys_dir).trust, clock=clock)
    with ExitStack() as stack:
        place = stack.enter_context(
            place_of(settings, run_id, cluster, clock, progress, resumed=recipe is None)
        )
        if recipe is None:
            before = past(
                place.outbox,
                place.bus,
                clock,
                place.trust,
                partial(open_tensors, settings),
                progress,
            )
            recipe = recipe_of(before.events)
            if require is not None:
                require(recipe)  # before anything of the journal's is looked up
            # whose package is gone decides nothing more, and the run would go on as if it had
            spec_of(recipe.tamiyo.policy)
            permit = permit_for(settings, before.events, recipe, allow=allow, say=progress.say)
        elif fork is not None:
            before = forked(
                place.outbox,
                place.bus,
                clock,
                place.trust,
                family=fork.family,
                offered=fork.offered,
            )
        else:
            before = nothing(place.outbox, place.bus, clock, place.trust)
        if require is not None:
            require(recipe)
        startup.spent("journal")
        torch.set_num_threads(recipe.run.threads)
        method = method_of(recipe, permit)  # before the data are made, which may take long
        splits = load_data(
            recipe,
            permit,
            run_dir=place.folder,
            shared=settings.data_dir,
            recorded=fork.data if fork is not None else data_digest(before.events),
            say=progress.say,
        )
        if not before.events and fork is None:
            recipe = _fitted(recipe, splits, progress.say)
        environment = observe(inputs_of(recipe, splits))
        for difference in differences(before.events, environment) if before.events else ():
            progress.say(f"{difference}; the resumed run may give other bits.")
        # a resumed run keeps the sources that it was begun with
        if not before.events:
            keep_sources(recipe, place.folder, permit.folder)
        trainee = trainee_of(recipe, model_of(recipe, permit, before.events), splits, method)
        # what was trained on before is not held against rules of today
        if not before.events:
            for sentence in require_usable(
                trainee.growing,
                trainee.task,
                seen(splits, recipe),
                recipe.run.batch_size,
                recipe.validation.samples,
            ):
                progress.say(sentence)
        for name, reason in trainee.growing.excluded.items():
            progress.say(f"Layer {name} has no seeds: {reason}")
        startup.spent("data_model")
        rigged = rig(
            stack,
            place,
            before,
            recipe,
            task=trainee.task,
            growing=trainee.growing,
            stepper=trainee.stepper,
            held_out=trainee.splits.validation,
            test=trainee.splits.test,
            steps=trainee.steps,
            environment=environment,
        )
        startup.spent("restore")
        rigged.session.parts.journal.used_up = partial(startup.spent, "re_execution")
        rigged.session.standing.goal = (
            None if until is None else until * (trainee.steps // recipe.run.epochs)
        )
        trainer = Trainer(rigged.session, trainee.splits.train, fork, startup)
        begun = clock.monotonic()
        outcome = _trained(trainer, progress)
        seconds = clock.monotonic() - begun
        rigged.settle()
        complete = wait_caught_up(history_url, place.bus, timeout=history_s, settings=settings)
        return Finished(
            run_id=run_id,
            outcome=outcome,
            seconds=seconds,
            longest_step_s=trainer.longest_step_s,
            start=startup.as_json(),
            state=rigged.session.state,
            paths=rigged.session.paths,
            growth=rigged.session.growth(),
            events=events_by_topic(history_url, run_id, settings=settings)
            if complete
            else _told(rigged),
            model_path=place.folder / "model.safetensors",
            history_path=settings.history_dir,
            history_complete=complete,
        )


def _fitted(recipe: Recipe, splits: Splits, say: Callable[[str], None]) -> Recipe:
    """The recipe of a new run, with what it leaves out."""
    steps = total_steps(recipe, splits.train)
    whole = fitted(recipe, steps)
    if sentence := too_short(whole, steps):
        say(sentence)
    return whole


def _trained(trainer: Trainer, progress: Progress) -> RunOutcome:
    """Run the loop with Ctrl-C, SIGTERM and SIGHUP ending it in order.

    What cannot go on is journalled as RunFailed.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if trainer.session.standing.stop:
            raise KeyboardInterrupt
        progress.say("Ending the run after this step; once more ends it at once.")
        # a flag alone: an exception from here could strike between the outbox and the fold
        trainer.session.standing.stop = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, interrupt) for number in numbers}
    progress.start()
    try:
        return trainer.run()
    # the journal is another writer's now: no RunFailed from here
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
    # not while the record has events left: they contradict this end
    if session.state.status in ("RUNNING", "PAUSED") and not session.parts.journal.replaying:
        session.parts.journal.do(Fail(error=error, reason=reason), session.step)


def _told(rigged: Runtime) -> dict[str, int]:
    """What the trainer itself wrote, by topic: the answer when the history cannot be asked."""
    written = Counter(rigged.emitter.delivered())
    written["system.events.run"] = rigged.session.state.sequence
    return dict(written)
