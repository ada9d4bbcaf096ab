"""`esper checkpoints | pin | gc`: the snapshots of runs in the store, and how long they stay."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UnavailableError, UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from esper.checkpoint.whereabouts import Whereabouts
    from esper.clock import Clock
    from esper.config import Settings
    from esper.events import Event
    from esper.oona.durable.authentic import Journals

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_MIB = 1 << 20
_SHOWN = (
    "snapshot_id",
    "at_timeline",
    "at_epoch",
    "at_step",
    "kind",
    "reason",
    "tensors",
    "size_bytes",
    "stored_bytes",
    "stall_us",
    "duration_us",
    "occurred_at",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (checkpoints, pin, gc):
        app.command(command.__name__)(command)


def checkpoints(run: Run, *, as_json: AsJson = False) -> None:
    """List a run's snapshots in the order in which they were taken, for `esper rollback`: size,
    kind, parent, whether they are hot, cold or gone, and what keeps them.
    """
    from esper.checkpoint.retention import Pins, family_of, held  # noqa: PLC0415 - as above
    from esper.checkpoint.tensors import TensorStore, open_cold  # noqa: PLC0415 - as above
    from esper.checkpoint.whereabouts import whereabouts  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.urza.opening import open_store  # noqa: PLC0415 - as above
    from esper.vault.family_keys import any_in, opened  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.vault.masters import masters  # noqa: PLC0415 - as above

    settings, clock = Settings.load(), SystemClock()
    journals = _journals(settings)
    events = list(_read(journals, settings, clock))
    mine = [event for event in events if event.run_id == run]
    if not mine:
        raise UsageError(f"There is no run {run}; `esper runs` lists those that there are.")
    store = open_store(settings)
    pins, name = Pins(store), family_of(mine)
    family = opened(store, masters(settings), name) if any_in(store) else None
    tensors = TensorStore(store, family, open_cold(settings)) if family else None
    snapshots = list(whereabouts(mine, held(events, pins).get(name, {}), tensors))
    if as_json:
        print(
            json_text(
                [_row(snapshot) | {"family": name, "pinned": run in pins} for snapshot in snapshots]
            )
        )
    else:
        _show(run, snapshots, pinned=run in pins)


def pin(
    run: Run,
    *,
    off: Annotated[bool, typer.Option("--off", help="Let it go again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep all snapshots of a run until it is let go."""
    from esper.checkpoint.retention import Pins  # noqa: PLC0415 - as above
    from esper.cli.shared.audited import audited  # noqa: PLC0415 - as above
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.durable.journal_reader import require_known  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above
    from esper.urza.opening import open_store  # noqa: PLC0415 - as above

    settings, clock = Settings.load(), SystemClock()
    cluster = cluster_of(settings, "operator")
    require_known(KafkaBus(cluster), run, clock=clock, trust=signing.trust(settings.keys_dir))
    with audited(
        settings,
        clock,
        cluster,
        action="pin --off" if off else "pin",
        resource=f"snapshots of {run}",
        run_id=run,
    ):
        pins = Pins(open_store(settings))
        changed = pins.remove(run) if off else pins.add(run)
    if as_json:
        print(json_text({"run_id": run, "pinned": not off, "changed": changed}))
    else:
        now = "is pinned" if not off else "is not pinned"
        print(f"Run {run} {now}{'' if changed else ', as it was'}.")


def gc(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete snapshots whose time is over, and move old ones to the cold store.

    Runs may train meanwhile.
    """
    from esper.checkpoint.collection import collect  # noqa: PLC0415 - as above
    from esper.cli.shared.audited import audited  # noqa: PLC0415 - as above
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above

    settings, clock = Settings.load(), SystemClock()
    journals = _journals(settings)
    events = _read(journals, settings, clock)
    if dry_run:
        done = collect(settings, events, clock, doubtful=journals.faults, dry_run=True)
    else:
        with audited(
            settings, clock, cluster_of(settings, "operator"), action="gc", resource="store"
        ):
            done = collect(settings, events, clock, doubtful=journals.faults)
    if as_json:
        print(
            json_text(
                {
                    "dry_run": dry_run,
                    "families": [asdict(swept) for swept in done.swept],
                    "left": done.left,
                    "unknown": done.unknown,
                }
            )
        )
    else:
        words = ("would be deleted", "would be moved") if dry_run else ("deleted", "moved")
        for swept in done.swept:
            print(
                f"{swept.family}: {swept.kept} snapshots kept, {swept.deleted} {words[0]} with "
                f"{swept.chunks} chunks ({swept.freed_bytes / _MIB:.1f} MiB); "
                f"{swept.moved} chunks {words[1]} to the cold store "
                f"({swept.moved_bytes / _MIB:.1f} MiB)."
            )
        if done.unknown:
            print(f"{done.unknown} families of runs that this Kafka does not know are left alone.")
        for sentence in done.left:
            print(f"Left alone: {sentence}")
    if done.left:
        raise UnavailableError(f"{len(done.left)} families could not be swept: {done.left[0]}")


def _journals(settings: Settings) -> Journals:
    """What is believed of the journals of all runs."""
    from esper.oona.durable.authentic import Journals  # noqa: PLC0415 - as above
    from esper.service.transport.signing import Keyring  # noqa: PLC0415 - as above

    return Journals(Keyring(settings.keys_dir).trust)


def _read(journals: Journals, settings: Settings, clock: Clock) -> Iterator[Event]:
    """The journals of all runs, and which were deleted, as they are read: a sweep keeps of them
    what it needs.
    """
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.cli.shared.run_notes import every_run  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above

    return every_run(KafkaBus(cluster_of(settings, "viewer")), journals, settings, clock)


def _row(snapshot: Whereabouts) -> dict[str, Any]:
    taken = {name: getattr(snapshot.taken, name) for name in _SHOWN}
    return taken | {
        "parent": snapshot.taken.parent or None,
        "where": snapshot.where,
        "kept": snapshot.why or None,
    }


def _show(run: str, snapshots: Iterable[Whereabouts], *, pinned: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=None, pad_edge=False)
    for title in (
        "snapshot",
        "epoch",
        "step",
        "kind",
        "parent",
        "state MiB",
        "stored MiB",
        "where",
        "kept",
    ):
        table.add_column(title, overflow="fold")
    for snapshot in snapshots:
        taken = snapshot.taken
        sizes = (f"{taken.size_bytes / _MIB:.1f}", f"{taken.stored_bytes / _MIB:.1f}")
        table.add_row(
            taken.snapshot_id,
            str(taken.at_epoch),
            str(taken.at_step),
            taken.kind,
            taken.parent,
            *sizes,
            snapshot.where,
            snapshot.why,
        )
    console.print(table if table.row_count else f"Run {run} has no snapshot.")
    if pinned:
        console.print(
            f"Run {run} is pinned: all of them stay until `esper pin {run} --off`.", highlight=False
        )
