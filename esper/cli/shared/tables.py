"""Tables on the terminal, and the history that most of them come from."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from esper.history.queries import QuerySource

_NARROW = 100  # characters of a cell before it is cut on a terminal


def open_history() -> QuerySource:
    """The history, with a word on standard error if something may be missing from it.

    Raises as `history_of` does.
    """
    from esper.cli.shared.history_source import history_of  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.config import Settings  # noqa: PLC0415 - as above

    history = history_of(Settings.load())
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


def show_table(names: list[str], rows: list[list[Any]]) -> None:
    """Print rows, cut to a terminal's width, whole elsewhere."""
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
