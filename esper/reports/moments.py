"""Times of events, as reports have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(occurred_at: int) -> str:
    """A time of an event, microseconds since 1970-01-01 UTC, as ISO 8601 has it."""
    try:
        return (_EPOCH + timedelta(microseconds=occurred_at)).isoformat()
    except OverflowError:  # whoever sends an event chooses the number
        return f"{occurred_at} microseconds since 1970-01-01 UTC"
