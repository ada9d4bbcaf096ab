"""Gives a broker that has just started its principals: their passwords, and the rights that they have."""

from __future__ import annotations

from pathlib import Path

from esper.oona import acls
from esper.oona.kafka import KafkaBus
from esper.oona.rights import PRINCIPALS, rights
from esper.stack import credentials
from esper.stack.broker import Node

_PATIENCE_S = 30.0


def secure(node: Node, folder: Path) -> None:
    """Make what `node` knows of principals what the passwords in `folder` and `esper.oona.rights` say; again at each start.

    So a folder of an earlier version, which knew none, needs nothing else, and a password whose file was deleted is another one now. Lines of
    users that are not Esper's stay.

    Raises:
        EsperError: the passwords cannot be kept, or the broker does not answer.
    """
    bus = KafkaBus(node.admin, patience=_PATIENCE_S)
    acls.set_passwords(bus, credentials.ensure(folder))
    wanted, found = set(rights()), acls.listed(bus)
    stale = [line for right, line in found.items() if right.principal in PRINCIPALS and right not in wanted]
    acls.change(bus, grant=sorted(wanted - found.keys()), revoke=stale)
