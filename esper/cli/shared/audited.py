"""Commands that change something outside a run's journal leave a record of who asked for it."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from esper.errors import EsperError

if TYPE_CHECKING:
    from esper.clock import Clock
    from esper.config import Settings
    from esper.oona.bus.access import Access

SENDER: Final = "cli"
_DONE, _FAILED = 200, 500
_WAIT_S: Final = 20.0


@contextmanager
def audited(
    settings: Settings,
    clock: Clock,
    cluster: Access,
    *,
    action: str,
    resource: str,
    run_id: str = "",
) -> Iterator[None]:
    """Within: what the command does.

    It begins once Kafka would take the record of it; the record says how it ended.

    Raises:
        UnavailableError: Kafka does not answer, and nothing is changed without a record of it.
    """
    import secrets  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed  # noqa: PLC0415 - as above

    from esper.errors import UsageError  # noqa: PLC0415 - as above
    from esper.events.envelope import trace_id  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.durable.audit_trail import AuditTrail  # noqa: PLC0415 - as above
    from esper.service.checks.audit_entries import PENDING, AuditEntry  # noqa: PLC0415 - as above

    name = secrets.token_hex(16)
    entry = AuditEntry(
        id=name,
        actor=getpass.getuser(),
        role="admin",
        action=action,
        resource=resource,
        status=PENDING,
        detail="",
        run_id=run_id,
        trace_id=trace_id("cli", name),
    )
    bus = KafkaBus(cluster)
    another = Retrying(
        retry=retry_if_exception_type(UsageError),
        stop=stop_after_delay(_WAIT_S),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    with another(
        AuditTrail,
        bus,
        sender_id=SENDER,
        clock=clock,
        folder=settings.audit_dir,
        keys=settings.keys_dir,
    ) as trail:
        trail(entry)
        try:
            yield
        except EsperError:
            trail(replace(entry, status=_FAILED))
            raise
        trail(replace(entry, status=_DONE))
