"""Names of runs."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from esper.clock import Clock
from esper.errors import UsageError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def require_run_id(run_id: str) -> None:
    """Refuse a run id that cannot name a folder.

    Raises:
        UsageError: it has other characters than letters, digits, dots, dashes and underscores, or is too long.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"A run id names a folder; {run_id!r} cannot be one. Take letters, digits, dots, dashes and underscores, 128 at most."
        )


def named(recipe: str, clock: Clock) -> str:
    """A run id that says what ran and when, to the millisecond."""
    moment = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    return f"{recipe}-{moment:%Y%m%d-%H%M%S}-{moment.microsecond // 1000:03d}"
