"""The performance tracker: what live seeds changed, validation by validation, and how their grafts
ended. Pure.

A seed's figures are of its present kernel: another kernel begins anew, while the counts of grafts
go on. They inform people and the API; decisions rest on the packets alone, because telemetry may be
lost and a lockstep run must not depend on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from esper.events.records import AdaptationOutcome, PerformanceDelta
from esper_processors.consumers import readable
from esper_processors.tamiyo.deciding.bandits import ucb_score

WINDOW = 20
"""Validations that a seed's window holds."""
DECAY = 0.95
"""What an exponentially weighted mean keeps of itself at each new value."""
ACCURACY_WEIGHT = 0.7
"""Weight of the accuracy in a score; the loss has the rest."""
EXPIRES_US = 24 * 3_600_000_000
"""Age of its last value after which a seed is forgotten."""


@dataclass(frozen=True, slots=True)
class ValidationPoint:
    """One validation: differences with the seed less without it (accuracy as a fraction, loss in
    nats, positive is better), time and memory.
    """

    step: int
    accuracy: float
    loss: float
    latency_us: float
    memory_bytes: int

    @property
    def score(self) -> float:
        """70 % accuracy and 30 % loss."""
        return ACCURACY_WEIGHT * self.accuracy + (1 - ACCURACY_WEIGHT) * self.loss


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRecord:
    """One seed.

    `weighted` are exponentially weighted means of accuracy and loss; `activations` counts
    validations of all its kernels.
    """

    kernel_id: str = ""
    family: str = ""
    window: tuple[ValidationPoint, ...] = ()
    weighted: tuple[float, float] = (0.0, 0.0)
    activations: int = 0
    improved: int = 0
    grafts: int = 0
    failures: int = 0
    seen_at: int = 0

    @property
    def mean(self) -> float:
        """Mean score: 70 % of the weighted accuracy and 30 % of the weighted loss."""
        return ACCURACY_WEIGHT * self.weighted[0] + (1 - ACCURACY_WEIGHT) * self.weighted[1]

    @property
    def variance(self) -> float:
        """Variance of the scores in the window; 0 for fewer than two."""
        scores = [point.score for point in self.window]
        if len(scores) < 2:
            return 0.0
        centre = sum(scores) / len(scores)
        # n - 1: the mean is estimated from the same scores (Bessel)
        return sum((score - centre) ** 2 for score in scores) / (len(scores) - 1)

    @property
    def success_rate(self) -> float | None:
        """Share of the validations in which the model did better with the seed.

        None before the first.
        """
        return self.improved / self.activations if self.activations else None

    @property
    def trend(self) -> float:
        """Slope of the accuracy over the window by least squares, per validation.

        0 for fewer than two.
        """
        count = len(self.window)
        if count < 2:
            return 0.0
        middle = (count - 1) / 2
        spread = sum((index - middle) ** 2 for index in range(count))
        return (
            sum((index - middle) * point.accuracy for index, point in enumerate(self.window))
            / spread
        )


@dataclass(frozen=True, slots=True)
class Performance:
    """The seeds of one run by layer and index."""

    seeds: Mapping[tuple[str, int], SeedRecord]

    @property
    def activations(self) -> int:
        """Validations of all seeds."""
        return sum(record.activations for record in self.seeds.values())

    def entropy(self) -> float:
        """How evenly activations are spread over the seeds that had any: Shannon's entropy over its
        maximum, 0 (one seed) to 1 (all alike).
        """
        counts = [record.activations for record in self.seeds.values() if record.activations]
        if len(counts) < 2:
            return 0.0
        shares = [count / sum(counts) for count in counts]
        return -sum(share * math.log(share) for share in shares) / math.log(len(counts))

    def observed(self, delta: PerformanceDelta) -> Performance:
        """With one more validation; the same when it was folded before."""
        place = (delta.layer, delta.seed)
        record = self.seeds.get(place, SeedRecord())
        if record.kernel_id != delta.kernel_id:
            record = replace(
                record,
                kernel_id=delta.kernel_id,
                family=delta.family,
                window=(),
                weighted=(0.0, 0.0),
            )
        elif (
            record.window
            # both: after a rollback steps come again, later in time, and are new measurements
            and record.window[-1].step >= delta.step
            and record.seen_at >= delta.occurred_at
        ):
            return self
        point = ValidationPoint(
            delta.step, delta.accuracy_delta, delta.loss_delta, delta.latency_us, delta.memory_bytes
        )
        old, new = record.weighted, (point.accuracy, point.loss)
        weighted = (
            (DECAY * old[0] + (1 - DECAY) * new[0], DECAY * old[1] + (1 - DECAY) * new[1])
            # an average that began at 0 would need dozens of validations to forget it
            if record.window
            else new
        )
        changed = replace(
            record,
            window=(*record.window, point)[-WINDOW:],
            weighted=weighted,
            activations=record.activations + 1,
            improved=record.improved + (point.score > 0),
            seen_at=delta.occurred_at,
        )
        return Performance({**self.seeds, place: changed})

    def ended(self, outcome: AdaptationOutcome) -> Performance:
        """With the end of a graft: kept is a success, culled a failure.

        A reset says nothing of the kernel.
        """
        place = (outcome.layer, outcome.seed)
        record = self.seeds.get(
            place, SeedRecord(kernel_id=outcome.kernel_id, family=outcome.family)
        )
        kept, culled = outcome.verdict == "FOSSILIZED", outcome.verdict == "CULLED"
        changed = replace(
            record,
            grafts=record.grafts + kept,
            failures=record.failures + culled,
            seen_at=outcome.occurred_at,
        )
        return Performance({**self.seeds, place: changed})

    def at(self, now_us: int) -> Performance:
        """What has not expired."""
        return Performance(
            {
                place: record
                for place, record in self.seeds.items()
                if now_us - record.seen_at < EXPIRES_US
            }
        )

    def as_json(self) -> dict[str, Any]:
        """Figures for the API, seeds sorted by layer and index; a score that is infinite
        is null.
        """
        total = self.activations
        return {
            "activations": total,
            "activation_entropy": self.entropy(),
            "seeds": [
                _figures(layer, seed, record, total)
                for (layer, seed), record in sorted(self.seeds.items())
            ],
        }


def _figures(layer: str, seed: int, record: SeedRecord, total: int) -> dict[str, Any]:
    score = ucb_score(record.mean, record.activations, total)
    last = record.window[-1] if record.window else None
    return {
        "layer": layer,
        "seed": seed,
        "kernel_id": record.kernel_id,
        "family": record.family,
        "mean": record.mean,
        "accuracy": record.weighted[0],
        "loss": record.weighted[1],
        "variance": record.variance,
        "success_rate": record.success_rate,
        "accuracy_trend": record.trend,
        # JSON has no infinity
        "ucb_score": score if math.isfinite(score) else None,
        "activations": record.activations,
        "successful_grafts": record.grafts,
        "failures": record.failures,
        "latency_us": last.latency_us if last else None,
        "memory_bytes": last.memory_bytes if last else None,
        "window": [{**asdict(point), "score": point.score} for point in record.window],
        "seen_at": record.seen_at,
    }


def encode(performance: Performance) -> bytes:
    """The bytes for the table."""
    plain = [[layer, seed, asdict(record)] for (layer, seed), record in performance.seeds.items()]
    return json.dumps(plain, separators=(",", ":")).encode()


def decode(data: bytes) -> Performance:
    """The performance in `data`."""
    return Performance({(layer, seed): _record(plain) for layer, seed, plain in json.loads(data)})


def known(data: bytes | None) -> Performance:
    """The performance in `data`; an empty one where there is none, or it cannot be read."""
    return readable(decode, data, "A run's performance in Tamiyo's table") or Performance({})


def _record(plain: dict[str, Any]) -> SeedRecord:
    return SeedRecord(
        **{
            **plain,
            "window": tuple(ValidationPoint(**point) for point in plain["window"]),
            "weighted": tuple(plain["weighted"]),
        }
    )
