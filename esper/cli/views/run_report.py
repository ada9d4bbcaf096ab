"""`esper audit RUN`: the report of a run that proves itself, with what was verified and how."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esper.cli.runs.replay.replay_source import PassphraseFile, ReplaySource
from esper.errors import CorruptError, UnavailableError, UsageError, printable
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.reports.content import RunReport
    from esper.reports.material import Material

_FORMS: Final = (".html", ".md", ".json")
_LONGEST: Final = 500
"""Characters of a fault in the sentence of the command; the report has all of it."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the report to this new file: HTML, Markdown or JSON, by its ending.",
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="A folder of `esper export`; this installation, if left out.",
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Report a run for an auditor: what it did, who decided it, what it cost, and whether every
    signature, digest and snapshot holds.

    It executes nothing. If anything does not hold it is named in the report, and the command ends
    with 5. The same journal gives the same bytes on any machine.
    """
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    require_run_id(run_id)
    origin = ReplaySource(path, passphrase_file, (), from_scratch=False)
    if path is not None and origin.export is None:
        raise UsageError(f"{path} is no folder: name one that `esper export` wrote.")
    if report is not None:
        _require_writable(report)
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - as above
    from esper.disk import write_file  # noqa: PLC0415 - as above
    from esper.reports.content import run_report  # noqa: PLC0415 - as above

    with standard_error().status("reading") as shown:
        made = run_report(
            _material(run_id, origin, lambda what: shown.update(f"verifying: {what}"))
        )
    if report is not None:
        write_file(report, _written(made, report.suffix.lower()).encode())
    if as_json:
        print(json_text(made.as_json(), sort_keys=True))
    else:
        _show(made)
        if report is not None:
            print(f"Report      {report}")
    if faults := made.integrity.faults:
        more = f" {len(faults) - 1} more things do not hold." if len(faults) > 1 else ""
        raise CorruptError(f"Run {run_id} is not verified. {faults[0][:_LONGEST]}{more}")


def _require_writable(report: Path) -> None:
    """Refuse a file that could not be written, before anything is read for it.

    Raises:
        UsageError: its ending names no form, it is there, or its folder is not.
    """
    if report.suffix.lower() not in _FORMS:
        raise UsageError(
            f"{report} does not say what to write: let it end in {', '.join(_FORMS[:-1])} or "
            f"{_FORMS[-1]}."
        )
    if report.exists():
        raise UsageError(f"{report} exists already; name another file with --report.")
    if not report.resolve().parent.is_dir():
        raise UsageError(
            f"There is no folder {report.resolve().parent} for {report.name}; make it first."
        )


def _material(run_id: str, origin: ReplaySource, progress: Callable[[str], None]) -> Material:
    """What the report is made of, from an export or from this installation."""
    from esper.cli.shared.history_source import complete_history  # noqa: PLC0415 - as above
    from esper.cli.shared.journal_sources import judged_journal, passphrase_in  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.reports.evidence import from_export, from_installation  # noqa: PLC0415 - as above

    settings = Settings.load()
    if origin.export is not None:
        passphrase = passphrase_in(origin.passphrase_file)
        return from_export(origin.export, run_id, settings, passphrase, progress)
    progress("journal")
    pairs, judge = judged_journal(settings, run_id, clock=SystemClock(), say=_say, tolerant=True)
    progress("history")
    with ExitStack() as stack:
        try:
            history, complete = complete_history(settings)
            stack.enter_context(history)
        except (UsageError, UnavailableError) as error:
            _say(str(error))
            history, complete = None, False
        return from_installation(
            run_id, pairs, judge, settings, history, complete=complete, progress=progress
        )


def _say(sentence: str) -> None:
    """On standard error, without what moves a terminal."""
    sys.stderr.write(f"{printable(sentence)}\n")


def _written(made: RunReport, form: str) -> str:
    """The text of the file."""
    from esper.reports.html_page import html_page  # noqa: PLC0415 - as above
    from esper.reports.layout import sections, title_of  # noqa: PLC0415 - as above
    from esper.reports.markdown_text import markdown_text  # noqa: PLC0415 - as above

    if form == ".json":
        return f"{json_text(made.as_json(), sort_keys=True)}\n"
    write = html_page if form == ".html" else markdown_text
    return write(title_of(made), sections(made))


def _show(made: RunReport) -> None:
    """The short summary: the run, what it cost, who decided, and each check."""
    from esper.reports.layout import shown  # noqa: PLC0415 - as above

    def say(text: str) -> None:
        print(printable(text))

    run, training = made.run, made.training
    say(f"Run {run.run_id}: {run.outcome}; began {run.began}, ended {run.ended or 'not yet'}")
    flops = training.compute.total_flops
    compute = "FLOPs not recorded" if flops is None else f"{shown(flops)} FLOPs (estimate)"
    say(
        f"Training    {training.epochs} epochs, {training.steps:,} steps, {compute}, "
        f"{shown(training.parameters_at_end)} parameters"
    )
    applied = sum(one.answer == "APPLIED" for one in made.decisions)
    say(
        f"Decisions   {len(made.decisions)}, of which {applied} were applied; "
        f"{len(made.requests)} human requests; {len(made.kernels)} kernels grafted"
    )
    say(f"Parameters  SHA-256 {shown(training.parameters_digest)}")
    for check in made.integrity.checks:
        say(f"  {check.status:16}  {check.name}: {check.verified:,} {check.unit}")
        for sentence in (*check.faults, *check.unchecked):
            say(f"    {sentence}")
    say(made.integrity.verdict)
