"""Going on with a run that stopped: its journal folded, the snapshot to begin from, and what the
record still has to be re-executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from pydantic import ValidationError

from esper.bounded.names import MALFORMED
from esper.checkpoint import Snapshot, TensorStore
from esper.errors import CorruptError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import EpochEnded, RunStarted
from esper.journal.story import fork_of
from esper.lifecycle import RunState, fold
from esper.tolaria.recipes.environment import Environment, is_input
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.record.addresses import Address, Anchor, anchors
from esper.tolaria.record.snapshot_content import RunSnapshot


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """Where a resumed run begins: `state` and `snapshot` fit each other (without one it is the
    run's first step), `name` says which.
    """

    state: RunState
    snapshot: Snapshot | None
    name: str
    notes: tuple[str, ...]


def folded(run_id: str, events: Sequence[JournalEvent]) -> RunState:
    """The state after the whole journal.

    Raises:
        UsageError: there is no journal, or the run has ended.
        CorruptError: the journal was changed.
    """
    if not events:
        raise UsageError(
            f"Run {run_id} has no journal on this Kafka, so there is nothing to resume; "
            "start it without --resume."
        )
    state = fold(run_id, events)
    if state.status in ("COMPLETED", "FAILED"):
        how = "is finished" if state.status == "COMPLETED" else "ended by a failure"
        raise UsageError(f"Run {run_id} {how}, so there is nothing to resume; start a new run.")
    return state


def recipe_of(events: Sequence[JournalEvent]) -> Recipe:
    """The recipe that the run was begun with.

    Raises:
        CorruptError: the journal has none that this Esper reads.
    """
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # evolve refused anything else
    try:
        return Recipe.model_validate_json(started.config)
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(str(part) for part in first["loc"])[:80]) or "its text"
        raise CorruptError(
            f"The journal of run {started.run_id} has no recipe that this Esper reads: "
            f"{where} does not fit: {printable(first['msg'])}."
        ) from None


def epochs_of(events: Sequence[JournalEvent]) -> int:
    """Epochs that the run was to have: its recipe's, or those of its user's own loop."""
    started, recipe = events[0], recipe_of(events)
    assert isinstance(started, RunStarted)  # noqa: S101  # as above
    return started.total_steps // steps_of_epoch(events) if recipe.own_loop else recipe.run.epochs


def steps_of_epoch(events: Sequence[JournalEvent]) -> int:
    """Steps of each of its epochs.

    Raises:
        UsageError: no epoch of a loop of its user's own has ended yet.
    """
    started, recipe = events[0], recipe_of(events)
    assert isinstance(started, RunStarted)  # noqa: S101  # as above
    if not recipe.own_loop:
        return started.total_steps // recipe.run.epochs
    ended = next((event for event in events if isinstance(event, EpochEnded)), None)
    if ended is None:
        raise UsageError(f"Run {started.run_id} has ended no epoch yet; let it train on first.")
    return ended.step // (ended.epoch + 1)


def recorded(started: RunStarted) -> dict[str, str]:
    """The versions that a run has recorded, by name; none where the text is none."""
    try:
        return {str(name): str(version) for name, version in json.loads(started.versions).items()}
    except MALFORMED:
        return {}


def differences(events: Sequence[JournalEvent], environment: Environment) -> tuple[str, ...]:
    """What is not as it was when the run began, a clause each: the bits may differ.

    Data and source files of a user's own are compared where the run recorded them and they are at
    hand.
    """
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # as above
    clauses = []
    for field in fields(environment):
        then, now = getattr(started, field.name), getattr(environment, field.name)
        if then == now:
            continue
        if field.name == "versions":
            before, after = recorded(started), json.loads(now)
            clauses += [
                f"{printable(name)} was {printable(str(before.get(name)))} and is {after.get(name)}"
                for name in sorted({*before, *after})
                if before.get(name) != after.get(name)
                and (not is_input(name) or (name in before and name in after))
            ]
        else:
            clause = f"{field.name} was {printable(str(then))} and is {now}"
            clauses.append("Esper's code has changed" if field.name == "source_sha256" else clause)
    return tuple(clauses)


Wanted = Callable[[Anchor], bool]
"""Whether a resumed run may begin at a snapshot."""


def beginning(
    run_id: str,
    events: Sequence[JournalEvent],
    tensors: TensorStore,
    wanted: Wanted | None = None,
) -> RestorePoint:
    """The latest state on the run's present timeline whose tensors are at hand.

    A snapshot that is missing or damaged is passed over, with a note, for the one before it;
    without any, the run begins at its first step. Where a framework's checkpoint says from which
    snapshot it goes on, no other is `wanted`.

    Raises:
        UsageError: the snapshot that is wanted cannot be used.
        CorruptError: the timeline goes on from an earlier state, and no snapshot of that or since
            then can be used.
    """
    notes: list[str] = []
    last, opened = Address(events[-1].timeline, events[-1].step, len(events)), False
    for anchor in anchors(events, last):
        opened = anchor.opens
        if wanted is not None and not wanted(anchor):
            continue
        try:
            return standing(
                run_id, events, anchor, tensors.read(anchor.key, anchor.sha256), tuple(notes)
            )
        except CorruptError as error:
            notes.append(f"Snapshot {anchor.name} cannot be used: {error}")
    if wanted is not None:
        why = (
            " ".join(notes) or "It was rolled back to an earlier step, or the snapshot is not its."
        )
        raise UsageError(
            f"Run {run_id} cannot go on from this checkpoint. {why} Take another checkpoint; "
            f"`esper checkpoints {run_id}` lists the snapshots that there are."
        )
    # the run's first step is on another timeline: from there another state would come out
    if opened:
        forked = None if last.timeline else fork_of(events)
        if forked is None:
            how, command = (
                "was rolled back",
                (
                    f"esper fork {run_id} --step {last.step}` rebuilds its state from the "
                    "journal, and goes on from there"
                ),
            )
        else:
            how, command = (
                "is a fork",
                f"esper fork {forked.parent_run_id} --step {forked.parent_step}` begins it anew",
            )
        raise CorruptError(
            f"Run {run_id} {how}, and no snapshot since then can be used: "
            f"{' '.join(notes)} `{command}."
        )
    return RestorePoint(RunState(run_id), None, "", tuple(notes))


def standing(
    run_id: str,
    events: Sequence[JournalEvent],
    anchor: Anchor,
    snapshot: Snapshot,
    notes: tuple[str, ...],
) -> RestorePoint:
    """The beginning at an anchor whose snapshot is at hand."""
    if not anchor.opens:
        return RestorePoint(RunSnapshot.of(snapshot).folded, snapshot, anchor.name, notes)
    # the snapshot's own state is that of the timeline before; this one's stands in the journal
    return RestorePoint(fold(run_id, events[: anchor.at.sequence]), snapshot, anchor.name, notes)
