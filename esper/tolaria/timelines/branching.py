"""A fork put together: the parent's journal read, its state rebuilt and stored, and the new run
trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from esper.checkpoint.retention import family_of
from esper.clock import Clock
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
from esper.tolaria.record.resume import recipe_of
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.reexecution import Archive, Reexecution
from esper.tolaria.run.assembly import Finished, train
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
    rerun = Reexecution(archive, progress).rebuild(cut.address)
    for note in rerun.notes:
        progress.say(note)
    snapshot = rerun.snapshot()
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
) -> Finished:
    """Make a run that begins at a cut of another, and train it.

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
    before = recipe_of(events)
    permit = permit_for(settings, events, before, allow=ground.allow, say=progress.say)
    beginning = begin(
        Archived(settings, tuple(events), allow=ground.allow).open(clock),
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
    run_id = run_id or named(f"{recipe.name}-fork", clock)
    # before the fork has an outbox: with one, a stranger's fork would pass for a run begun here
    inherit(settings.runs_dir / events[0].run_id, settings.runs_dir / run_id)
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


def _told(cut: Cut, changes: Sequence[str]) -> str:
    clauses = [
        *(f"with {change}" for change in changes),
        *(f"without decision {decision.decision_id}" for decision in cut.without),
    ]
    return f"Forked {', '.join(clauses)}." if clauses else "Forked with nothing changed."
