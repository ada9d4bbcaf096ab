"""`esper sql`: the history on the command line."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from esper.cli.shared.tables import open_history, show_table
from esper.errors import UsageError

OutputFormat = Literal["table", "json", "csv", "parquet"]

_CLICKHOUSE = {"json": "JSONEachRow", "csv": "CSVWithNames", "parquet": "Parquet"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sql")(sql)


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
    with open_history() as history:
        text = query.strip() or TABLES
        if output == "table":
            _show(
                history.ask(text, "JSONCompact", {"output_format_json_quote_64bit_integers": "0"})
            )
        elif output == "json":
            _write(_array(history.ask(text, _CLICKHOUSE[output])))
        else:
            _write(history.ask(text, _CLICKHOUSE[output]))


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
        show_table(names, rows)
    else:
        _write(content)
