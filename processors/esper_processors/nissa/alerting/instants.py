"""Microseconds since 1970 as people and other programs write a time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def text_of(microseconds: int) -> str:
    """ISO 8601 with a Z, as Alertmanager and browsers read it."""
    return (_BEGIN + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


def microseconds_of(moment: datetime) -> int:
    """The same back; `moment` has a time zone."""
    return (moment - _BEGIN) // timedelta(microseconds=1)
