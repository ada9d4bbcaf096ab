"""Conditions of the stack itself: Nissa falls behind, the disk fills. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esper.anomalies import Anomaly, Cleared, Finding, Subject
from esper.anomalies.anomaly import Severity

LOOKS: Final = 6
"""Looks at the lag that are compared, the first and the last five minutes apart."""
LAG: Final = 10_000
"""Messages that still have to be read, from which on a lag that does not shrink is a fault."""
_MIB: Final = 1 << 20
DISK: Final[tuple[tuple[Severity, float, int], ...]] = (
    ("CRITICAL", 0.01, 256 * _MIB),
    ("WARNING", 0.05, 1024 * _MIB),
)
"""Free space below which the disk is low: a fraction of it, or bytes; either is enough."""
_CLEAR: Final = 1.1  # times the limit, so that an alert does not come and go at it


def lag(looks: Sequence[int], now_us: int) -> list[Finding]:
    """What the latest looks at Nissa's own lag say, messages, oldest first."""
    subject = Subject("consumer_lag", "")
    recent = looks[-LOOKS:]
    if not recent or recent[-1] <= LAG:
        return [Cleared(subject, -1, -1, now_us)]
    if len(recent) < LOOKS or min(recent) <= LAG or recent[-1] < recent[0]:
        return []
    sentence = (
        f"Nissa is {recent[-1]:,} messages behind, after {recent[0]:,} five minutes ago: metrics "
        "and alerts come late; give the machine fewer runs or more cores."
    )
    return [_anomaly(subject, "WARNING", now_us, float(recent[-1]), float(LAG), sentence)]


def disk(free: int, total: int, now_us: int) -> list[Finding]:
    """What the free space of ESPER_HOME's disk says, bytes."""
    subject = Subject("disk_space", "")
    for severity, share, least in DISK:
        limit = max(share * total, least)
        if free < limit:
            sentence = (
                f"The disk of ESPER_HOME has {free / _MIB:,.0f} MiB free, "
                f"{free / max(total, 1):.1%} of it: free some, or `esper gc` does, before Kafka "
                "and the history cannot write."
            )
            return [_anomaly(subject, severity, now_us, float(free), limit, sentence)]
    _, share, least = DISK[-1]
    if free < _CLEAR * max(share * total, least):
        return []
    return [Cleared(subject, -1, -1, now_us)]


def _anomaly(
    subject: Subject, severity: Severity, now_us: int, value: float, expected: float, sentence: str
) -> Anomaly:
    return Anomaly(subject, severity, -1, -1, now_us, value, expected, sentence, ())
