"""`esper mcp`: Esper's commands as tools for agents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_HOW = (
    "esper mcp speaks the Model Context Protocol over standard input and output: name it as the "
    'command of a server in your agent\'s settings, such as {"mcpServers": {"esper": {"command": '
    '"esper", "args": ["mcp"]}}}.'
)
_TOKEN = "esper token --role operator > FILE"  # noqa: S105  # a command line


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mcp")(mcp)


def mcp(
    *,
    operate: Annotated[
        bool,
        typer.Option(
            "--operate", help="Offer tools that train, too: fork, what-if, rebuild a state."
        ),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help=f"With --operate: a file with an operator's token ({_TOKEN}), which is read at "
            "each call of such a tool.",
        ),
    ] = None,
) -> None:
    """Offer runs, decisions, SQL and reports as tools to an agent (Model Context Protocol)."""
    if operate is not (token_file is not None):
        raise UsageError(
            "--operate and --token-file go together: an agent may train by an operator's token, "
            f"made by `{_TOKEN}`, and without one it reads."
        )
    if sys.stdin.isatty():
        raise UsageError(_HOW)
    try:
        import anyio  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

        from esper.mcp.server import serve  # noqa: PLC0415 - as above
        from esper.mcp.tools import TOOLS  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise UsageError(
            f"esper mcp needs {error.name}: install it by pip install 'esper[mcp]'."
        ) from None
    gate = _gate(token_file) if token_file is not None else _closed
    if token_file is not None:
        gate()  # what no call could do is said at once
    anyio.run(serve, [tool for tool in TOOLS if operate or not tool.operates], gate)


def _closed() -> None:
    raise UsageError("This server reads only: start it with --operate and --token-file.")


def _gate(file: Path) -> Callable[[], None]:
    """What lets an operator's token through, and says why it does not."""
    from esper.bounded import limits_of, open_named  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.service.checks.tokens import Gatekeeper  # noqa: PLC0415 - as above

    settings = Settings.load()
    limits = limits_of(settings.imports)
    keeper = Gatekeeper.of(settings.keys_dir, SystemClock(), "tolaria")

    def look() -> None:
        with open_named(file, limits.json) as opened:
            caller = keeper.caller(opened.read().decode(errors="replace").strip())
        if not caller.may("operator"):
            raise UsageError(
                f"The token in {file} is a {caller.role}'s, and an operator's is needed: "
                f"`{_TOKEN}`."
            )

    return look
