"""Names of runs."""

from __future__ import annotations

from datetime import UTC, datetime

from esper.bounded.names import is_run_id
from esper.clock import Clock
from esper.errors import UsageError


def require_run_id(run_id: str) -> None:
    """Refuse a run id that cannot name a folder.

    Raises:
        UsageError: it has other characters than letters, digits, dots, dashes and underscores, or
            is too long.
    """
    if not is_run_id(run_id):
        raise UsageError(
            f"A run id names a folder; {run_id!r} cannot be one. Take letters, digits, "
            "dots, dashes and underscores, 128 at most."
        )


def named(recipe: str, clock: Clock) -> str:
    """A run id that says what ran and when, to the millisecond."""
    moment = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    return f"{recipe}-{moment:%Y%m%d-%H%M%S}-{moment.microsecond // 1000:03d}"
