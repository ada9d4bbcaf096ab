"""`esper up | down | status | doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from esper.json_text import json_text

if TYPE_CHECKING:
    from rich.table import Table

    from esper.stack.processes.stack_state import PartState, StackState

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, down, status, doctor):
        app.command(command.__name__)(command)


def up(
    *,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            help="Seconds to wait until every part is ready; 0: the broker and its topics suffice.",
        ),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Start the local stack, unless it is up, and keep it up between runs."""
    from esper import stack  # noqa: PLC0415 - the same
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.config import Settings  # noqa: PLC0415 - the same

    settings, console = Settings.load(), standard_error()
    with console.status("looking for the stack") as line:
        endpoints = stack.up(settings, owner_pid=None, progress=line.update)
        if wait > 0 and (now := stack.status(settings)) is not None:
            line.update("waiting for the parts")
            stack.wait_ready(settings, [part.name for part in now.parts], wait)
    if as_json:
        print(json_text(asdict(endpoints)))
        return
    print(
        f"Kafka is at {endpoints.bootstrap}. The stack stays up until `esper down`; `esper "
        "status` shows its parts."
    )


def down(*, as_json: AsJson = False) -> None:
    """Stop the local stack, whoever uses it."""
    from esper import stack  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above

    stopped = stack.down(Settings.load())
    print(
        json_text({"stopped": stopped})
        if as_json
        else "The stack is down."
        if stopped
        else "The stack was not up."
    )


def status(*, as_json: AsJson = False) -> None:
    """Show the parts of the local stack."""
    from rich.console import Console  # noqa: PLC0415 - as above

    from esper import stack  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above

    now = stack.status(Settings.load())
    if as_json:
        print(json_text({"phase": "down"} if now is None else asdict(now)))
    elif now is None:
        print("The stack is not up. Start it with: esper up")
    else:
        Console().print(_table(now, SystemClock().now_us()))


def doctor(*, as_json: AsJson = False) -> None:
    """Say what is missing on this machine, and how to get it."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.stack.doctor import examine, verdict  # noqa: PLC0415 - as above

    checks = examine(Settings.load())
    if as_json:
        print(json_text({"checks": [asdict(check) for check in checks]}))
    else:
        table = Table(box=None, pad_edge=False)
        for title in ("", "what", "found", "remedy"):
            table.add_column(title, overflow="fold")
        colours = {
            "ok": "[green]ok[/]",
            "advice": "[yellow]advice[/]",
            "missing": "[red]missing[/]",
        }
        for check in checks:
            table.add_row(colours[check.verdict], check.name, check.found, check.remedy)
        Console().print(table)
    if (error := verdict(checks)) is not None:
        raise error


def _table(now: StackState, now_us: int) -> Table:
    from rich.table import Table  # noqa: PLC0415 - as above

    title = f"{now.phase}, Kafka at {now.bootstrap}, supervisor {now.supervisor.pid}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("part", "state", "pid", "port", "restarts", "uptime", "log"):
        table.add_column(
            name,
            justify="right" if name in {"pid", "port", "restarts", "uptime"} else "left",
            overflow="fold",
        )
    for part in now.parts:
        pid = str(part.process.pid) if part.process else ""
        uptime = _duration((now_us - part.since_us) / 1e6) if part.process else ""
        table.add_row(
            part.name, _phase(part), pid, str(part.port), str(part.restarts), uptime, part.log
        )
    for part in now.parts:
        if part.reason and part.phase != "ready":
            table.caption = "\n".join(filter(None, (str(table.caption or ""), part.reason)))
            table.caption_justify = "left"
    return table


def _phase(part: PartState) -> str:
    colour = {
        "ready": "green",
        "starting": "cyan",
        "waiting": "cyan",
        "stopped": "dim",
        "on demand": "dim",
    }.get(part.phase, "red")
    return f"[{colour}]{part.phase}[/]"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
    )
