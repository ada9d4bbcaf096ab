"""Attempts to adapt a run: what was decided, how the trainer answered, and how it ended. Pure.

Three topics tell of one attempt in any order (Tamiyo's review, the journal's answer, the outcome),
so each fills in its own fields of the attempt that its decision id names. A message that comes
twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from esper.events import Event
from esper.events.records import (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    EpochReviewed,
)
from esper.events.topics import TOPICS

KEPT = 256
"""Attempts of a run that are kept at hand, the newest; the history has them all."""

Result = Literal["PENDING", "APPLIED", "REJECTED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt. Times are microseconds since 1970; what is not known yet is None or empty.

    `at` is when it was decided. `why` is Tamiyo's sentence on the packet, `reason` the trainer's
    for a refusal. A command of a person or a service is its own decision.
    """

    decision_id: str
    run_id: str
    at: int
    source: str = "tamiyo"
    command_id: str = ""
    command: str = ""
    layer: str = ""
    seed: int = -1
    kernel_id: str = ""
    family: str = ""
    epoch: int = 0
    confidence: float | None = None
    urgency: float | None = None
    expected_impact: float | None = None
    evidence: str = ""
    why: str = ""
    result: Result = "PENDING"
    reason: str = ""
    answered_at: int | None = None
    verdict: str | None = None
    reward: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The attempt as the API gives it: the evidence is an object."""
        return {**asdict(self), "evidence": evidence(self.evidence)}


def evidence(text: str) -> Any:
    """The evidence of a decision as JSON.

    None where there is none, or the text is none: decoding refuses such events today, not what is
    older.
    """
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


Attempts = Mapping[str, Attempt]
"""Attempts of one run by decision."""


def encode(attempts: Attempts) -> bytes:
    """The bytes for the table."""
    return json.dumps(
        [asdict(attempt) for attempt in attempts.values()], separators=(",", ":")
    ).encode()


def decode(data: bytes) -> Attempts:
    """The attempts in `data`.

    Fields that a later version added have their defaults, those that it dropped are ignored.
    """
    fields = Attempt.__dataclass_fields__
    kept = [
        Attempt(**{name: value for name, value in plain.items() if name in fields})
        for plain in json.loads(data)
    ]
    return {attempt.decision_id: attempt for attempt in kept}


def fold(attempts: Attempts, event: Event) -> Attempts:
    """The attempts after an event of their run; the same mapping when it changes nothing."""
    changed = dict(attempts)
    for attempt in _changed(attempts, event):
        changed[attempt.decision_id] = attempt
    # the same mapping tells the caller that no row has to be written
    if changed == attempts:
        return attempts
    if len(changed) > KEPT:
        newest = sorted(changed.values(), key=lambda attempt: (attempt.at, attempt.decision_id))[
            -KEPT:
        ]
        return {attempt.decision_id: attempt for attempt in newest}
    return changed


def page(
    attempts: Iterable[Attempt], *, limit: int, before: tuple[int, str] | None
) -> tuple[list[Attempt], tuple[int, str] | None]:
    """The newest `limit` attempts that are older than the cursor `before`, newest first, and the
    cursor of the next page, if there is one.
    """
    ordered = sorted(attempts, key=_place, reverse=True)
    older = [attempt for attempt in ordered if before is None or _place(attempt) < before]
    shown = older[:limit]
    return shown, _place(shown[-1]) if len(older) > limit else None


def _place(attempt: Attempt) -> tuple[int, str]:
    return attempt.at, attempt.decision_id


def _changed(attempts: Attempts, event: Event) -> list[Attempt]:
    """The attempts that an event speaks of, as they are after it."""
    if isinstance(event, EpochReviewed):
        return [
            replace(
                _known(attempts, command.decision_id, event),
                command=command.command,
                layer=command.layer,
                seed=command.seed,
                kernel_id=command.kernel_id,
                family=command.family,
                epoch=event.epoch,
                confidence=command.confidence,
                urgency=command.urgency,
                expected_impact=command.expected_impact,
                evidence=command.evidence,
                why=event.reason,
            )
            for command in event.commands
        ]
    if isinstance(event, AdaptationApplied | AdaptationRejected):
        attempt = _known(attempts, event.decision_id, event)
        answered = replace(
            attempt,
            source="operator"
            if event.source_topic and event.source_topic != _DECISIONS
            else "tamiyo",
            command_id=event.command_id,
            command=event.command,
            layer=event.layer,
            seed=event.seed,
            kernel_id=event.kernel_id,
            # the review's epoch is that of the decision, the answer's that of the step at which it
            # was applied
            epoch=attempt.epoch if attempt.why else event.epoch,
            answered_at=event.occurred_at,
        )
        if isinstance(event, AdaptationRejected):
            return [replace(answered, result="REJECTED", reason=event.reason)]
        return [
            replace(
                answered,
                result="APPLIED",
                family=event.family,
                confidence=event.confidence,
                urgency=event.urgency,
            )
        ]
    if (
        isinstance(event, AdaptationOutcome)
        and (ended := attempts.get(event.decision_id)) is not None
    ):
        return [replace(ended, verdict=event.verdict, reward=event.reward)]
    return []


def _known(attempts: Attempts, decision_id: str, event: Event) -> Attempt:
    """The attempt as it is known, begun at the earliest time that any of its topics tells."""
    attempt = attempts.get(decision_id)
    if attempt is None:
        return Attempt(decision_id=decision_id, run_id=event.run_id, at=event.occurred_at)
    # pages go by this time, so it must not depend on which topic was read first
    return replace(attempt, at=min(attempt.at, event.occurred_at))


_DECISIONS = TOPICS["decision.tamiyo"].name
