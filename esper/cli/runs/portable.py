"""`esper export` and `esper import`: a run in a folder that proves it without the installation it
comes from.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper.errors import EsperError
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.config import Settings
    from esper.events import JournalEvent
    from esper.history.queries import QuerySource
    from esper.journal.importing import Importing

HISTORY_S = 30.0  # how long an import waits until the history has the run


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export)
    app.command("import")(bring)


def export(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            help=(
                "Seal the key of its snapshots under the passphrase in this file, not under "
                "this installation's key."
            ),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Carry a run out: journal, schemas, snapshots, kernels, data and tables, each file with its
    SHA-256.
    """
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.cli.shared.journal_sources import journal, passphrase_in  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.journal.exporting import Exporting  # noqa: PLC0415 - as above
    from esper.journal.reading import whole  # noqa: PLC0415 - as above
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - as above

    require_run_id(run_id)
    settings, clock, console = Settings.load(), SystemClock(), standard_error()
    passphrase = passphrase_in(passphrase_file)
    events, messages = journal(
        settings, run_id, clock=clock, say=lambda sentence: console.print(sentence, highlight=False)
    )
    whole(events)
    with ExitStack() as stack, console.status("exporting") as shown:
        done = Exporting(
            settings=settings,
            events=events,
            messages=messages,
            data=_data(settings, events),
            history=_history(settings, stack),
            clock=clock,
            passphrase=passphrase,
            progress=lambda what: shown.update(f"exporting: {what}"),
        ).to(to)
    if as_json:
        report = {
            "run_id": run_id,
            "folder": str(to),
            "files": done.files,
            "size_bytes": done.size_bytes,
            "sha256": done.sha256,
        }
        print(json_text({**report, "notes": list(done.notes)}, sort_keys=True))
        return
    for note in done.notes:
        print(note)
    key = (
        "the passphrase"
        if passphrase
        else "the master key of this installation, which whoever reads them needs"
    )
    print(
        f"Run {run_id} is in {to}: {done.files} files, {done.size_bytes / 1e6:.1f} MB; its "
        f"snapshots are sealed under {key}."
    )
    print(f"  manifest.json has SHA-256 {done.sha256}")


def bring(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `esper export` wrote.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify it; nothing is written.")
    ] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="The file of the passphrase of its snapshots."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Take an exported run in, once every file of it is verified: its journal into Kafka, its
    snapshots and kernels into the store.
    """
    from esper.bounded import limits_of  # noqa: PLC0415 - as above
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - as above
    from esper.cli.shared.journal_sources import passphrase_in  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.journal.importing import Importing  # noqa: PLC0415 - as above
    from esper.journal.portable import opened_export  # noqa: PLC0415 - as above

    settings, clock, console = Settings.load(), SystemClock(), standard_error()
    with console.status("verifying") as shown:
        opened = opened_export(
            folder,
            limits_of(settings.imports),
            progress=lambda done, of: shown.update(f"verifying: {done} of {of} files"),
        )
        importing = Importing(
            settings,
            opened,
            clock,
            passphrase_in(passphrase_file),
            progress=lambda what: shown.update(f"importing: {what}"),
            say=lambda sentence: console.print(
                sentence, highlight=False, markup=False, soft_wrap=True
            ),
        )
        if check:
            importing.check()
        else:
            done = _brought(importing, settings)
    content = opened.content
    result = {
        "run_id": content.run_id,
        "files": len(content.files) + 1,
        "events": content.events,
        "imported": not check,
    }
    if not check:
        result["objects"] = done
    if as_json:
        print(json_text(result, sort_keys=True))
        return
    print(
        (
            f"The export of run {content.run_id} is whole: {len(content.files)} files and "
            f"{content.events} events are what its manifest and journal say."
        )
        if check
        else f"Run {content.run_id} is here: {content.events} events, and {done} objects that "
        f"the store had not. `esper replay verify {content.run_id}` proves it; its "
        f"snapshots stay until `esper pin {content.run_id} --off`."
    )


def _brought(importing: Importing, settings: Settings) -> int:
    """Import on the installation's Kafka, and wait for its history.

    Gives how many objects were new.
    """
    import os  # noqa: PLC0415 - as above

    from esper import stack  # noqa: PLC0415 - as above
    from esper.history.queries import wait_caught_up  # noqa: PLC0415 - as above
    from esper.oona.bus.access import Access  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above

    endpoints = stack.running(settings)
    if endpoints is None and not settings.kafka.bootstrap:
        endpoints = stack.up(settings, owner_pid=os.getpid(), progress=lambda _: None)
    bus = KafkaBus(
        Access.of(settings, "trainer", bootstrap=endpoints.bootstrap if endpoints else "")
    )
    done = importing.into(bus)
    if endpoints is not None and endpoints.history_url:
        wait_caught_up(endpoints.history_url, bus, timeout=HISTORY_S, settings=settings)
    return done.objects


def _history(settings: Settings, stack: ExitStack) -> QuerySource | None:
    """The history, if there is one."""
    from esper.cli.shared.history_source import history_of  # noqa: PLC0415 - as above

    try:
        return stack.enter_context(history_of(settings))
    except EsperError:
        return None


def _data(settings: Settings, events: Sequence[JournalEvent]) -> list[Path]:
    """The files of the data that the run trained on, if they are here, and are those that its
    journal has recorded.
    """
    from esper.tolaria.run.trainee import data_of_journal  # noqa: PLC0415 - as above

    return data_of_journal(
        events, run_dir=settings.runs_dir / events[0].run_id, shared=settings.data_dir
    )
