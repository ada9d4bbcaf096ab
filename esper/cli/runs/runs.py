"""`esper runs`: what has run, what people say of it, and how it is deleted."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.checkpoint.sweep import Swept
    from esper.clock import Clock
    from esper.config import Settings
    from esper.events.envelope import SignedEvent
    from esper.events.records import RunAnnotated
    from esper.oona.bus.access import Access
    from esper.tolaria.record.deleting import Deletion, KnownRuns

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_MIB = 1 << 20
_LISTED = (
    "run_id",
    "name",
    "recipe",
    "state",
    "tags",
    "baseline",
    "started_at",
    "seconds",
    "epochs",
    "steps",
    "score",
    "score_name",
    "loss",
    "grafts",
    "fossilized",
    "culled",
    "parameters",
    "parent",
    "forked_step",
    "note",
)
"""What the table shows; `--json` has everything."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="What has run: a list, notes of yours, and an end to it.",
        invoke_without_command=True,
        no_args_is_help=False,
    )
    group.callback()(listed)
    # `-tag` is a tag and no option
    group.command("tag", context_settings={"ignore_unknown_options": True})(tag)
    for name, command in (
        ("note", note),
        ("baseline", baseline),
        ("rename", rename),
        ("delete", delete),
    ):
        group.command(name)(command)
    app.add_typer(group, name="runs")


def listed(
    context: typer.Context,
    *,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", help="Only runs with this tag; may be given again for another."),
    ] = None,
    state: Annotated[
        str, typer.Option("--state", help="RUNNING, PAUSED, FINISHED, INTERRUPTED or FAILED.")
    ] = "",
    recipe: Annotated[str, typer.Option("--recipe", help="Only runs of this recipe.")] = "",
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Deleted runs, and no others.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array on standard output.")
    ] = False,
) -> None:
    """List the runs of this installation, the latest first."""
    if context.invoked_subcommand is not None:
        return
    from esper.cli.shared.tables import open_history, show_table  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.history.queries import RUNS  # noqa: PLC0415 - as above

    with open_history() as history:
        every = history.rows(RUNS)
    if not every:
        raise UsageError("No run is in the history yet; `esper run mnist1d` makes one.")
    rows = [
        # ClickHouse's truth is a number
        row | {"baseline": bool(row["baseline"]), "deleted": bool(row["deleted"])}
        for row in every
        if bool(row["deleted"]) is deleted
        and set(tags or ()) <= set(row["tags"])
        and state.upper() in ("", row["state"])
        and recipe in ("", row["recipe"])
    ]
    if as_json:
        print(json_text(rows))
    elif not rows:
        print(f"None of the {len(every)} runs is so.")
    else:
        cells = [[_cell(row[name]) for name in _LISTED] for row in rows]
        show_table(list(_LISTED), cells)


def tag(
    run: Run,
    changes: Annotated[
        list[str], typer.Argument(metavar="+TAG|-TAG...", help="Tags to add, and to take away.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Give a run tags, and take some away."""
    from esper.oona.durable.run_notes import tagged  # noqa: PLC0415 - as above

    for change in changes:
        if change[:1] not in ("+", "-"):
            raise UsageError(f"Write +{change} to add the tag, or -{change} to take it away.")
    added = [change[1:] for change in changes if change.startswith("+")]
    removed = [change[1:] for change in changes if change.startswith("-")]
    _annotate(
        run,
        "tag",
        lambda who, clock: tagged(run, added, removed, actor=who, clock=clock),
        as_json=as_json,
    )


def note(
    run: Run,
    text: Annotated[str, typer.Argument(help="One line; an empty one takes the note away.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Put a note beside a run, in the place of the one before."""
    from esper.oona.durable.run_notes import noted  # noqa: PLC0415 - as above

    _annotate(
        run, "note", lambda who, clock: noted(run, text, actor=who, clock=clock), as_json=as_json
    )


def rename(
    run: Run,
    name: Annotated[str, typer.Argument(help="Shown beside the id; an empty one takes it away.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show a run by another name; its id stays."""
    from esper.oona.durable.run_notes import renamed  # noqa: PLC0415 - as above

    _annotate(
        run,
        "rename",
        lambda who, clock: renamed(run, name, actor=who, clock=clock),
        as_json=as_json,
    )


def baseline(
    run: Run,
    *,
    off: Annotated[bool, typer.Option("--off", help="It is none any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a run the one that others of its recipe are compared with, in the place of the one
    before.
    """
    from esper.oona.durable import run_notes  # noqa: PLC0415 - as above

    settings, clock, cluster = _surroundings()
    runs = _known(settings, cluster, clock)
    _require_living(runs, run)
    others = [
        other
        for other, notes in sorted(runs.notes.items())
        if notes.baseline and other != run and runs.recipes.get(other) == runs.recipes[run]
    ]
    events = [
        run_notes.baseline(one, on=one == run and not off, actor=getpass.getuser(), clock=clock)
        for one in (run, *([] if off else others))
    ]
    _say_so(settings, cluster, clock, "baseline", run, events)
    _tell(runs, run, events, as_json=as_json)


def delete(
    run: Run,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a run: its snapshots, its files on this machine, and its place in the list. Its
    journal stays on Kafka and in the history, which say that it was deleted.

    A run that trains, is pinned, is a baseline or was forked is refused.
    """
    from esper.cli.shared.audited import audited  # noqa: PLC0415 - as above
    from esper.events.seals import OPERATOR  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.durable import run_notes  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above
    from esper.tolaria.record.deleting import carried_out, planned  # noqa: PLC0415 - as above

    settings, clock, cluster = _surroundings()
    runs = _known(settings, cluster, clock)
    plan = planned(settings, runs, run)
    if dry_run:
        _tell_deletion(plan, None, dry_run=True, as_json=as_json)
        return
    with audited(settings, clock, cluster, action="runs delete", resource=f"run {run}", run_id=run):
        event = run_notes.deleted(
            run,
            snapshots=plan.snapshots,
            files=len(plan.files),
            file_bytes=plan.file_bytes,
            actor=getpass.getuser(),
            clock=clock,
        )
        if not plan.before:
            signer = signing.ensure(settings.keys_dir, OPERATOR, clock)
            run_notes.send(KafkaBus(cluster), signer, event)
        swept = carried_out(settings, runs, event, plan, clock)
    _tell_deletion(plan, swept, dry_run=False, as_json=as_json)


def _surroundings() -> tuple[Settings, Clock, Access]:
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above

    settings = Settings.load()
    return settings, SystemClock(), cluster_of(settings, "operator")


def _known(settings: Settings, cluster: Access, clock: Clock) -> KnownRuns:
    """All runs, and what is said of them.

    Raises:
        UsageError: a journal is damaged, so that nobody knows what it needs.
    """
    from esper.cli.shared.run_notes import every_run  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.durable.authentic import Journals  # noqa: PLC0415 - as above
    from esper.service.transport.signing import Keyring  # noqa: PLC0415 - as above
    from esper.tolaria.record.deleting import known_runs  # noqa: PLC0415 - as above

    journals = Journals(Keyring(settings.keys_dir).trust)
    runs = known_runs(every_run(KafkaBus(cluster), journals, settings, clock))
    runs.damaged.update(journals.faults)
    return runs


def _require_living(runs: KnownRuns, run: str) -> None:
    if run not in runs.recipes:
        raise UsageError(f"There is no run {run}; `esper runs` lists those that there are.")
    if not runs.lives(run):
        raise UsageError(f"Run {run} was deleted; `esper runs --deleted` lists it.")


def _annotate(
    run: str, action: str, make: Callable[[str, Clock], RunAnnotated], *, as_json: bool
) -> None:
    """Say something of a run that exists."""
    from esper.clock import SystemClock  # noqa: PLC0415 - as above

    # what cannot be said is refused before a stack is started for it
    make(getpass.getuser(), SystemClock())
    settings, clock, cluster = _surroundings()
    runs = _known(settings, cluster, clock)
    _require_living(runs, run)
    event = make(getpass.getuser(), clock)
    _say_so(settings, cluster, clock, action, run, [event])
    _tell(runs, run, [event], as_json=as_json)


def _say_so(
    settings: Settings,
    cluster: Access,
    clock: Clock,
    action: str,
    run: str,
    events: Sequence[SignedEvent],
) -> None:
    from esper.cli.shared.audited import audited  # noqa: PLC0415 - as above
    from esper.events.seals import OPERATOR  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.durable.run_notes import send  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above

    with audited(
        settings, clock, cluster, action=f"runs {action}", resource=f"run {run}", run_id=run
    ):
        signer = signing.ensure(settings.keys_dir, OPERATOR, clock)
        for event in events:
            send(KafkaBus(cluster), signer, event)


def _tell(runs: KnownRuns, run: str, events: Sequence[SignedEvent], *, as_json: bool) -> None:
    from dataclasses import asdict  # noqa: PLC0415 - as above

    for event in events:
        runs.take(event)
    now = runs.notes[run]
    if as_json:
        print(json_text({"run_id": run, **asdict(now)}, sort_keys=True))
        return
    clauses = [
        *([f"is shown as {now.name}"] if now.name else []),
        f"has the tags {', '.join(now.tags)}" if now.tags else "has no tags",
        *([f"is the baseline of {runs.recipes[run]}"] if now.baseline else []),
    ]
    print(f"Run {run} {', '.join(clauses)}.{f' Note: {now.note}' if now.note else ''}")


def _tell_deletion(plan: Deletion, swept: Swept | None, *, dry_run: bool, as_json: bool) -> None:
    freed = swept.freed_bytes if swept else 0
    if as_json:
        told: dict[str, Any] = {
            "run_id": plan.run_id,
            "dry_run": dry_run,
            "snapshots": plan.snapshots,
            "chunks": swept.chunks if swept else 0,
            "freed_bytes": freed,
            "files": len(plan.files),
            "file_bytes": plan.file_bytes,
        }
        print(json_text(told, sort_keys=True))
        return
    files = f"{len(plan.files)} files ({plan.file_bytes / _MIB:.1f} MiB)"
    if dry_run:
        print(f"Would be deleted: {plan.snapshots} snapshots and {files}.")
        return
    chunks = f"{swept.chunks if swept else 0} chunks ({freed / _MIB:.1f} MiB)"
    print(
        f"Run {plan.run_id} is deleted: {plan.snapshots} snapshots with {chunks}, and {files}. "
        "Chunks of the last hour go with a later `esper gc`; its journal stays."
    )


def _cell(value: object) -> object:
    return ", ".join(value) if isinstance(value, list) else value
