"""Silences: rules of people that withhold alerts until a time. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from esper.anomalies import AlertRules, Silence
from esper.errors import RejectedError, UsageError
from esper.events import event_id
from esper_processors.nissa.alerting.instants import text_of

SILENCES = 200
"""Silences that may hold at once."""
LONGEST_US = 366 * 24 * 3_600_000_000
PATTERN_CHARACTERS = 200
REASON_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceRule:
    """A silence, and whose.

    Attributes:
        silence_id: Its id.
        who: Who asked for it, as the token names them.
        reason: Why, in their words.
        created_us: When, microseconds since 1970.
        until_us: When it ends.
        run, detector, layer: Patterns, as file names have them, of what it withholds.
    """

    silence_id: str
    who: str
    reason: str
    created_us: int
    until_us: int
    run: str = "*"
    detector: str = "*"
    layer: str = "*"

    def silence(self) -> Silence:
        """As the rules of alerts know it."""
        return Silence(self.until_us, self.detector, self.run, self.layer)

    def as_json(self) -> dict[str, Any]:
        """For people and scripts, with times in ISO 8601."""
        told = asdict(self)
        created, until = told.pop("created_us"), told.pop("until_us")
        return {**told, "created": text_of(created), "until": text_of(until)}


def begun(
    *,
    who: str,
    reason: str,
    now_us: int,
    until_us: int,
    patterns: Mapping[str, str],
    known: Iterable[SilenceRule],
) -> SilenceRule:
    """A new silence.

    Raises:
        UsageError: it ends before it begins, or lasts for more than a year.
        RejectedError: there are too many.
    """
    if until_us <= now_us:
        raise UsageError(
            f"A silence until {text_of(until_us)} would be over already; it is {text_of(now_us)} "
            "now: name a later time."
        )
    if until_us - now_us > LONGEST_US:
        raise UsageError(
            f"A silence until {text_of(until_us)} would last for more than a year; name an "
            "earlier time."
        )
    if len(holding(known, now_us)) >= SILENCES:
        raise RejectedError(f"There are {SILENCES} silences, which is the most; delete one.")
    key = f"silence/{who}/{now_us}/{until_us}/{sorted(patterns.items())}"
    return SilenceRule(
        silence_id=event_id("", 0, key),
        who=who,
        reason=reason,
        created_us=now_us,
        until_us=until_us,
        **patterns,
    )


def holding(known: Iterable[SilenceRule], now_us: int) -> list[SilenceRule]:
    """Those that hold at a time, the first to end first."""
    present = [one for one in known if now_us < one.until_us]
    return sorted(present, key=lambda one: (one.until_us, one.silence_id))


def rules_of(known: Iterable[SilenceRule], now_us: int) -> AlertRules:
    """What is withheld at a time."""
    return AlertRules(silences=tuple(one.silence() for one in holding(known, now_us)))


def encode(rule: SilenceRule) -> bytes:
    """The bytes of a silence for its topic."""
    return json.dumps(asdict(rule), separators=(",", ":"), sort_keys=True).encode()


def decode(data: bytes) -> SilenceRule:
    """The silence in `data`.

    Raises:
        ValidationError: there is none.
    """
    return _adapter().validate_json(data)


@cache
def _adapter() -> TypeAdapter[SilenceRule]:
    return TypeAdapter(SilenceRule)
