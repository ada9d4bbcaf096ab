"""`esper bench`: what Esper's figures are on this machine, each beside the bar that it is held
against.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UnavailableError
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.bench.figure_registry import Figure


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this figure or family; may be repeated."),
    ] = None,
    names: Annotated[
        bool, typer.Option("--list", help="Name the figures, and measure nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Measure Esper on this machine: half an hour for everything, seconds to minutes for one figure
    (--only).
    """
    from esper.bench.report import chosen, measure  # noqa: PLC0415 - as above
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.clock import SystemClock  # noqa: PLC0415 - as above

    figures = chosen(only or ())
    if names:
        _list(figures, as_json=as_json)
        return
    console = standard_error()
    with console.status("beginning") as line:
        report = measure(
            figures,
            clock=SystemClock(),
            progress=line.update
            if console.is_terminal
            else lambda text: print(text, file=sys.stderr),
        )
    if as_json:
        print(json_text(report))
    else:
        _show(report)
    if failed := [name for name, row in report["figures"].items() if row["figure"] is None]:
        raise UnavailableError(
            f"{len(failed)} of {len(figures)} figures could not be measured: "
            f"{', '.join(failed)}; the report says why."
        )


def _list(figures: list[Figure], *, as_json: bool) -> None:
    if as_json:
        print(
            json_text(
                [
                    {
                        "name": entry.name,
                        "family": entry.family,
                        "about": entry.about,
                        "unit": entry.unit,
                        "bar": entry.bar or None,
                    }
                    for entry in figures
                ]
            )
        )
        return
    for entry in figures:
        print(f"{entry.family:<10} {entry.name:<24} {entry.about}")


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    machine = report["machine"]
    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    console.print(
        f"Esper {report['commit'] or report['version']} on {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"load {machine['load']}, {machine['system']}, Python {machine['python']}, torch "
        f"{machine['torch']}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for title, side in (
        ("figure", "left"),
        ("", "right"),
        ("interval", "right"),
        ("unit", "left"),
        ("bar", "right"),
        ("", "left"),
        ("what", "left"),
    ):
        table.add_column(title, justify=side, overflow="fold")  # type: ignore[arg-type]  # one of rich's literals
    for name, row in report["figures"].items():
        if row["figure"] is None:
            table.add_row(
                name, "-", "", row["unit"], row["bar"] or "", "[red]failed[/]", row["error"]
            )
            continue
        low, high = row["interval"]
        met = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row["met"]]
        interval = "" if low == high else f"{low:,g} to {high:,g}"
        table.add_row(
            name, f"{row['figure']:,g}", interval, row["unit"], row["bar"] or "", met, row["about"]
        )
    console.print(table)
