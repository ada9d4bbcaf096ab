"""`esper sql` and `esper runs`: the history on the command line."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from esper.cli.shared.json_text import json_text
from esper.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from esper.history.queries import QuerySource

OutputFormat = Literal["table", "json", "csv", "parquet"]

_CLICKHOUSE = {"json": "JSONEachRow", "csv": "CSVWithNames", "parquet": "Parquet"}
_NARROW = 100  # characters of a cell before it is cut on a terminal


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("sql")(sql)
    app.command("runs")(runs)


def sql(
    query: Annotated[
        str,
        typer.Argument(
            help="A SELECT, SHOW, DESCRIBE, EXPLAIN or EXISTS; nothing lists the tables and views."
        ),
    ] = "",
    *,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="How to write the result.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Ask the history in ClickHouse SQL."""
    from esper.history.queries import TABLES  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    output = "json" if as_json else output
    if output == "parquet" and sys.stdout.isatty():
        raise UsageError(
            "Parquet is not for a terminal; redirect it into a file: esper sql '...' "
            "--format parquet > result.parquet"
        )
    with _open() as history:
        text = query.strip() or TABLES
        if output == "table":
            _show(
                history.ask(text, "JSONCompact", {"output_format_json_quote_64bit_integers": "0"})
            )
        elif output == "json":
            _write(_array(history.ask(text, _CLICKHOUSE[output])))
        else:
            _write(history.ask(text, _CLICKHOUSE[output]))


def runs(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array on standard output.")
    ] = False,
) -> None:
    """List the runs of this installation, the latest first."""
    from esper.history.queries import RUNS  # noqa: PLC0415 - as above

    with _open() as history:
        rows = history.rows(RUNS)
        if not rows:
            raise UsageError("No run is in the history yet; `esper run mnist1d` makes one.")
        if as_json:
            print(json_text(rows))
        else:
            _table(list(rows[0]), [list(row.values()) for row in rows])


def _open() -> QuerySource:
    """The history, with a word on standard error if something may be missing from it."""
    from esper import stack  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.history.queries import source  # noqa: PLC0415 - as above

    settings = Settings.load()
    endpoints = stack.running(settings)
    history = source(settings, endpoints.history_url if endpoints else "")
    missing = history.missing()
    if missing is None:
        print(
            (
                "The history was not ended in order; what it lacks is still on Kafka, and "
                "`esper up` brings it in."
            ),
            file=sys.stderr,
        )
    elif missing:
        print(
            f"Up to {missing} messages are still on Kafka; `esper up` brings them in.",
            file=sys.stderr,
        )
    return history


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _array(content: bytes) -> bytes:
    """One JSON array of a JSONEachRow result.

    Raises:
        UsageError: a FORMAT clause made something else.
    """
    lines = content.splitlines()
    try:
        row = json.loads(lines[0]) if lines else {}
    except ValueError:
        row = None
    if not isinstance(row, dict) or row.keys() == {"meta", "data"}:
        raise UsageError(
            "The query has a FORMAT of its own, so its result is no list of rows: leave out FORMAT "
            "or --json."
        )
    return b"[" + b",\n".join(lines) + b"]\n"


def _show(content: bytes) -> None:
    """A table of a JSONCompact result; what a FORMAT clause made otherwise goes out as it is."""
    try:
        result = json.loads(content)
        names, rows = [column["name"] for column in result["meta"]], result["data"]
    except (ValueError, KeyError, TypeError):
        _write(content)
        return
    # FORMAT JSON has the same keys, and a mapping for each row
    if all(isinstance(row, list) for row in rows):
        _table(names, rows)
    else:
        _write(content)


def _table(names: list[str], rows: list[list[Any]]) -> None:
    from rich.table import Table  # noqa: PLC0415 - as above

    console = _console()
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        number = any(
            isinstance(row[place], int | float) and not isinstance(row[place], bool) for row in rows
        )
        table.add_column(
            name,
            justify="right" if number else "left",
            overflow="fold" if console.is_terminal else "ignore",
            no_wrap=not console.is_terminal,
        )
    for row in rows:
        table.add_row(*(_cell(value, cut=console.is_terminal) for value in row))
    console.print(table)


def _cell(value: object, *, cut: bool) -> str:
    from rich.markup import escape  # noqa: PLC0415 - as above

    if value is None:
        return ""
    text = (
        f"{value:.6g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else json.dumps(value)
    )
    return escape(f"{text[:_NARROW]}..." if cut and len(text) > _NARROW else text)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - as above

    return Console() if sys.stdout.isatty() else Console(width=10_000)
