"""Rebuilding one step for a command: with a bar for people, and with what is not as it was when the run was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from esper.errors import CorruptError
from esper.tolaria.addresses import Address
from esper.tolaria.environment import observe
from esper.tolaria.evaluation import parameters_digest
from esper.tolaria.progress import Progress as Told
from esper.tolaria.proof import require_proven
from esper.tolaria.reexecution import Archive, Reexecution, Rerun
from esper.tolaria.resume import differences
from esper.tolaria.session import Session


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A run that stands at a step again. `proven` says that the journal has a digest of this very state, and that it is this one."""

    rerun: Rerun
    proven: bool
    differences: tuple[str, ...]
    versions: dict[str, Any]


def rebuilt(archive: Archive, address: Address, console: Console, *, from_scratch: bool = False) -> Rebuilt:
    """Rebuild the state at `address`, and say what is lost or different.

    Raises:
        CorruptError: the run does something else than its journal has; the sentence names what is different here.
    """
    torch.set_num_threads(archive.recipe.run.threads)
    environment = observe()
    others = differences(archive.events, environment)
    for one in others:
        console.print(f"{one}; what is executed again may have other bits.", highlight=False)
    with bar(console) as shown:
        task = shown.add_task("executing again", total=None)

        def told(session: Session) -> None:
            shown.update(task, total=session.goal, completed=session.step)

        execution = Reexecution(archive, Told(console), usable=lambda anchor: not from_scratch or anchor.source is None, told=told)
        try:
            rerun = execution.rebuild(address)
            proven = require_proven(archive.events, address, parameters_digest(rerun.session.parts.growing.module))
        except CorruptError as error:
            raise CorruptError(f"{error} {_explained(others)}".rstrip()) from error
    for note in rerun.notes:
        console.print(note, highlight=False)
    return Rebuilt(rerun, proven, others, json.loads(environment.versions))


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
