"""One state of a run for a command: out of its snapshot or re-executed, with a bar for people,
and with what is not as it was when the run was trained.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from esper.checkpoint import Snapshot
from esper.checkpoint.snapshot import kind_of
from esper.clock import SystemClock
from esper.errors import CorruptError, UsageError
from esper.events.records import CheckpointTaken, RunPaused, RunResumed
from esper.journal.reading import whole
from esper.tolaria.recipes.environment import observe
from esper.tolaria.record.addresses import Address, address_of, anchors
from esper.tolaria.record.resume import differences
from esper.tolaria.record.snapshot_content import KINDS
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.proof import require_proven
from esper.tolaria.replay.reexecution import Archive, Reexecution
from esper.tolaria.replay.state_file import StateDigests, digests_of, model_digest, part_of
from esper.tolaria.session.progress import Progress as Told
from esper.tolaria.session.progress import say
from esper.tolaria.session.session import Session
from esper.tolaria.step.evaluation import parameters_digest


@dataclass(frozen=True, slots=True)
class Restored:
    """A state, or the kinds of its tensors that were asked for, and what is known of it.

    `begun` names the snapshot that it came from; empty for the run's first step. `executed` says
    whether steps were re-executed from there. `proven` says that the journal has the digest of
    these very parameters.
    """

    address: Address
    snapshot: Snapshot
    begun: str
    executed: bool
    digests: StateDigests
    proven: bool
    notes: tuple[str, ...]
    versions: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **asdict(self.address),
            "begun": self.begun,
            "executed": self.executed,
            "notes": list(self.notes),
            "kinds": sorted({kind_of(name) for name in self.snapshot.tensors}),
            "parameters_digest": self.digests.parameters or None,
            "state_digest": self.digests.state or None,
            "proven": self.proven,
        }


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A run's state at a step again, from the snapshot `begun`.

    `proven` says that the journal has a digest of this very state, and that it is this one.
    """

    state: Snapshot
    begun: str
    notes: tuple[str, ...]
    proven: bool
    differences: tuple[str, ...]
    versions: dict[str, Any]


def restored(
    source: Archived,
    step: int,
    console: Console,
    *,
    timeline: int | None = None,
    sequence: int | None = None,
    kinds: Collection[str] = (),
    from_scratch: bool = False,
) -> Restored:
    """The state after `step` optimizer steps, with `sequence` after so many events (`address_of`),
    of these kinds of tensors.

    All of it when none is named.

    Kinds that a snapshot of this very state has are read from it, they alone: neither the run's
    model nor its data are needed for that. All else is rebuilt.

    Raises:
        UsageError: there is no such kind or state.
        CorruptError: as `rebuilt` does; or the snapshot holds other parameters than its journal
            says.
    """
    if unknown := sorted(set(kinds) - KINDS.keys()):
        known = ", ".join(f"{name} ({meaning})" for name, meaning in KINDS.items())
        raise UsageError(
            f"A state has no {unknown[0]!r}; --only takes, with commas between them: {known}."
        )
    if kinds and not from_scratch:
        address = address_of(whole(source.events), step, timeline=timeline, sequence=sequence)
        if (stored := _read(source, address, console, kinds)) is not None:
            return stored
    archive = source.open(SystemClock(), partial(say, console))  # which folds the journal
    address = address_of(archive.events, step, timeline=timeline, sequence=sequence)
    again = rebuilt(archive, address, console, from_scratch=from_scratch)
    notes = (*again.notes, *again.differences)
    return Restored(
        address,
        part_of(again.state, kinds),
        again.begun,
        True,
        digests_of(again.state),
        again.proven,
        notes,
        again.versions,
    )


def _read(
    source: Archived, address: Address, console: Console, kinds: Collection[str]
) -> Restored | None:
    """The state out of its snapshot, where there is a whole one of it: from there to `address` the
    journal has nothing that changes a tensor.
    """
    events = source.events
    anchor = next(anchors(events, address), None)
    if (
        anchor is None
        or anchor.opens
        or (anchor.at.timeline, anchor.at.step) != (address.timeline, address.step)
    ):
        return None
    if not all(
        isinstance(event, CheckpointTaken | RunPaused | RunResumed)
        for event in events[anchor.at.sequence : address.sequence]
    ):
        return None
    try:
        snapshot = source.tensors().read(anchor.key, anchor.sha256, kinds=kinds)
    except CorruptError as error:
        say(console, f"Snapshot {anchor.name} cannot be used: {error}")
        return None
    parameters = model_digest(snapshot) if "model" in kinds else ""
    proven = bool(parameters) and require_proven(events, anchor.at, parameters)
    versions = json.loads(observe().versions)
    return Restored(
        anchor.at, snapshot, anchor.name, False, StateDigests(parameters, ""), proven, (), versions
    )


def rebuilt(
    archive: Archive, address: Address, console: Console, *, from_scratch: bool = False
) -> Rebuilt:
    """Rebuild the state at `address`, and say what is lost or different.

    Raises:
        CorruptError: the run does something else than its journal has; the sentence names what is
            different here.
    """
    torch.set_num_threads(archive.threads)
    environment = observe(archive.inputs)
    others = differences(archive.events, environment)
    for difference in others:
        say(console, f"{difference}; what is re-executed may have other bits.")
    job = partial(_state_at, address=address, from_scratch=from_scratch)
    try:
        state, begun, notes, proven = archive.apart(job, Told(console))
    except CorruptError as error:
        raise CorruptError(f"{error} {_explained(others)}".rstrip()) from error
    for note in notes:
        say(console, note)
    return Rebuilt(state, begun, notes, proven, others, json.loads(environment.versions))


def _state_at(
    archive: Archive, progress: Told, *, address: Address, from_scratch: bool
) -> tuple[Snapshot, str, tuple[str, ...], bool]:
    """The state at `address`, the snapshot that it is rebuilt from, notes, and whether it is
    proven.
    """
    with bar(progress.console) as shown:
        task = shown.add_task("re-executing", total=None)

        def show_progress(session: Session) -> None:
            shown.update(task, total=session.standing.goal, completed=session.step)

        rerun = Reexecution(
            archive,
            progress,
            usable=lambda anchor: not from_scratch or anchor.source is None,
            told=show_progress,
        ).rebuild(address)
        proven = require_proven(
            archive.events, address, parameters_digest(rerun.session.parts.growing.module)
        )
        return rerun.snapshot(), rerun.begun, rerun.notes, proven


def _explained(others: tuple[str, ...]) -> str:
    """What may be the reason."""
    return f"Not as it was when the run began: {'; '.join(others)}." if others else ""


def bar(console: Console) -> Progress:
    """A bar that only a terminal shows."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
