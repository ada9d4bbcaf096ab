"""`esper token`: a token for whoever asks Esper's parts by HTTP."""

from __future__ import annotations

import difflib
import getpass
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Final, Literal

import typer

from esper.errors import UsageError
from esper.json_text import json_text

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = timedelta(days=366)
_OF_OTHERS: Final = ("tolaria",)
"""Whom a token is for that may change something, unless more is asked for."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("token")(token)


def token(
    *,
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        typer.Option("--role", help="viewer reads, operator changes runs, admin does everything."),
    ] = "viewer",
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            help="The part that takes it: tolaria, tamiyo, nissa, history, foundry or all; may "
            "be given again. "
            "If left out, a viewer's is for all of them, another's for tolaria.",
        ),
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="How long it lasts: 90s, 30m, 8h, 7d.")] = "1h",
    subject: Annotated[
        str, typer.Option("--subject", help="Whom it names in the audit log; you, if left out.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Print a token: send it as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic
    (curl -u me:TOKEN).
    """
    from esper.clock import SystemClock  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.config import Settings  # noqa: PLC0415 - the same
    from esper.service.checks import tokens  # noqa: PLC0415 - the same

    settings, clock, lasting = Settings.load(), SystemClock(), duration(ttl)
    named = subject or getpass.getuser()
    takers = audience(parts or (), tokens.PARTS, tokens.PARTS if role == "viewer" else _OF_OTHERS)
    made = tokens.own(
        settings.keys_dir, subject=named, clock=clock, role=role, ttl=lasting, audience=takers
    )
    if as_json:
        report = {
            "token": made,
            "subject": named,
            "role": role,
            "for": sorted(takers),
            "expires_in": round(lasting.total_seconds()),
        }
        print(json_text(report))
    else:
        print(made)


def audience(asked: Sequence[str], known: Sequence[str], usual: Sequence[str]) -> Sequence[str]:
    """The parts that a token is for: those of `asked`, else the `usual` ones.

    Raises:
        UsageError: one is not `known`.
    """
    for part in asked:
        if part not in {*known, "all"}:
            near = difflib.get_close_matches(part, known, n=1)
            hint = (
                f"Did you mean {near[0]}?" if near else f"Take all, or one of {', '.join(known)}."
            )
            raise UsageError(f"--for {part} is no part. {hint}")
    return known if "all" in asked else tuple(dict.fromkeys(asked)) or usual


def duration(text: str) -> timedelta:
    """What `text`, a whole number and a unit, says.

    Raises:
        UsageError: it says nothing, or more than a year.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if (
        match is None
        or not 0 < (seconds := int(match[1]) * _UNITS[match[2]]) <= _LONGEST.total_seconds()
    ):
        raise UsageError(
            f"--ttl {text} is no time from a second to a year: say 90s, 30m, 8h or 7d."
        )
    return timedelta(seconds=seconds)
