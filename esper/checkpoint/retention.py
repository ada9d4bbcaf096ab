"""Which snapshots are kept, and why, out of the journals of all runs. Pure.

A snapshot is kept for as long as the settings say, and beyond that while its run is pinned, while
it is the last of a run that has not ended, and while a fork begins with it. Those of a deleted run
are not kept, unless another run names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Literal

from esper.events import Event
from esper.events.records import (
    CheckpointTaken,
    RunCompleted,
    RunDeleted,
    RunFailed,
    RunForked,
    RunRolledBack,
    RunStarted,
)
from esper.urza.store import Store

Why = Literal["", "pinned", "last", "forked", "deleted"]
_PINS: Final = "pins/"


@dataclass(frozen=True, slots=True)
class NamedSnapshot:
    """A snapshot that a journal names, taken at `taken_us`, microseconds since 1970-01-01 UTC.

    `why` says what keeps it beyond its time, or that its run was deleted.
    """

    taken_us: int
    why: Why = ""

    @property
    def kept(self) -> bool:
        """Whether it stays whatever its age is."""
        return self.why not in ("", "deleted")


@dataclass(slots=True)
class _Run:
    family: str
    taken: list[CheckpointTaken] = field(default_factory=list)
    line: list[CheckpointTaken] = field(default_factory=list)
    begin: RunForked | None = None
    ended: bool = False


def held(events: Iterable[Event], pinned: Container[str]) -> dict[str, dict[str, NamedSnapshot]]:
    """The snapshots of every family by the key of their manifest.

    `events` are journals, each in order; `pinned` has ids of runs.
    """
    return journalled(events).held(pinned)


class JournalledSnapshots:
    """What the journals of all runs say of snapshots."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._forked: dict[str, set[str]] = {}
        self._deleted: set[str] = set()

    def families(self, runs: Iterable[str]) -> dict[str, str]:
        """The family of each of `runs` that has a journal."""
        return {run: self._runs[run].family for run in runs if run in self._runs}

    def take(self, event: Event) -> None:
        """The next event of some journal, or that a run was deleted.

        A run begins once: what says that it begins again is not believed.
        """
        if event.run_id in self._runs:
            _note(self._runs[event.run_id], event)
        elif isinstance(event, RunStarted):
            self._runs[event.run_id] = _Run(family_of((event,)))
        if isinstance(event, RunForked):
            self._forked.setdefault(event.address, set()).add(event.run_id)
        if isinstance(event, RunDeleted):
            self._deleted.add(event.run_id)

    def held(
        self, pinned: Container[str], *, deleted: AbstractSet[str] = frozenset()
    ) -> dict[str, dict[str, NamedSnapshot]]:
        """As the function of this name gives, if the runs of `deleted` were deleted too."""
        gone = self._deleted | deleted
        families: dict[str, dict[str, NamedSnapshot]] = {}
        for run_id, run in self._runs.items():
            family = families.setdefault(run.family, {})
            for snapshot in run.taken:
                # Both, the last one taken and the last of the present line: a rollback may have
                # left the former behind.
                last = not run.ended and (
                    snapshot is run.taken[-1] or (bool(run.line) and snapshot is run.line[-1])
                )
                why: Why = (
                    "pinned"
                    if run_id in pinned
                    else "last"
                    if last and run_id not in gone
                    else "forked"
                    # a fork that was deleted begins no more
                    if self._forked.get(snapshot.address, set()) - gone
                    else "deleted"
                    if run_id in gone
                    else ""
                )
                # Two runs may name one manifest: a reason to keep it wins over none, and none over
                # the deletion of one of them.
                named = NamedSnapshot(snapshot.occurred_at, why)
                before = family.get(snapshot.address)
                if before is None or named.kept or before.why == "deleted":
                    family[snapshot.address] = named
            # what a fork began with may have been written for it alone
            if run.begin is not None and run_id in gone and run.begin.address not in family:
                family[run.begin.address] = NamedSnapshot(run.begin.occurred_at, "deleted")
        return families


def journalled(events: Iterable[Event]) -> JournalledSnapshots:
    """What `events`, journals each in order, say."""
    journals = JournalledSnapshots()
    for event in events:
        journals.take(event)
    return journals


def family_of(events: Sequence[Event]) -> str:
    """The family whose key seals a run's snapshots: that of the run which it was forked from, in
    the end, or the run itself.
    """
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # every journal begins so
    return started.family or started.run_id


def line_after(line: list[CheckpointTaken], event: Event) -> list[CheckpointTaken]:
    """The snapshots of the present line of a run, the latest last, once `event` is in its journal:
    a rollback leaves later ones behind.
    """
    if isinstance(event, CheckpointTaken):
        return [*line, event]
    if isinstance(event, RunRolledBack):
        names = [snapshot.snapshot_id for snapshot in line]
        return line[: names.index(event.snapshot_id) + 1] if event.snapshot_id in names else []
    return line


def _note(run: _Run, event: Event) -> None:
    if isinstance(event, CheckpointTaken):
        run.taken.append(event)
    run.line = line_after(run.line, event)
    if isinstance(event, RunForked):
        run.begin = event
    if isinstance(event, RunCompleted | RunFailed):
        run.ended = True


class Pins:
    """Runs whose snapshots stay until somebody says otherwise.

    They lie in the store, so all machines know; names of runs stand in no key.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = set(store.list(_PINS))

    def __contains__(self, run_id: object) -> bool:
        """Whether a run is pinned."""
        return isinstance(run_id, str) and _pin(run_id) in self._keys

    def add(self, run_id: str) -> bool:
        """Pin a run. Returns whether it was not."""
        self._keys.add(_pin(run_id))
        return self._store.put_if_absent(_pin(run_id), b"")

    def remove(self, run_id: str) -> bool:
        """Let a run go. Returns whether it was pinned."""
        self._keys.discard(_pin(run_id))
        return self._store.delete(_pin(run_id))


def _pin(run_id: str) -> str:
    return f"{_PINS}{hashlib.sha256(b'esper run' + run_id.encode()).hexdigest()[:32]}"
