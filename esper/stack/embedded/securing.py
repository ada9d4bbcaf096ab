"""Gives a broker that has just started its principals: their passwords, and the rights that they
have.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from esper.errors import DeniedError
from esper.oona.admin import acls
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.rights import PRINCIPALS, rights
from esper.stack.embedded import credentials
from esper.stack.embedded.broker import BrokerNode

_PATIENCE_S = 30.0
_FRESH = "esper-fresh"
"""A user without rights, whose password is another one at each start: once the broker knows it, it
knows every one that was written with it.
"""


def secure(node: BrokerNode, folder: Path) -> None:
    """Make what `node` knows of principals what the passwords in `folder` and
    `esper.oona.bus.rights` say; again at each start.

    So a folder of an earlier version, which knew none, needs nothing else, and a password whose
    file was deleted is another one now. Lines of users that are not Esper's stay.

    Raises:
        EsperError: the passwords cannot be kept, or the broker does not answer.
    """
    bus = KafkaBus(node.admin, patience=_PATIENCE_S)
    fresh = secrets.token_urlsafe(32)
    acls.set_passwords(bus, {**credentials.ensure(folder), _FRESH: fresh})
    wanted, granted = set(rights()), acls.listed(bus)
    stale = [
        line
        for right, line in granted.items()
        if right.principal in PRINCIPALS and right not in wanted
    ]
    acls.change(bus, grant=sorted(wanted - granted.keys()), revoke=stale)
    _await(_by_scram(node, fresh))


def _by_scram(node: BrokerNode, password: str) -> Access:
    mine = {
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": _FRESH,
        "sasl_password": SecretStr(password),
        "sasl_password_file": "",
    }
    return Access(node.admin.kafka.model_copy(update=mine), _FRESH)


def _await(access: Access) -> None:
    """Return once the broker lets `access` in: it takes what its controller has written a moment
    later.

    Raises:
        DeniedError: it does not, for half a minute.
    """
    again = Retrying(
        retry=retry_if_exception_type(DeniedError),
        stop=stop_after_delay(_PATIENCE_S),
        wait=wait_fixed(0.02),
        reraise=True,
    )
    again(lambda: KafkaBus(access, patience=_PATIENCE_S).available(_PATIENCE_S))
