"""`esper token`: a token for whoever asks Esper's parts by HTTP."""

from __future__ import annotations

import getpass
import json
import re
from datetime import timedelta
from typing import Annotated, Final, Literal

import typer

from esper.errors import UsageError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = timedelta(days=366)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("token")(token)


def token(
    *,
    role: Annotated[
        Literal["viewer", "operator", "admin"], typer.Option("--role", help="viewer reads, operator changes runs, admin does everything.")
    ] = "viewer",
    ttl: Annotated[str, typer.Option("--ttl", help="How long it lasts: 90s, 30m, 8h, 7d.")] = "8h",
    subject: Annotated[str, typer.Option("--subject", help="Whom it names in the audit log; you, if left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Print a token: send it as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic (curl -u me:TOKEN)."""
    from esper.clock import SystemClock  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.config import Settings  # noqa: PLC0415 - the same
    from esper.service import tokens  # noqa: PLC0415 - the same

    settings, clock, lasting = Settings.load(), SystemClock(), duration(ttl)
    named = subject or getpass.getuser()
    made = tokens.own(settings.keys_dir, subject=named, clock=clock, role=role, ttl=lasting)
    if as_json:
        print(json.dumps({"token": made, "subject": named, "role": role, "expires_in": round(lasting.total_seconds())}))
    else:
        print(made)


def duration(text: str) -> timedelta:
    """What `text`, a whole number and a unit, says.

    Raises:
        UsageError: it says nothing, or more than a year.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if found is None or not 0 < (seconds := int(found[1]) * _UNITS[found[2]]) <= _LONGEST.total_seconds():
        raise UsageError(f"--ttl {text} is no time from a second to a year: say 90s, 30m, 8h or 7d.")
    return timedelta(seconds=seconds)
