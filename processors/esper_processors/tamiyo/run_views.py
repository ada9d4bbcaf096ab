"""What Tamiyo's API tells of runs and decisions, as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from esper.events.codec import decode
from esper.events.records import EpochReviewed
from esper_processors.tamiyo.deciding.bandits import FRESH_PARAMETERS, Beta
from esper_processors.tamiyo.deciding.performance import Performance
from esper_processors.tamiyo.deciding.schedule import posterior
from esper_processors.tamiyo.row import Row


def brief(run_id: str, row: Row) -> dict[str, Any]:
    """A run in the list of runs."""
    state = row.state
    return {
        "run_id": run_id,
        "timeline": state.timeline,
        "packet": state.packet,
        "arms": len(state.arms),
        "trials": len(state.trials),
        "reports": state.reports,
    }


def full(run_id: str, row: Row, performance: Performance) -> dict[str, Any]:
    """A run: each arm with its record and its posterior under a uniform prior, as of a kernel of
    `FRESH_PARAMETERS` parameters, the trials on the way, and the performance tracker.
    """
    state = row.state
    arms = []
    for key, record in sorted(state.arms.items()):
        arm = posterior(state, key, Beta(), FRESH_PARAMETERS)
        mean, spread = arm.gain.posterior(arm.fresh)
        arms.append(
            {
                "layer": key.layer,
                "family": key.family,
                "successes": record.successes,
                "failures": record.failures,
                "harmed": record.harmed,
                "posterior": {
                    "success": [arm.success.successes, arm.success.failures],
                    "success_mean": arm.success.mean,
                    "log_gain": [mean, spread],
                    "gain_median": arm.median_gain,
                    "worth": arm.worth,
                },
            }
        )
    return {
        **brief(run_id, row),
        "arms": arms,
        "trials": [asdict(trial) for trial in state.trials.values()],
        "training_epochs": asdict(state.training),
        "grafting_epochs": asdict(state.grafting),
        "lacking": list(state.reported),
        "performance": performance.as_json(),
    }


def decisions(rows: Mapping[str, Row], *, limit: int) -> list[dict[str, Any]]:
    """The newest answers that are kept of these runs, newest first: reason and commands with their
    evidence.
    """
    reviews = [
        review
        for row in rows.values()
        for answer in row.answers
        for review in _reviews(answer.values)
    ]
    reviews.sort(
        key=lambda review: (review.occurred_at, review.run_id, review.packet), reverse=True
    )
    return [_decision(review) for review in reviews[:limit]]


def _reviews(values: Iterable[bytes]) -> list[EpochReviewed]:
    first = decode(next(iter(values)))  # an answer's first event is its review
    return [first] if isinstance(first, EpochReviewed) else []


def _evidence(text: str) -> Any:
    """The evidence as JSON; None where there is none, or the text is none."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _decision(review: EpochReviewed) -> dict[str, Any]:
    return {
        "review_id": review.event_id,
        "run_id": review.run_id,
        "at": review.occurred_at,
        "timeline": review.timeline,
        "packet": review.packet,
        "epoch": review.epoch,
        "step": review.step,
        "policy_version": review.policy_version,
        "reason": review.reason,
        "duration_us": review.duration_us,
        "commands": [
            {
                "decision_id": command.decision_id,
                "command": command.command,
                "layer": command.layer,
                "seed": command.seed,
                "kernel_id": command.kernel_id,
                "family": command.family,
                "confidence": command.confidence,
                "urgency": command.urgency,
                "expected_impact": command.expected_impact,
                "evidence": _evidence(command.evidence),
            }
            for command in review.commands
        ],
    }
