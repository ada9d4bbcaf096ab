"""Microseconds since 1970 as people and other programs write a time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - _BEGIN) // _MICROSECOND
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _BEGIN) // _MICROSECOND


def text_of(microseconds: int) -> str:
    """ISO 8601 with a Z, as Alertmanager and browsers read it; of a time that no calendar has, the
    first or the last one.
    """
    within = min(max(microseconds, _FIRST_US), _LAST_US)
    return (_BEGIN + timedelta(microseconds=within)).isoformat().replace("+00:00", "Z")


def microseconds_of(moment: datetime) -> int:
    """The same back; `moment` has a time zone."""
    return (moment - _BEGIN) // _MICROSECOND
