"""What earlier runs taught: outcomes by context, folded into a prior for the next run.

Pure, idempotent by decision, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.records import AdaptationOutcome
from esper_processors.tamiyo.deciding.bandits import Beta

HALF_LIFE_US = 14 * 86_400_000_000
"""Age at which an outcome counts for half (discounted Thompson sampling, Raj and Kalyani 2017, in
time instead of pulls).
"""
HORIZON_US = 6 * HALF_LIFE_US
"""Age beyond which an outcome is not read at all: it would count for less than 2 %."""
STRONGEST = 6.0
"""Trials that a prior counts for at most, so that a run's own trials can overrule it."""
_KEPT = 400
_CONTEXTS = 5_000
"""Contexts that are remembered at most; a kind of layer, its width classes and a family make one.
"""


@dataclass(frozen=True, slots=True)
class _Seen:
    occurred_at: int
    run_id: str
    reward: float


class Experience:
    """The outcomes of all runs by context."""

    def __init__(self) -> None:
        self._contexts: dict[str, dict[str, _Seen]] = {}

    def take(self, outcome: AdaptationOutcome, *, at_us: int) -> None:
        """Remember an outcome that the broker had at `at_us`.

        RESET teaches nothing: the seed was cleared, the kernel was not judged.

        An outcome is never younger than the broker says, so that one that claims to be of the
        future ages as all others do. A reward counts from 0 to 1 (decoding refuses others), so one
        outcome weighs as one trial and no more, whoever wrote it.
        """
        if outcome.verdict == "RESET":
            return
        seen = self._contexts.setdefault(outcome.context, {})
        reward = min(max(outcome.reward, 0.0), 1.0)
        seen[outcome.decision_id] = _Seen(min(outcome.occurred_at, at_us), outcome.run_id, reward)
        # at twice the number, so that sorting is rare: most outcomes cost one assignment
        if len(seen) > 2 * _KEPT:
            newest = sorted(seen.items(), key=lambda item: item[1].occurred_at)[-_KEPT:]
            self._contexts[outcome.context] = dict(newest)
        if len(self._contexts) > _CONTEXTS:
            oldest = min(
                self._contexts,
                key=lambda context: max(
                    item.occurred_at for item in self._contexts[context].values()
                ),
            )
            del self._contexts[oldest]

    def prior(self, context: str, *, run_id: str, now_us: int) -> Beta:
        """Uniform plus the discounted outcomes of other runs in this context, worth `STRONGEST`
        trials at most.
        """
        successes = failures = 0.0
        for seen in self._contexts.get(context, {}).values():
            # the run's own trials count in its posterior already, and would weigh twice
            if seen.run_id != run_id:
                weight = 0.5 ** (max(now_us - seen.occurred_at, 0) / HALF_LIFE_US)
                successes += weight * seen.reward
                failures += weight * (1 - seen.reward)
        total = successes + failures
        # scaled, not cut off: the share of successes stays what was observed
        scale = min(1.0, STRONGEST / total) if total else 0.0
        return Beta().plus(scale * successes, scale * failures)
