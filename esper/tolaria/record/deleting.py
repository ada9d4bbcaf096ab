"""A run is deleted: what it alone has is found, said, and removed.

The order makes a kill at any point harmless. First the event says so; from then on the run's
snapshots count for no sweep, whoever begins one. Then they are swept, and the run's files go. Asked
for again, a deletion goes on where it was. The journal stays: it is the record of what happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esper.checkpoint.collection import no_sweep, owner_of
from esper.checkpoint.manifest import manifests
from esper.checkpoint.retention import JournalledSnapshots, Pins
from esper.checkpoint.sweep import Rules, Swept, sweep
from esper.checkpoint.tensors import TensorStore, open_cold
from esper.clock import Clock
from esper.config import Settings
from esper.errors import UnavailableError, UsageError
from esper.events import Event
from esper.events.records import RunCompleted, RunDeleted, RunFailed, RunForked, RunStarted
from esper.lifecycle.annotations import NOTHING, RunNotes, fold
from esper.oona.durable.lock import Lock
from esper.tolaria.recipes.environment import DATA as DATA_VERSION
from esper.tolaria.recipes.splits import kept_in
from esper.tolaria.record.resume import recorded
from esper.urza.opening import open_store
from esper.vault.family_keys import opened
from esper.vault.masters import masters

_NEVER: Final = 1 << 62
"""Microseconds: nothing else of the family goes with the run."""
_PART: Final = ".deleted"
"""What the name of a folder that is being removed ends with."""


@dataclass(slots=True)
class KnownRuns:
    """What the journals of all runs, and operators, say that matters to a deletion."""

    snapshots: JournalledSnapshots = field(default_factory=JournalledSnapshots)
    notes: dict[str, RunNotes] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    data: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    """By run, what is wrong with its journal."""

    def take(self, event: Event) -> None:
        """The next event of some journal, or what an operator says of a run."""
        self.snapshots.take(event)
        if isinstance(event, RunStarted):
            self.recipes.setdefault(event.run_id, event.recipe)
            self.data.setdefault(event.run_id, recorded(event).get(DATA_VERSION, ""))
        elif isinstance(event, RunForked):
            self.parents[event.run_id] = event.parent_run_id
        elif isinstance(event, RunCompleted | RunFailed):
            self.ended.add(event.run_id)
        self.notes[event.run_id] = fold(self.notes.get(event.run_id, NOTHING), event)

    def lives(self, run_id: str) -> bool:
        """Whether there is such a run and it was not deleted."""
        return run_id in self.recipes and not self.notes[run_id].deleted_at

    def forks(self, run_id: str) -> list[str]:
        """The runs that were forked from it and not deleted."""
        return sorted(
            run for run, parent in self.parents.items() if parent == run_id and self.lives(run)
        )


@dataclass(frozen=True, slots=True)
class Deletion:
    """What is deleted, or would be."""

    run_id: str
    snapshots: int
    files: Sequence[Path]
    file_bytes: int
    before: bool
    """Whether it was asked for before, and is finished now."""


def known_runs(events: Iterable[Event]) -> KnownRuns:
    """What `events` say: the journals, each in order, and what stands on `control.runs`."""
    runs = KnownRuns()
    for event in events:
        runs.take(event)
    return runs


def planned(settings: Settings, runs: KnownRuns, run_id: str) -> Deletion:
    """What the deletion of a run would remove.

    Raises:
        UsageError: there is no such run, or it may not be deleted; the sentence says why, and what
            to do first.
        UnavailableError: the store does not answer.
    """
    _require(settings, runs, run_id)
    folder = settings.runs_dir / run_id
    places = (folder, _parted(folder))
    files = [path for place in places for path in place.rglob("*") if not path.is_dir()]
    files += _own_data(settings, runs, run_id)
    size = sum(path.lstat().st_size for path in files)
    return Deletion(
        run_id,
        len(_manifests(settings, runs, run_id)),
        files,
        size,
        before=bool(runs.notes[run_id].deleted_at),
    )


def carried_out(
    settings: Settings, runs: KnownRuns, event: RunDeleted, plan: Deletion, clock: Clock
) -> Swept | None:
    """Remove what the plan names, once the event stands on Kafka. Gives what became of the
    snapshots; None where the run has none.

    Chunks that are younger than an hour go with a later `esper gc`: a trainer may be about to name
    them.

    Raises:
        UsageError: another process sweeps or trains the run.
        CorruptError: a manifest of the family is damaged, so that nobody knows which chunks others
            need; nothing was deleted.
        UnavailableError: a file cannot be removed, or the store does not answer.
    """
    runs.take(event)
    folder = settings.runs_dir / plan.run_id
    lock = _held(folder)
    try:
        with no_sweep(settings):
            swept = _swept(settings, runs, plan.run_id, clock)
        _remove(folder, plan.files)
    finally:
        if lock is not None:
            lock.release()
    return swept


def _require(settings: Settings, runs: KnownRuns, run_id: str) -> None:
    if run_id not in runs.recipes:
        raise UsageError(f"There is no run {run_id}; `esper runs` lists those that there are.")
    family = runs.snapshots.families(runs.recipes)
    if found := [why for run, why in runs.damaged.items() if family.get(run) == family[run_id]]:
        raise UsageError(f"Nobody knows which snapshots are needed: {found[0]}")
    if run_id in Pins(open_store(settings)):
        raise UsageError(
            f"Run {run_id} is pinned: let it go first, with `esper pin {run_id} --off`."
        )
    if runs.notes[run_id].baseline:
        raise UsageError(
            f"Run {run_id} is the baseline of {runs.recipes[run_id]}: choose another first, or "
            f"`esper runs baseline {run_id} --off`."
        )
    if forks := runs.forks(run_id):
        raise UsageError(
            f"Run {run_id} was forked, and {', '.join(forks)} could not be proven without it: "
            "delete these first."
        )
    folder = settings.runs_dir / run_id
    if run_id in runs.ended or runs.notes[run_id].deleted_at:
        return
    if not (folder / "outbox").is_dir():
        raise UsageError(
            f"Run {run_id} has not ended, and was not begun here: delete it where it runs."
        )
    if (lock := _held(folder)) is not None:
        lock.release()


def _held(folder: Path) -> Lock | None:
    """The lock of the run's trainer; None where the run has no folder here.

    Raises:
        UsageError: a trainer has it.
    """
    if not (folder / "outbox").is_dir():
        return None
    return Lock(
        folder / "outbox" / "lock",
        what=f"Run {folder.name}",
        remedy=f"pause it with `esper pause {folder.name}`, or stop that process, before it is "
        "deleted",
    )


def _manifests(settings: Settings, runs: KnownRuns, run_id: str) -> list[str]:
    """The keys of the run's snapshots in the store that nobody else has a reason to keep."""
    family = runs.snapshots.families([run_id])[run_id]
    named = runs.snapshots.held((), deleted={run_id}).get(family, {})
    tensors = _tensors(settings, family)
    there = set(tensors.store.list(manifests(tensors.family))) if tensors else set()
    return sorted(
        key for key, snapshot in named.items() if snapshot.why == "deleted" and key in there
    )


def _tensors(settings: Settings, family: str) -> TensorStore | None:
    store = open_store(settings)
    key = opened(store, masters(settings), family)
    return None if key is None else TensorStore(store, key, open_cold(settings))


def _swept(settings: Settings, runs: KnownRuns, run_id: str, clock: Clock) -> Swept | None:
    family = runs.snapshots.families([run_id])[run_id]
    tensors = _tensors(settings, family)
    if tensors is None:
        return None
    return sweep(
        tensors,
        runs.snapshots.held(Pins(tensors.store)).get(family, {}),
        Rules(keep_us=_NEVER, cold_after_us=_NEVER),
        now_us=clock.now_us(),
        owner=owner_of(settings),
    )


def _own_data(settings: Settings, runs: KnownRuns, run_id: str) -> list[Path]:
    """The kept data that no other run has been trained with."""
    digest = runs.data.get(run_id, "")
    others = {data for run, data in runs.data.items() if run != run_id and runs.lives(run)}
    return [] if digest in others else kept_in(settings.data_dir, digest)


def _parted(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_PART}")


def _remove(folder: Path, files: Iterable[Path]) -> None:
    """Remove a run's folder, and files elsewhere."""
    parted = _parted(folder)
    try:
        if parted.is_dir():  # of a deletion that was killed
            shutil.rmtree(parted)
        if folder.is_dir():
            # renamed first: half a folder would look like a run
            folder.rename(parted)
            shutil.rmtree(parted)
        for path in files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"{error.filename or folder} cannot be removed ({error.strerror}): correct its "
            "permissions, then ask for the deletion again."
        ) from error
