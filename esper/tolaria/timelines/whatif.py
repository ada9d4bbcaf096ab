"""What one decision was worth: the run with it and without it, from the same state, with the same
batches and random streams.

Open loop: what was decided afterwards in the record comes at the steps where it came, in both
branches, but for what the decision caused. It runs in this process alone. Closed loop: both
branches are forks, and Tamiyo decides anew in each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from esper.clock import Clock
from esper.disk import write_file
from esper.errors import UsageError
from esper.events import JournalEvent, Origin
from esper.events.envelope import trace_id
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    CounterfactualMeasured,
    EpochEnded,
)
from esper.events.seals import OPERATOR
from esper.journal.effect import Branch, Effect, effect
from esper.journal.story import EpochPoint
from esper.tolaria.record.addresses import line_of
from esper.tolaria.record.forking import Cut, cut_at
from esper.tolaria.record.resume import epochs_of, steps_of_epoch
from esper.tolaria.replay.reexecution import Archive, Reexecution
from esper.tolaria.session.progress import Progress
from esper.tolaria.timelines.script import ScriptLine, script_of, without

Mode = Literal["open", "closed"]

Side = Literal["with", "without"]
MOST_ORDERS: Final = 256
"""Pairs of one question: as many runs as an event may name."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the effect of `decision` of the run whose journal is `events`, over `orders`
    data orders, at the end of epoch `until`.
    """

    events: Sequence[JournalEvent]
    decision: AdaptationApplied
    orders: int
    until: int | None

    @property
    def epochs(self) -> int:
        """Epochs that the branches go to, counted from the run's first."""
        return self.until or epochs_of(self.events)

    @property
    def own_seconds(self) -> float:
        """How long the run itself took: its median epoch times its epochs, so that it does not
        matter how long it stood still.
        """
        ends = [event for event in self.events if isinstance(event, EpochEnded)]
        took = [
            (after.occurred_at - before.occurred_at) / 1e6
            for before, after in pairwise(ends)
            # a rollback between them makes no epoch's time
            if after.epoch == before.epoch + 1
        ]
        return median(took) * epochs_of(self.events) if took else 0.0


@dataclass(frozen=True, slots=True)
class WhatIfResult:
    """The effect, and what it rests on.

    `dropped` are the lines of the record that an open loop left out, the decision first; `refused`
    the commands that did not fit a branch. `proven` says whether the branch with the decision, in
    the run's own data order, ended each epoch with the parameters that the record has.
    """

    question: Question
    mode: Mode
    with_it: tuple[Branch, ...]
    without: tuple[Branch, ...]
    effect: Effect
    dropped: tuple[str, ...]
    refused: tuple[str, ...]
    proven: bool
    seconds: float

    @property
    def ratio(self) -> float:
        """Seconds for each that as many runs from the first step on would have taken.

        0 where the record is too short to tell.
        """
        own = self.question.own_seconds * (len(self.with_it) + len(self.without))
        return self.seconds / own if own else 0.0

    def as_json(self) -> dict[str, Any]:
        """The answer for scripts."""
        decision = self.question.decision
        fields = (
            "decision_id",
            "command",
            "layer",
            "seed",
            "family",
            "kernel_id",
            "timeline",
            "epoch",
            "step",
        )
        return {
            "run_id": decision.run_id,
            "mode": self.mode,
            "decision": {name: getattr(decision, name) for name in fields},
            "orders": len(self.with_it),
            "until_epoch": self.question.epochs,
            "effect": self.effect.as_json(),
            "branches": {
                "with": [asdict(branch) for branch in self.with_it],
                "without": [asdict(branch) for branch in self.without],
            },
            "dropped": list(self.dropped),
            "refused": list(self.refused),
            "proven": self.proven,
            "seconds": round(self.seconds, 3),
            "own_seconds": round(self.question.own_seconds, 3),
            "ratio": round(self.ratio, 4),
        }


def measured(answer: WhatIfResult, *, actor: str, clock: Clock) -> CounterfactualMeasured:
    """The answer as an event, for `actor` who asked: of an open loop the same event each time,
    since the same question has the same answer.
    """
    question, effect = answer.question, answer.effect
    decision, closed = question.decision, answer.mode == "closed"
    runs = [[branch.run_id for branch in side] for side in (answer.with_it, answer.without)]
    origin = Origin(decision.run_id, OPERATOR, trace_id("request", decision.run_id, actor), clock)
    key = f"whatif/{decision.decision_id}/{answer.mode}/{question.orders}/{question.epochs}"
    return CounterfactualMeasured(
        **origin.envelope(f"{key}/{runs[0][0]}" if closed else key),
        decision_id=decision.decision_id,
        mode="CLOSED" if closed else "OPEN",
        orders=question.orders,
        until_epoch=question.epochs,
        score_name=effect.score_name,
        higher_is_better=effect.higher_is_better,
        score_effect=effect.score.mean,
        score_low=effect.score.low,
        score_high=effect.score.high,
        loss_effect=effect.loss.mean,
        loss_low=effect.loss.low,
        loss_high=effect.loss.high,
        with_runs=tuple(runs[0]) if closed else (),
        without_runs=tuple(runs[1]) if closed else (),
        proven=answer.proven,
        seconds=answer.seconds,
        actor=actor,
    )


def asked(
    events: Sequence[JournalEvent], decision: AdaptationApplied, *, orders: int, until: int | None
) -> Question:
    """The question, if it can be asked.

    Raises:
        UsageError: no data order, or an end that is not behind the decision.
    """
    last = epochs_of(events)
    if not 1 <= orders <= MOST_ORDERS:
        raise UsageError(
            f"--orders is 1 to {MOST_ORDERS}, 2 at least for an interval, and is {orders}: take "
            "one of these."
        )
    if not decision.epoch < (until or last) <= last:
        raise UsageError(
            f"Decision {decision.decision_id} was applied after {decision.epoch} epochs, "
            f"and the run has {last}; --until must be after the first and "
            "not after the second."
        )
    return Question(events, decision, orders, until)


def open_loop(
    question: Question, archive: Archive, progress: Progress, *, clock: Clock
) -> WhatIfResult:
    """The effect with everything else as it was in the record.

    Raises:
        EsperError: the state at the decision cannot be rebuilt, or a branch cannot go on.
    """
    begun, decision = clock.monotonic(), question.decision
    cut = cut_at(question.events, None, before=decision)
    recorded = question.events[
        cut.address.sequence : line_of(question.events, cut.address.timeline).end
    ]
    full = script_of(recorded)
    reduced, dropped = without(full, recorded, decision)
    refused: list[str] = []
    branches: dict[Side, list[Branch]] = {"with": [], "without": []}
    for order in range(question.orders):
        for side, script in (("with", full), ("without", reduced)):
            progress.say(
                f"Data order {order}, {side} the decision: from {cut.address} to the end "
                f"of epoch {question.epochs - 1}."
            )
            job = partial(_branch, question=question, cut=cut, script=script, order=order)
            branch, events = archive.apart(job, progress)
            branches[side].append(branch)  # type: ignore[index]  # one of the two
            sentences = {
                line.event.decision_id: line.sentence()
                for line in script
                if isinstance(line.event, AdaptationApplied)
            }
            refused += [
                (
                    f"{sentences.get(event.decision_id, event.decision_id)}, {side} the decision, "
                    f"data order {order}: {event.reason}"
                )
                for event in events
                if isinstance(event, AdaptationRejected)
            ]
    return _answer(
        question,
        "open",
        branches,
        tuple(line.sentence() for line in dropped),
        tuple(refused),
        clock.monotonic() - begun,
    )


def closed_loop(
    question: Question,
    run: Callable[[Cut, Side, int], tuple[str, Sequence[JournalEvent]]],
    *,
    clock: Clock,
) -> WhatIfResult:
    """The effect with Tamiyo deciding anew: `run` trains a fork at a cut in a data order, and gives
    its id and journal.

    Raises:
        EsperError: as `run` does.
    """
    begun, decision = clock.monotonic(), question.decision
    cuts: dict[Side, Cut] = {
        "with": cut_at(question.events, None, before=decision),
        "without": cut_at(question.events, None, without=[decision]),
    }
    branches: dict[Side, list[Branch]] = {"with": [], "without": []}
    refused: list[str] = []
    for order in range(question.orders):
        for side, cut in cuts.items():
            started = clock.monotonic()
            run_id, events = run(cut, side, order)
            branches[side].append(_of(events, order, run_id, clock.monotonic() - started))
            refused += [
                f"{event.command} at {event.layer}[{event.seed}] in run {run_id}: {event.reason}"
                for event in events
                if isinstance(event, AdaptationRejected)
            ]
    return _answer(question, "closed", branches, (), tuple(refused), clock.monotonic() - begun)


def keep(answer: WhatIfResult, folder: Path) -> Path:
    """Write the answer as JSON into a run's folder of answers; gives the file."""
    target = folder / f"{answer.question.decision.decision_id}-{answer.mode}.json"
    write_file(target, (json.dumps(answer.as_json(), sort_keys=True, indent=2) + "\n").encode())
    return target


def _branch(
    archive: Archive,
    progress: Progress,
    *,
    question: Question,
    cut: Cut,
    script: Sequence[ScriptLine],
    order: int,
) -> tuple[Branch, Sequence[JournalEvent]]:
    begun = archive.clock.monotonic()
    rerun = Reexecution(archive, progress).rebuild(cut.address)
    parts, recipe = rerun.session.parts, rerun.session.parts.recipe
    # after the rebuild: steps up to the cut keep their order. Order 0 has to match the record
    if order:
        parts.recipe = recipe.model_copy(
            update={"run": recipe.run.model_copy(update={"order": order})}
        )
    goal = question.epochs * steps_of_epoch(question.events)
    events = rerun.run_on(goal, [(line.step, line.command) for line in script])
    return _of(events, order, "", archive.clock.monotonic() - begun), events


def _of(events: Sequence[JournalEvent], order: int, run_id: str, seconds: float) -> Branch:
    ends = [event for event in events if isinstance(event, EpochEnded)]
    points = tuple(map(EpochPoint.of, ends))
    return Branch(order, run_id, points, points[-1].digest if points else "", seconds)


def _answer(
    question: Question,
    mode: Mode,
    branches: dict[Side, list[Branch]],
    dropped: tuple[str, ...],
    refused: tuple[str, ...],
    seconds: float,
) -> WhatIfResult:
    timeline = question.decision.timeline
    recorded = {
        event.epoch: event.parameters_digest
        for event in question.events
        if isinstance(event, EpochEnded) and event.timeline == timeline
    }
    own = branches["with"][0]
    return WhatIfResult(
        question=question,
        mode=mode,
        with_it=tuple(branches["with"]),
        without=tuple(branches["without"]),
        effect=effect(branches["with"], branches["without"]),
        dropped=dropped,
        refused=refused,
        proven=bool(own.points)
        and all(recorded.get(point.epoch, point.digest) == point.digest for point in own.points),
        seconds=seconds,
    )
