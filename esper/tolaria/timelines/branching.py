"""A fork put together: the parent's journal read, its state rebuilt and stored, and the new run
trained on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from esper.checkpoint import Snapshot
from esper.checkpoint.retention import family_of
from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.events import JournalEvent
from esper.events.records import FieldReportAnswered
from esper.journal.provenance import inherit
from esper.journal.story import fork_of
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Bus
from esper.oona.durable.journal_reader import read_topics, require_new
from esper.service.transport import signing
from esper.tolaria.recipes.run_names import named
from esper.tolaria.record.forking import Cut, ForkStart, changed
from esper.tolaria.record.permits import permit_for
from esper.tolaria.record.resume import recipe_of, steps_of_epoch
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.reexecution import Archive, Reexecution
from esper.tolaria.replay.scripts import ScriptLoop, silent
from esper.tolaria.replay.side_by_side import process_pool
from esper.tolaria.run.assembly import Finished, train
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_script import ScriptFork
from esper.tolaria.run.trainee import data_digest
from esper.tolaria.session.progress import Progress


@dataclass(frozen=True, slots=True)
class Ground:
    """Where forks are made: the installation, a bus that answers, and the history.

    `allow` are functions that runs from elsewhere may call.
    """

    settings: Settings
    cluster: Access | str
    history_url: str
    clock: Clock
    console: Console
    allow: tuple[str, ...] = ()


def begin(
    archive: Archive,
    cut: Cut,
    *,
    changes: tuple[str, ...],
    offered: tuple[str, ...],
    reason: str,
    progress: Progress,
) -> ForkStart:
    """The state at a cut, from a snapshot of that very moment or by re-executing the run up to
    it, kept in the tensor store.

    Raises:
        EsperError: as `Reexecution.rebuild` does, or the store cannot be written.
    """
    snapshot, notes = archive.apart(partial(_state_at, cut=cut), progress)
    for note in notes:
        progress.say(note)
    # before RunForked names it: a crash leaves a snapshot too many, never a fork without its state
    stored = archive.tensors.write(snapshot)
    return ForkStart(
        cut,
        snapshot,
        stored.address,
        stored.sha256,
        changes,
        family_of(archive.events),
        offered,
        reason,
        data_digest(archive.events),
    )


def _state_at(
    archive: Archive, progress: Progress, *, cut: Cut
) -> tuple[Snapshot, tuple[str, ...]]:
    rerun = Reexecution(archive, progress).rebuild(cut.address)
    return rerun.snapshot(), rerun.notes


def offered_to(
    bus: Bus, events: Sequence[JournalEvent], cut: Cut, *, clock: Clock
) -> tuple[str, ...]:
    """Kernels that the foundry had answered the field reports of a run with.

    None for a fork that begins before the run's first report.
    """
    if cut.address.step == 0:
        return ()
    inherited = forked.offered if (forked := fork_of(events)) else ()
    answers = [
        event
        for event in read_topics(bus, [FieldReportAnswered.TOPIC], clock=clock)
        if isinstance(event, FieldReportAnswered)
    ]
    own = {
        kernel for event in answers if event.run_id == events[0].run_id for kernel in event.kernels
    }
    return tuple(sorted({*inherited, *own}))


def fork(
    ground: Ground,
    events: Sequence[JournalEvent],
    cut: Cut,
    *,
    overrides: Sequence[str] = (),
    run_id: str = "",
    until: int | None = None,
    reason: str = "",
) -> Finished | Growth:
    """Make a run that begins at a cut of another, and train it.

    A run of a script is trained by that script, in this thread, the main one; it ends its process
    as it likes. Where `until` ends its run early, that raises KeyboardInterrupt.

    Raises:
        EsperError: the cut cannot be rebuilt, a setting cannot be changed, or the run cannot be
            begun; as `train` does when it had begun.
    """
    settings, clock, progress = ground.settings, ground.clock, Progress(ground.console)
    recipe, changes = changed(events, overrides, epoch=cut.state.epoch)
    # before the rebuild, which may take long
    if run_id:
        require_new(
            KafkaBus(ground.cluster), run_id, clock=clock, trust=signing.trust(settings.keys_dir)
        )
    archive = Archived(settings, tuple(events), allow=ground.allow).open(clock, progress.say)
    beginning = begin(
        archive,
        cut,
        changes=changes,
        offered=offered_to(KafkaBus(ground.cluster), events, cut, clock=clock),
        reason=reason or _told(cut, changes),
        progress=progress,
    )
    where = f"{cut.address} (epoch {cut.state.epoch}) of run {cut.state.run_id}"
    progress.say(
        f"The fork begins at {where}: {len(cut.state.seeds)} seeds, {cut.address.sequence} events."
    )
    script = archive.loop.script if isinstance(archive.loop, ScriptLoop) else None
    stem = script.path.stem if script else recipe.name
    run_id = run_id or named(f"{stem}-fork", clock)
    # before the fork has an outbox: with one, a stranger's fork would pass for a run begun here
    inherit(settings.runs_dir / events[0].run_id, settings.runs_dir / run_id)
    if script is not None:
        steps = None if until is None else until * steps_of_epoch(events)
        script = replace(script, run_id=run_id, fork=ScriptFork(beginning, recipe, steps))
        script.run()
        return script.growths[0]
    permit = permit_for(settings, events, recipe_of(events), allow=ground.allow, say=lambda _: None)
    return train(
        settings,
        recipe,
        run_id=run_id,
        permit=permit,
        cluster=ground.cluster,
        history_url=ground.history_url,
        clock=clock,
        console=ground.console,
        fork=beginning,
        until=until,
    )


def fork_apart(
    ground: Ground,
    events: Sequence[JournalEvent],
    cut: Cut,
    *,
    overrides: Sequence[str],
    run_id: str,
    until: int,
    reason: str,
) -> None:
    """The same for one of many forks: a script runs in a process of its own, because it leaves
    traces there. Raises as `fork` does.
    """
    job = partial(
        fork, events=events, cut=cut, overrides=overrides, run_id=run_id, until=until, reason=reason
    )
    if not recipe_of(events).own_loop:
        job(ground)
        return
    # the console stays here: a process cannot be given it
    with process_pool(1, silent, scripts=True) as pool:
        pool.submit(
            _forked_there,
            ground.settings,
            ground.cluster,
            ground.history_url,
            ground.allow,
            job,
        ).result()


def _forked_there(
    settings: Settings,
    cluster: Access | str,
    history_url: str,
    allow: tuple[str, ...],
    job: Callable[[Ground], object],
) -> None:
    console = Console(file=io.StringIO())
    ground = Ground(settings, cluster, history_url, SystemClock(), console, allow)
    # where its last epoch is asked for, the loop is left as by Ctrl-C; so are epochs after it
    with suppress(KeyboardInterrupt):
        job(ground)


def _told(cut: Cut, changes: Sequence[str]) -> str:
    clauses = [
        *(f"with {change}" for change in changes),
        *(f"without decision {decision.decision_id}" for decision in cut.without),
    ]
    return f"Forked {', '.join(clauses)}." if clauses else "Forked with nothing changed."
