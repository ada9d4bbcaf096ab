"""Where a command finds Kafka, and as whom it comes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from esper.errors import UsageError

if TYPE_CHECKING:
    from esper.config import Settings
    from esper.oona.bus.access import Access


def cluster_of(settings: Settings, principal: str) -> Access:
    """The user's cluster, or the local stack, which is started for as long as this command runs.

    Raises:
        UsageError: there is no data here that a stack could give.
        EsperError: as `stack.up` does.
    """
    from esper.oona.bus.access import Access  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    if settings.kafka.bootstrap:
        return Access.of(settings, principal)
    from esper import stack  # noqa: PLC0415 - as above

    if stack.running(settings) is None and not (settings.stack_dir / "kafka").exists():
        raise UsageError(
            f"There is no data in {settings.home}; run something first, or set ESPER_HOME "
            "to where the run is."
        )
    endpoints = stack.up(settings, owner_pid=os.getpid(), progress=lambda _: None)
    return Access.of(settings, principal, bootstrap=endpoints.bootstrap)
