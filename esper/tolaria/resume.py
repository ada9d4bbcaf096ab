"""Going on with a run that stopped: its journal folded, the snapshot to begin from, and what the record still has to be executed again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from esper.checkpoint import Snapshot, TensorStore
from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken, RunRolledBack, RunStarted
from esper.lifecycle import RunState, evolve, from_canonical
from esper.tolaria.environment import Environment
from esper.tolaria.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a resumed run begins: `state` and `snapshot` fit each other (without one it is the run's first step), `name` says which."""

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
        raise UsageError(f"Run {run_id} has no journal on this Kafka, so there is nothing to resume; start it without --resume.")
    state = RunState(run_id)
    for event in events:
        state = evolve(state, event)
    if state.status in ("COMPLETED", "FAILED"):
        how = "is finished" if state.status == "COMPLETED" else "ended by a failure"
        raise UsageError(f"Run {run_id} {how}, so there is nothing to resume; start a new run.")
    return state


def recipe_of(events: Sequence[JournalEvent]) -> Recipe:
    """The recipe that the run was begun with."""
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # evolve refused anything else
    return Recipe.model_validate_json(started.config)


def differences(events: Sequence[JournalEvent], environment: Environment) -> tuple[str, ...]:
    """What is not as it was when the run began, a sentence each: the bits may differ."""
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # as above
    found = []
    for field in fields(environment):
        then, now = getattr(started, field.name), getattr(environment, field.name)
        if then == now:
            continue
        if field.name == "versions":
            before, after = json.loads(then), json.loads(now)
            found += [
                f"{name} was {before.get(name)} and is {after.get(name)}"
                for name in sorted({*before, *after})
                if before.get(name) != after.get(name)
            ]
        else:
            found.append("Esper's code is another one" if field.name == "source_sha256" else f"{field.name} was {then} and is {now}")
    return tuple(f"{one}; the resumed run may give other bits." for one in found)


def beginning(run_id: str, events: Sequence[JournalEvent], tensors: TensorStore) -> Beginning:
    """The latest state on the run's present timeline whose tensors are at hand.

    A snapshot that is missing or damaged is passed over, with a note, for the one before it; without any, the run begins at its first step.
    """
    notes: list[str] = []
    for at, event in _anchors(events):
        taken = _snapshot_of(event, events)
        if taken is None:
            continue
        try:
            snapshot = tensors.read(taken.address, taken.sha256)
        except CorruptError as error:
            notes.append(f"Snapshot {taken.snapshot_id} cannot be used: {error}")
            continue
        state = RunState(run_id)
        if isinstance(event, RunRolledBack):
            for earlier in events[:at]:
                state = evolve(state, earlier)
        else:
            state = from_canonical(snapshot.notes["state"])
        return Beginning(state, snapshot, taken.snapshot_id, tuple(notes))
    if any(isinstance(event, RunRolledBack) for event in events):
        raise CorruptError(f"Run {run_id} was rolled back, and no snapshot since then can be used: {' '.join(notes)}")
    return Beginning(RunState(run_id), None, "", tuple(notes))


def _anchors(events: Sequence[JournalEvent]) -> Iterator[tuple[int, CheckpointTaken | RunRolledBack]]:
    """Snapshots of the present timeline, the latest first, then the rollback that opened it, with the number of events folded after it."""
    timeline = events[-1].timeline
    for event in reversed(events):
        if isinstance(event, CheckpointTaken) and event.at_timeline == timeline:
            yield event.at_sequence, event
        elif isinstance(event, RunRolledBack):
            follow = event.sequence + 1
            while follow < len(events) and events[follow].causation_id == event.event_id:
                follow += 1
            yield follow, event
            return


def _snapshot_of(event: CheckpointTaken | RunRolledBack, events: Sequence[JournalEvent]) -> CheckpointTaken | None:
    if isinstance(event, CheckpointTaken):
        return event
    earlier = [one for one in events[: event.sequence] if isinstance(one, CheckpointTaken) and one.snapshot_id == event.snapshot_id]
    return earlier[-1] if earlier else None
