"""Where a fork stands in its parent, what it changes, and the state that it begins with.

A fork stands between two steps. Without decisions to leave out it has all that the parent's journal
has there; a decision that is left out at that very step moves the cut before the whole answer that
it was part of, and Tamiyo is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from esper.checkpoint import Snapshot
from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    EpochReviewed,
    LeftOut,
    RunCompleted,
)
from esper.journal.story import flat
from esper.lifecycle import RunState, fold
from esper.lifecycle.commands import Fork, StartRun
from esper.tolaria.recipes.recipe import Recipe, overridden
from esper.tolaria.record.addresses import Address, address_of
from esper.tolaria.record.resume import recipe_of

FIXED = {
    "name": "the recipe's name stays",
    "model": "the state is that model's",
    "data": "the parent's steps were on that data",
    "optimizer.name": "the state is that optimizer's",
    "optimizer.arguments": "the state is that of an optimizer with these",
    "optimizer.groups": "the state has these groups",
    "run.batch_size": "the parent's steps and the schedule count batches of that size",
    "run.precision": "the state of the loss scaler belongs to it",
    "kasmina.chunk": "the state has its chunks",
    "kasmina.seeds": "the state has that many seeds a layer",
    "kasmina.include": "the state has seeds in those layers",
    "kasmina.exclude": "the state has seeds in those layers",
}
"""Settings that a fork cannot change, and why."""
FIXED_OWN = {
    "run.seed": "the loop's batches are drawn by it; run.order is another order of them",
    **dict.fromkeys(
        ("run.epochs", "run.threads", "run.device", "run.accumulate", "run.channels_last"),
        "the script decides that",
    ),
    "optimizer": "the script has its own",
    "task": "the script decides that",
}
"""The same of a run in a loop of its user's own."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a fork stands: the state at `address`, and the parent's last packet whose answer is in
    it; -1 when there is none.
    """

    address: Address
    state: RunState
    packet: int
    without: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class ForkStart:
    """All that a fork begins with.

    `address` and `sha256` name the manifest of `snapshot` in the tensor store, `data` is the digest
    of the parent's data, empty where it has recorded none.
    """

    cut: Cut
    snapshot: Snapshot
    address: str
    sha256: str
    changes: tuple[str, ...]
    family: str
    offered: tuple[str, ...]
    reason: str
    data: str = ""

    def command(self, start: StartRun) -> Fork:
        """The command that begins the fork's journal."""
        return Fork(
            start=replace(start, family=self.family),
            forked=self.cut.state,
            address=self.address,
            sha256=self.sha256,
            changes=self.changes,
            without=self.cut.without,
            reason=self.reason,
            parent_packet=self.cut.packet,
            offered=self.offered,
        )


def decision_of(events: Sequence[JournalEvent], name: str) -> AdaptationApplied:
    """The applied decision whose id begins with `name`.

    Raises:
        UsageError: there is none, or more than one.
    """
    run_id = events[0].run_id
    applied = {event.decision_id: event for event in events if isinstance(event, AdaptationApplied)}
    matches = [
        event for decision_id, event in applied.items() if name and decision_id.startswith(name)
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        several = ", ".join(event.decision_id for event in matches[:3])
        raise UsageError(
            f"{name} is the beginning of {len(matches)} decisions of run {run_id} "
            f"({several}); give more of its id."
        )
    if any(
        isinstance(event, AdaptationRejected) and event.decision_id.startswith(name)
        for event in events
        if name
    ):
        raise UsageError(
            f"Decision {name} of run {run_id} was rejected, so it changed nothing; name "
            "one that was applied."
        )
    some = ", ".join(list(applied)[:3]) or "none"
    raise UsageError(
        f"Run {run_id} has applied no decision {name or 'without a name'}; it has "
        f"{len(applied)}: {some}."
    )


def cut_at(
    events: Sequence[JournalEvent],
    step: int | None,
    *,
    timeline: int | None = None,
    without: Sequence[AdaptationApplied] = (),
    before: AdaptationApplied | None = None,
) -> Cut:
    """Where a fork stands that leaves out `without`.

    With no step, where the first of them was applied. `before` moves the cut alone.

    Raises:
        UsageError: there is no such step, or a decision was applied before it or in another
            timeline.
    """
    run_id, moved = events[0].run_id, [*without, *([before] if before else [])]
    if step is None:
        if not moved:
            raise UsageError(
                "Say where to fork: --step N, or --without DECISION to fork where that was applied."
            )
        first = min(moved, key=lambda decision: decision.sequence)
        step, timeline = first.step, first.timeline if timeline is None else timeline
    address = address_of(events, step, timeline=timeline)
    for decision in moved:
        if (decision.timeline, decision.step) < (
            address.timeline,
            step,
        ) or decision.timeline != address.timeline:
            raise UsageError(
                f"Decision {decision.decision_id} of run {run_id} was applied at step "
                f"{decision.step} of timeline {decision.timeline}, which is not at or after "
                f"{address}; fork at or before it."
            )
    # before the whole answer, not one decision: Tamiyo is asked again and repeats the others
    sequences = [_answer(events, decision) for decision in moved if decision.step == step]
    if step == 0:  # a run that begins asks Tamiyo before its first step, and so does its fork
        sequences += [
            _answer(events, decision)
            for decision in events[: address.sequence]
            if isinstance(decision, AdaptationApplied)
        ][:1]
    if sequences:
        # the earliest of them: no answer that is left out may be in the state
        address = address_of(events, step, timeline=address.timeline, sequence=min(sequences))
    # the fold knows the step of its last event only; the fork stands at the step asked for
    state = replace(fold(run_id, events[: address.sequence]), step=step)
    # an answer that is in the state must not come again: its commands would be applied twice
    packet = (
        state.epoch
        if step and _answered(events, address, state.epoch, moved=bool(sequences))
        else state.epoch - 1
    )
    return Cut(address, state, packet, tuple(_left_out(decision) for decision in without))


def changed(
    events: Sequence[JournalEvent], overrides: Sequence[str], *, epoch: int
) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of a fork that stands after `epoch` epochs, and what differs from the parent's, as
    section.key=value.

    Raises:
        UsageError: an unknown key, a wrong value, or a setting that a fork cannot change.
    """
    before = recipe_of(events)
    after = overridden(before.model_dump(mode="json"), overrides)
    old, new = (
        # a task's name alone is written in short, and would be a key that is gone
        flat(
            recipe.model_dump(mode="json")
            | {"task": {"name": recipe.task.name, **recipe.task.arguments}}
        )
        for recipe in (before, after)
    )
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    fixed = {**FIXED, **(FIXED_OWN if before.own_loop else {})}
    for key in keys:
        # dots behind both: `model` covers `model.x`, and not `model_x`
        names = [setting for setting in fixed if f"{key}.".startswith(f"{setting}.")]
        if names:
            raise UsageError(
                f"A fork cannot change {key}: {fixed[names[0]]}. Start a new run with it instead."
            )
    changes = tuple(f"{key}={json.dumps(new.get(key))}" for key in keys)
    if before.own_loop:  # whose epochs the script counts
        return after, changes
    if after.run.epochs < epoch or (after.run.epochs == epoch and not overrides):
        raise UsageError(
            f"The fork stands after {epoch} epochs, so run.epochs = {after.run.epochs} "
            "leaves none to train; --set run.epochs higher."
        )
    return after, changes


def _answer(events: Sequence[JournalEvent], decision: AdaptationApplied) -> int:
    """The sequence of the first event of the answer that a decision was part of."""
    return next(
        event.sequence
        for event in events
        if isinstance(event, AdaptationApplied | AdaptationRejected)
        and (
            event is decision
            or (
                decision.causation_id
                and event.causation_id == decision.causation_id
                and event.step == decision.step
            )
        )
    )


def _answered(events: Sequence[JournalEvent], address: Address, epoch: int, *, moved: bool) -> bool:
    """Whether the answer to the packet of `epoch` is in the state: the journal tells of one, or it
    goes on after this step.
    """
    earlier = [
        event
        for event in events[: address.sequence]
        if event.timeline == address.timeline and event.epoch == epoch
    ]
    if any(
        isinstance(event, AdaptationApplied | AdaptationRejected)
        and event.source_topic == EpochReviewed.TOPIC
        for event in earlier
    ):
        return True
    later = [event for event in events[address.sequence :] if event.timeline == address.timeline]
    # no answer, but the run went on: Tamiyo had nothing to say, or was not waited for
    return not moved and any(
        event.step > address.step or isinstance(event, RunCompleted) for event in later
    )


def _left_out(decision: AdaptationApplied) -> LeftOut:
    return LeftOut(
        run_id=decision.run_id,
        decision_id=decision.decision_id,
        command=decision.command,
        layer=decision.layer,
        seed=decision.seed,
        kernel_id=decision.kernel_id,
        epoch=decision.epoch,
    )
