"""`esper audit-log verify`: proves the record of who changed what."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esper.errors import CorruptError
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.oona.durable.chains import SenderChain


_SHOWN: Final = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    log = typer.Typer(
        help="The record of who asked Esper to change something.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    log.callback()(_group)
    log.command("verify")(verify)
    app.add_typer(log, name="audit-log")


def _group() -> None:
    """The record of who asked Esper to change something."""


def verify(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Prove that no record of the audit log was changed, removed, added or moved, or name the first
    that was.
    """
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.clock import SystemClock  # noqa: PLC0415 - the same
    from esper.config import Settings  # noqa: PLC0415 - the same
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - the same
    from esper.oona.durable import chains  # noqa: PLC0415 - the same
    from esper.service.transport import signing  # noqa: PLC0415 - the same

    settings = Settings.load()
    verified = chains.verify(
        KafkaBus(cluster_of(settings, "viewer")),
        clock=SystemClock(),
        heads=chains.heads(settings.audit_dir),
        trust=signing.trust(settings.keys_dir),
    )
    forged = [(chain, forgery) for chain in verified for forgery in chain.forged]
    broken = [chain for chain in verified if chain.broken is not None]
    if as_json:
        print(
            json_text(
                {
                    "proven": not broken and not forged,
                    "chains": [asdict(chain) for chain in verified],
                }
            )
        )
    else:
        for chain in verified:
            if chain.proven or chain.broken or not chain.forged:
                print(f"{chain.sender}: {_said(chain)}")
            for forgery in chain.forged[:_SHOWN]:
                print(
                    f"{chain.sender}: forged at audit.events/{forgery.partition}/{forgery.offset}: "
                    f"{forgery.why}"
                )
            if len(chain.forged) > _SHOWN:
                print(
                    f"{chain.sender}: {len(chain.forged) - _SHOWN} more are forged; --json "
                    "has them."
                )
        if not verified:
            print("The audit log has no record yet.")
    if broken:
        raise CorruptError(
            f"The audit log is not as it was written: {_said(broken[0])} (sender "
            f"{broken[0].sender}). Trust nothing of that chain from there on."
        )

    if forged:
        chain, forgery = forged[0]
        raise CorruptError(
            f"The audit log has {len(forged)} message(s) that no part of this installation "
            f"wrote, the first at audit.events/{forgery.partition}/"
            f"{forgery.offset} (sender {chain.sender}): {forgery.why}. All else is proven; find "
            "out who may write to the topic."
        )


def _said(chain: SenderChain) -> str:
    if chain.broken is None:
        return f"{chain.proven} records, each follows the one before it"
    at = (
        f" at audit.events/{chain.broken.partition}/{chain.broken.offset}"
        if chain.broken.offset >= 0
        else ""
    )
    return f"{chain.broken.why}{at}"
