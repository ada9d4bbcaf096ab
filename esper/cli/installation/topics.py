"""`esper topics apply | diff`: what a Kafka cluster and a schema registry have to have for Esper,
and whether they do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper.errors import UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.config import Settings
    from esper.oona.admin.provisioning import Administration, ClusterPlan, Difference

_PATIENCE_S = 30.0
_QUIET_S = 10.0  # a change of quotas or rights reaches the broker that is asked next a moment later

Rights = Annotated[
    bool,
    typer.Option("--acls/--no-acls", help="Whether rights of Esper's principals are compared too."),
]
Quotas = Annotated[
    bool,
    typer.Option(
        "--quotas/--no-quotas", help="Whether quotas of Esper's principals are compared too."
    ),
]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune",
        help=(
            "Rights and quotas of Esper's principals that Esper does not need count, and are "
            "removed."
        ),
    ),
]
Users = Annotated[
    str,
    typer.Option(
        "--users",
        metavar="PATTERN",
        help="By which name the cluster knows a principal, such as esper-{principal}.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(
        help=(
            "What a Kafka cluster has to have: topics, rights, quotas, schemas; and "
            "transactions that hang in it."
        ),
        no_args_is_help=True,
    )
    commands.command("diff")(diff)
    commands.command("apply")(apply)
    app.add_typer(commands, name="topics")


def diff(
    *,
    acls: Rights = True,
    quotas: Quotas = True,
    prune: Prune = False,
    users: Users = "{principal}",
    as_json: AsJson = False,
) -> None:
    """Show what differs from what Esper needs.

    Changes nothing; the exit code is 0 if nothing differs, else 1.
    """
    from esper.config import Settings  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    settings, user = Settings.load(), _named(users)
    plan = _plan(settings, user, acls=acls, quotas=quotas)
    differences = _differences(_administration(settings), plan, user, prune=prune)
    _tell(differences, "differs", as_json=as_json)
    raise typer.Exit(1 if differences else 0)


def apply(
    *,
    acls: Rights = True,
    quotas: Quotas = True,
    prune: Prune = False,
    users: Users = "{principal}",
    credentials: Annotated[
        Path | None,
        typer.Option(
            "--credentials",
            metavar="DIR",
            help="Set SCRAM-SHA-512 passwords: DIR has one file <principal>.password each.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create and change what differs, and show it.

    Never changes partitions or replicas of what exists; exit code 1 if such a thing differs.
    """
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above

    settings, user, clock = Settings.load(), _named(users), SystemClock()
    passwords = _passwords(credentials, user)
    plan, administration = (
        _plan(settings, user, acls=acls, quotas=quotas),
        _administration(settings),
    )
    differences = _differences(administration, plan, user, prune=prune)
    administration.apply(plan, differences)
    administration.credentials(passwords)
    deadline = clock.monotonic() + _QUIET_S
    left = _differences(administration, plan, user, prune=prune)
    while any(difference.step != "none" for difference in left) and clock.monotonic() < deadline:
        clock.sleep(0.2)
        left = _differences(administration, plan, user, prune=prune)
    _tell(
        [difference for difference in differences if difference.step != "none"],
        "changed",
        as_json=as_json,
        left=left,
        passwords=sorted(passwords),
    )
    raise typer.Exit(1 if left else 0)


def _plan(
    settings: Settings, user: Callable[[str], str], *, acls: bool, quotas: bool
) -> ClusterPlan:
    from esper.oona.admin.provisioning import wanted  # noqa: PLC0415 - as above

    return wanted(settings, user=user, with_rights=acls, with_quotas=quotas)


def _administration(settings: Settings) -> Administration:
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.oona.admin.provisioning import Administration  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.bus.rights import OWNER  # noqa: PLC0415 - as above

    return Administration(
        KafkaBus(cluster_of(settings, OWNER), patience=_PATIENCE_S), settings, SystemClock()
    )


def _differences(
    administration: Administration, plan: ClusterPlan, user: Callable[[str], str], *, prune: bool
) -> list[Difference]:
    from esper.oona.admin.provisioning import compare  # noqa: PLC0415 - as above

    return compare(administration.found(plan, user=user), plan, prune=prune)


def _named(pattern: str) -> Callable[[str], str]:
    if "{principal}" not in pattern:
        raise UsageError(
            f"--users {pattern!r} gives every principal one name: put {{principal}} into "
            "it, or leave rights out with --no-acls."
        )
    return lambda principal: pattern.replace("{principal}", principal)


def _passwords(folder: Path | None, user: Callable[[str], str]) -> dict[str, str]:
    """Passwords by the cluster's names, of the principals that have a file in `folder`.

    Raises:
        UsageError: there is none, one cannot be read, or one is empty.
    """
    if folder is None:
        return {}
    from esper.oona.bus.rights import OWNER, PRINCIPALS  # noqa: PLC0415 - as above

    by_user = {}
    for principal in (OWNER, *PRINCIPALS):
        path = folder / f"{principal}.password"
        if path.exists():
            try:
                by_user[user(principal)] = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{path} cannot be read: {error}.") from error
            if not by_user[user(principal)]:
                raise UsageError(f"{path} is empty: write the password of {principal} into it.")
    if not by_user:
        raise UsageError(
            f"{folder} has no file <principal>.password; the principals are "
            f"{', '.join((OWNER, *PRINCIPALS))}."
        )
    return by_user


def _tell(
    differences: list[Difference],
    what: str,
    *,
    as_json: bool,
    left: list[Difference] | None = None,
    passwords: list[str] | None = None,
) -> None:
    if as_json:
        report = {what: [difference._asdict() for difference in differences]}
        if left is not None:
            report |= {"left": [difference._asdict() for difference in left]}
        print(json_text(report | {"credentials": passwords} if passwords is not None else report))
        return
    for difference in [*differences, *(left or [])]:
        print(difference.line())
    for name in passwords or []:
        print(f"~ credential  {name}")
    if not differences and not left:
        print("The cluster has what Esper needs.")
