"""`esper pause | resume | checkpoint | rollback`: ask a run's trainer, through Tolaria's API of the
stack that is up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UnavailableError
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.config import Settings

Run = Annotated[str, typer.Argument(help="The run's name.")]
Reason = Annotated[
    str, typer.Option("--reason", help="Why, in a sentence; it is kept with the request.")
]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for the trainer's answer; 0 does not wait.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pause, resume, checkpoint, rollback):
        app.command(command.__name__)(command)


def pause(
    run: Run, *, reason: Reason = "asked for by hand", wait: Wait = 30.0, as_json: AsJson = False
) -> None:
    """Let a run stand still between two steps, until `esper resume`."""
    _ask(run, "pause", {"reason": reason}, wait, as_json)


def resume(
    run: Run, *, reason: Reason = "asked for by hand", wait: Wait = 30.0, as_json: AsJson = False
) -> None:
    """Let a run that was paused go on. One that was interrupted goes on by `esper run --resume`."""
    _ask(run, "resume", {"reason": reason}, wait, as_json)


def checkpoint(
    run: Run, *, reason: Reason = "asked for by hand", wait: Wait = 60.0, as_json: AsJson = False
) -> None:
    """Take a snapshot of a run between two steps."""
    _ask(run, "checkpoint", {"reason": reason}, wait, as_json)


def rollback(
    run: Run,
    *,
    to: Annotated[
        str, typer.Option("--to", help="The snapshot to go back to; the newest, if left out.")
    ] = "",
    reason: Reason = "asked for by hand",
    wait: Wait = 60.0,
    as_json: AsJson = False,
) -> None:
    """Let a run go on from an earlier snapshot, in a new timeline."""
    _ask(run, "rollback", {"reason": reason, "snapshot_id": to}, wait, as_json)


def _ask(run: str, action: str, body: dict[str, Any], wait: float, as_json: bool) -> None:
    """Send a request, wait for its answer in the journal, and print it.

    Raises:
        UsageError: there is no such run or snapshot.
        RejectedError: the run has ended.
        UnavailableError: the stack is not up, or the trainer has not answered in time.
    """
    import getpass  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from urllib.parse import quote  # noqa: PLC0415 - as above

    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.service.client import Client  # noqa: PLC0415 - as above

    settings, clock = Settings.load(), SystemClock()
    client = Client(settings, subject=getpass.getuser(), part="tolaria", clock=clock)
    url = f"{_url(settings)}/api/v1/runs/{quote(run, safe='')}"
    request = client.json(f"{url}/{action}", body, role="operator")
    deadline = clock.monotonic() + wait
    while request["status"] == "PENDING" and clock.monotonic() < deadline:
        clock.sleep(0.1)
        request = client.json(f"{url}/commands/{request['command_id']}")
    answer = request["answer"]
    if as_json:
        print(json_text(request, sort_keys=True))
    elif answer:
        print(f"{answer['event']} at step {answer['step']} of run {run}.")
    if wait > 0 and not answer:
        raise UnavailableError(
            f"The trainer of run {run} has not answered the {action} within {wait:g} s; if "
            "the run is in that state already, it never will."
        )


def _url(settings: Settings) -> str:
    from esper import stack  # noqa: PLC0415 - as above

    endpoints = stack.running(settings)
    if endpoints is None or not endpoints.tolaria_url:
        raise UnavailableError(
            f"The stack in {settings.home} is not up: `esper up` starts it, or set "
            "ESPER_HOME to where the run is."
        )
    return endpoints.tolaria_url
