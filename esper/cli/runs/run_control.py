"""`esper pause | resume | checkpoint | rollback`: ask a run's trainer, through Tolaria's API of the
stack that is up.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import RejectedError, UnavailableError, UsageError

if TYPE_CHECKING:
    from urllib.error import HTTPError

    from esper.clock import Clock
    from esper.config import Settings
    from esper.service.checks.roles import Role

REQUEST_S = 15.0
_KINDS = {404: UsageError, 409: RejectedError, 422: UsageError}

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
    """Send a request, wait for its answer in the journal, and say what came of it.

    Raises:
        UsageError: there is no such run or snapshot.
        RejectedError: the run has ended.
        UnavailableError: the stack is not up, or the trainer has not answered in time.
    """
    from urllib.parse import quote  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    from esper.clock import SystemClock  # noqa: PLC0415 - the same
    from esper.config import Settings  # noqa: PLC0415 - the same

    settings, clock = Settings.load(), SystemClock()
    url = _url(settings)
    name = quote(run, safe="")
    told = _send(settings, f"{url}/api/v1/runs/{name}/{action}", body, clock)
    deadline = clock.monotonic() + wait
    while told["status"] == "PENDING" and clock.monotonic() < deadline:
        clock.sleep(0.1)
        told = _send(
            settings, f"{url}/api/v1/runs/{name}/commands/{told['command_id']}", None, clock
        )
    if as_json:
        print(json.dumps(told, sort_keys=True))
    elif told["answer"]:
        print(f"{told['answer']['event']} at step {told['answer']['step']} of run {run}.")
    if wait > 0 and not told["answer"]:
        raise UnavailableError(
            f"The trainer of run {run} has not answered the {action} within {wait:g} s; if "
            "the run is in that state already, it never will."
        )


def _url(settings: Settings) -> str:
    from esper import stack  # noqa: PLC0415 - as above

    found = stack.running(settings)
    if found is None or not found.tolaria_url:
        raise UnavailableError(
            f"The stack in {settings.home} is not up: `esper up` starts it, or set "
            "ESPER_HOME to where the run is."
        )
    return found.tolaria_url


def _send(
    settings: Settings, url: str, body: dict[str, Any] | None, clock: Clock
) -> dict[str, Any]:
    """The JSON that a request gives; a POST where there is a body."""
    import getpass  # noqa: PLC0415 - as above
    import urllib.error  # noqa: PLC0415 - as above

    from esper.service.client import FAILURES, Client  # noqa: PLC0415 - as above

    client = Client(settings, subject=getpass.getuser(), part="tolaria", clock=clock)
    data = None if body is None else json.dumps(body).encode()
    role: Role = "viewer" if body is None else "operator"
    try:
        answer = client.get(
            url,
            data=data,
            headers={"Content-Type": "application/json"},
            timeout=REQUEST_S,
            role=role,
        )
    except urllib.error.HTTPError as error:
        with error:
            raise _KINDS.get(error.code, UnavailableError)(_sentence(error)) from error
    except FAILURES as error:
        raise UnavailableError(
            f"Tolaria's API does not answer at {url}: `esper status` says how its part is."
        ) from error
    found: dict[str, Any] = json.loads(answer)
    return found


def _sentence(error: HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return (
            f"Tolaria's API answered {error.code}: its log says why, `esper status` says where "
            "that is."
        )
