"""`esper compare RUN RUN...`: what differs between runs, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import CorruptError, UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from esper.clock import Clock
    from esper.config import Settings
    from esper.events import JournalEvent
    from esper.journal.compare import Comparison, Differences


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help=(
                "Run ids, folders of `esper export`, or files of `esper replay fold RUN --save`."
            ),
        ),
    ],
    *,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write the curves to this file, .svg, .png or .pdf."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what differs between runs: settings, environment, what was grafted, kept and culled, and
    the curves.
    """
    from rich.console import Console  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    from esper.bounded.names import MALFORMED  # noqa: PLC0415 - the same
    from esper.cli.shared.plots import require_format  # noqa: PLC0415 - the same
    from esper.clock import SystemClock  # noqa: PLC0415 - the same
    from esper.config import Settings  # noqa: PLC0415 - the same
    from esper.journal.compare import compare as compared  # noqa: PLC0415 - the same
    from esper.journal.story import story  # noqa: PLC0415 - the same

    if len(runs) < 2:
        raise UsageError(
            "Name at least two runs to compare; `esper runs` lists those that there are."
        )
    if plot:
        require_format(plot)
    named, journals = _journals(runs, Settings.load(), SystemClock())
    if len(set(named)) < len(named):
        raise UsageError("A run is named twice; a run does not differ from itself.")
    try:
        comparison = compared([story(journals[run_id], journals) for run_id in named])
    except MALFORMED as error:
        raise CorruptError(
            f"A journal of {', '.join(runs)} says what cannot be compared: "
            f"{type(error).__name__}: {error}."
        ) from error
    if plot:
        _plot(plot, comparison)
    if as_json:
        print(json_text(comparison.as_json(), sort_keys=True))
        return
    show(Console(), comparison)
    if plot:
        print(f"\nCurves   {plot}")


def _journals(
    runs: Sequence[str], settings: Settings, clock: Clock
) -> tuple[list[str], dict[str, Sequence[JournalEvent]]]:
    """The id of each run as it was named, and the folded journals of all of them and of their
    ancestors.
    """
    from esper.bounded import limits_of  # noqa: PLC0415 - as above
    from esper.cli.shared.journal_sources import journal  # noqa: PLC0415 - as above
    from esper.journal.reading import JOURNAL, from_anywhere, whole  # noqa: PLC0415 - as above
    from esper.journal.story import fork_of  # noqa: PLC0415 - as above

    def read(run: str) -> Sequence[JournalEvent]:
        events, _ = journal(
            settings, run, clock=clock, say=lambda line: print(line, file=sys.stderr)
        )
        return whole(events)

    files = {
        run: Path(run)
        for run in runs
        if Path(run).is_file()
        or (Path(run) / JOURNAL).is_symlink()
        or (Path(run) / JOURNAL).exists()
    }
    named: list[str] = []
    journals: dict[str, Sequence[JournalEvent]] = {}
    for run in runs:
        events = (
            from_anywhere(files[run], limits_of(settings.imports)) if run in files else read(run)
        )
        named.append(events[0].run_id)
        journals[events[0].run_id] = events
    missing = {
        forked.parent_run_id for events in journals.values() if (forked := fork_of(events))
    } - journals.keys()
    while missing and len(files) < len(runs):
        parent = missing.pop()
        try:
            journals[parent] = read(parent)
        except UsageError:  # an ancestor that is not here: the fork's curve begins at the fork
            continue
        if (forked := fork_of(journals[parent])) and forked.parent_run_id not in journals:
            missing.add(forked.parent_run_id)
    return named, journals


def show(console: Console, comparison: Comparison) -> None:
    """Print the comparison."""
    console.print(_results(comparison))
    same = [
        name
        for name, differing in (
            ("settings", comparison.settings),
            ("environment", comparison.environment),
        )
        if not differing
    ]
    for title, differing in (
        ("Settings", comparison.settings),
        ("Environment", comparison.environment),
    ):
        if differing:
            console.print()
            console.print(_differences(title, comparison, differing))
    if comparison.changes:
        console.print()
        console.print(_changes(comparison))
    else:
        same.append("grafts")
    if _curves_differ(comparison):
        console.print()
        console.print(_curves(comparison))
    else:
        same.append("curves")
    summary = [f"The same in all: {', '.join(same)}."] if same else []
    summary += (
        [f"{comparison.common_changes} decisions are common to all."]
        if comparison.common_changes and comparison.changes
        else []
    )
    summary += (
        [f"The first {comparison.same_epochs} epochs end with the same parameters, bit for bit."]
        if comparison.same_epochs > 0
        else []
    )
    if summary:
        console.print()
        console.print(" ".join(summary), style="dim", highlight=False, soft_wrap=True)


def _results(comparison: Comparison) -> Any:
    from rich.text import Text  # noqa: PLC0415 - as above

    from esper.cli.shared import scores  # noqa: PLC0415 - as above

    ends = [run.points[-1] for run in comparison.stories if run.points]
    score = scores.title(ends)
    table = _table(
        "Runs",
        "run",
        "status",
        score,
        "loss",
        "epochs",
        "steps",
        "parameters",
        right=(score, "loss", "epochs", "steps", "parameters"),
    )
    # runs of different tasks have no best among them
    compared = [run.score for run in ends] if len({run.score_name for run in ends}) == 1 else []
    better = max if ends and ends[0].higher_is_better else min
    best = better(compared) if compared else None
    for run in comparison.stories:
        last = run.points[-1] if run.points else None
        name = Text(run.run_id, style="bold")
        if run.lineage:
            name.append(f"\n  {run.lineage.sentence()}", style="dim not bold")
        table.add_row(
            name,
            run.status,
            Text(scores.shown(last), style="bold green" if last.score == best else "")
            if last
            else "",
            f"{last.loss:.4f}" if last else "",
            f"{last.epoch + 1}" if last else "",
            f"{run.steps:,}",
            f"{run.parameters:,}",
        )
    return table


def _differences(title: str, comparison: Comparison, differing: Differences) -> Any:
    table = _table(title, "", *(run.run_id for run in comparison.stories))
    for key, values in differing.items():
        table.add_row(key, *("[dim]-[/]" if value is None else _value(value) for value in values))
    return table


def _changes(comparison: Comparison) -> Any:
    verbs = {"GERMINATED": "grafts", "FOSSILIZED": "keeps", "CULLED": "culls"}
    table = _table(
        "Decisions", "epoch", "what", *(run.run_id for run in comparison.stories), right=("epoch",)
    )
    for change, who in comparison.changes.items():
        what = f"{verbs[change.stage]} {change.family} at {change.layer}[{change.seed}]".replace(
            "[", r"\["
        )
        table.add_row(
            str(change.epoch), what, *("[green]●[/]" if did else "[dim]·[/]" for did in who)
        )
    return table


def _curves(comparison: Comparison) -> Any:
    from esper.cli.shared import plots, scores  # noqa: PLC0415 - as above

    epochs = comparison.shown_epochs()
    table = _table(
        "Curves (test)",
        "",
        "run",
        *(f"{epoch}" for epoch in epochs),
        "",
        right=tuple(f"{epoch}" for epoch in epochs),
    )
    score = scores.title(point for run in comparison.stories for point in run.points)
    for title, field in ((score, "score"), ("loss", "loss")):
        every = [getattr(point, field) for run in comparison.stories for point in run.points]
        for number, run in enumerate(comparison.stories):
            cells = [
                ""
                if (point := run.point(epoch)) is None
                else scores.shown(point, 1)
                if field == "score"
                else f"{point.loss:.3f}"
                for epoch in epochs
            ]
            table.add_row(
                title if not number else "",
                run.run_id,
                *cells,
                plots.spark(
                    [getattr(point, field) for point in run.points], min(every), max(every)
                ),
                end_section=number + 1 == len(comparison.stories),
            )
    return table


def _curves_differ(comparison: Comparison) -> bool:
    return (
        len(
            {
                tuple((point.epoch, point.score, point.loss) for point in run.points)
                for run in comparison.stories
            }
        )
        > 1
    )


def _value(value: object) -> str:
    from rich.markup import escape  # noqa: PLC0415 - as above

    return escape(value if isinstance(value, str) else json.dumps(value))


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Any:
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _plot(path: Path, comparison: Comparison) -> None:
    from esper.cli.shared import scores  # noqa: PLC0415 - as above
    from esper.cli.shared.plots import Curve, Panel, draw  # noqa: PLC0415 - as above

    score = scores.title(point for run in comparison.stories for point in run.points)
    marks = [(run.lineage.epoch, "fork") for run in comparison.stories if run.lineage]
    panels = [
        Panel(
            title,
            [
                Curve(
                    run.run_id,
                    [point.epoch + 1 for point in run.points],
                    [getattr(point, field) for point in run.points],
                    colour=number,
                )
                for number, run in enumerate(comparison.stories)
            ],
            percent=field == "score" and score == scores.ACCURACY,
            marks=marks,
        )
        for title, field in ((f"test {score}", "score"), ("test loss", "loss"))
    ]
    draw(path, " vs ".join(run.run_id for run in comparison.stories), panels, x="epochs completed")
