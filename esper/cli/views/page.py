"""`esper open [RUN]`: the page of runs in a browser, with a session of some hours."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote

import typer

from esper.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from esper.clock import Clock
    from esper.config import Settings

FILE: Final = "page.html"
"""The file in ESPER_HOME that leads a browser to the page."""
_LEADS: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Esper</title>
<meta http-equiv="refresh" content="0; url={address}">
<p><a href="{address}">Open the page</a> (once, within a minute).</p></html>
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("open")(open_page)


def open_page(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="The run to begin with; the list, if left out.")
    ] = "",
    *,
    show: Annotated[
        bool,
        typer.Option(
            "--print",
            help="Print the address instead, for a browser that you start: it works once, within "
            "a minute.",
        ),
    ] = False,
) -> None:
    """Open the page in a browser: runs, curves, what grew, and why."""
    import webbrowser  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    from esper.bounded.names import is_run_id  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.disk import write_file  # noqa: PLC0415 - as above

    if run and not is_run_id(run):
        raise UsageError(f"{run!r} is no run's id; `esper runs` lists them.")
    settings = Settings.load()
    address = address_of(settings, SystemClock(), run)
    if show:
        print(address)
        return
    # the code would stand in the list of processes, for all users, if a browser were given it
    file = settings.home.resolve() / FILE
    write_file(file, _LEADS.format(address=html.escape(address)).encode())
    if not webbrowser.open(file.as_uri()):
        raise UnavailableError(
            "No browser could be started here: `esper open --print` prints an address for one "
            "that you start."
        )
    print(f"The page is open in your browser; if it is not, open {file} within a minute.")


def address_of(settings: Settings, clock: Clock, run: str) -> str:
    """The page's address with a code that opens a session, once, for a minute.

    The code stands behind the #, which no browser sends, logs or gives to other pages.

    Raises:
        UnavailableError: the stack is not up.
    """
    import getpass  # noqa: PLC0415 - as above
    import secrets  # noqa: PLC0415 - as above

    from esper import stack  # noqa: PLC0415 - as above
    from esper.service.checks import tokens  # noqa: PLC0415 - as above

    endpoints = stack.running(settings)
    if endpoints is None or not endpoints.nissa_url:
        raise UnavailableError("The stack, which serves the page, is not up: run `esper up`.")
    code = tokens.own(
        settings.keys_dir,
        subject=getpass.getuser(),
        clock=clock,
        ttl=tokens.CODE_TTL,
        audience=("nissa", tokens.PAGE),
        identity=secrets.token_urlsafe(12),
    )
    begins = quote(f"run/{run}" if run else "", safe="")
    return f"{endpoints.nissa_url}/#/enter/{code}/{begins}"
