"""Who decided what, on which evidence, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from esper.bounded import DEFAULT, json_of
from esper.errors import EsperError
from esper.events.records import (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    CounterfactualMeasured,
    EpochReviewed,
    ReviewedCommand,
    SeedTransitioned,
)
from esper.events.seals import fingerprint
from esper.reports.material import Material
from esper.reports.moments import moment

TAMIYO: Final = "Tamiyo"
OTHERS: Final = "a person or a service"
_Answered = AdaptationApplied | AdaptationRejected
Reply = Literal["APPLIED", "REJECTED", "OPEN"]


@dataclass(frozen=True, slots=True)
class StageFacts:
    """A stage that a seed entered, at which event, and why."""

    event: int
    epoch: int
    step: int
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class DecisionFacts:
    """One decision.

    Attributes:
        by: `TAMIYO`, or `OTHERS` for a command that came from outside.
        reason: Why, by Tamiyo's answer to the epoch; None where that is not at hand.
        evidence: What the decision rests on; None as `reason`.
        answer: What the trainer did with it, at `answer_step` by event `answer_event`.
        path: The stages of the seed that name this decision.
        verdict: How its kernel ended, by Tamiyo's record of the outcome.
        signer: Fingerprint of the key that signed Tamiyo's answer.
    """

    decision_id: str
    by: str
    decided: str | None
    timeline: int
    epoch: int
    step: int
    command: str
    layer: str
    seed: int
    family: str
    kernel_id: str
    policy: str | None
    reason: str | None
    confidence: float | None
    urgency: float | None
    expected_impact: float | None
    evidence: Mapping[str, Any] | None
    answer: Reply
    answer_step: int | None
    answer_event: int | None
    refused_because: str
    path: tuple[StageFacts, ...]
    verdict: str | None
    reward: float | None
    shadow_gap: float | None
    signer: str | None


@dataclass(frozen=True, slots=True)
class CounterfactualFacts:
    """What a decision was worth, by runs with it and without it (`esper whatif`).

    Effects are means of what the runs with the decision have more, with 95 % intervals; None where
    a single pair was run.
    """

    decision_id: str
    measured: str
    actor: str
    mode: str
    orders: int
    until_epoch: int
    score_name: str
    score_effect: float
    score_low: float | None
    score_high: float | None
    loss_effect: float
    loss_low: float | None
    loss_high: float | None
    proven: bool


def counterfactual_facts(material: Material) -> tuple[CounterfactualFacts, ...]:
    """Every answer of `esper whatif`, in the order in which they were given."""
    return tuple(
        CounterfactualFacts(
            decision_id=one.decision_id,
            measured=moment(one.occurred_at),
            actor=one.actor,
            mode=one.mode,
            orders=one.orders,
            until_epoch=one.until_epoch,
            score_name=one.score_name,
            score_effect=one.score_effect,
            score_low=one.score_low,
            score_high=one.score_high,
            loss_effect=one.loss_effect,
            loss_low=one.loss_low,
            loss_high=one.loss_high,
            proven=one.proven,
        )
        for one in material.every(CounterfactualMeasured)
    )


def decision_trail(material: Material) -> tuple[DecisionFacts, ...]:
    """Every decision: those that Tamiyo's answers have, and those that only the journal has."""
    answers = _answers(material)
    outcomes = {one.decision_id: one for one in material.every(AdaptationOutcome)}
    paths = _paths(material)
    reviewed = [
        (review, command) for review in material.every(EpochReviewed) for command in review.commands
    ]
    known = {command.decision_id for _, command in reviewed}
    found = [
        _of_review(review, command, answers.get(command.decision_id), outcomes, paths)
        for review, command in reviewed
    ]
    found += [
        _of_journal(answer, outcomes, paths)
        for decision, answer in answers.items()
        if decision not in known
    ]
    return tuple(sorted(found, key=lambda one: (one.timeline, one.step, one.answer_event or 0)))


def _answers(material: Material) -> dict[str, _Answered]:
    """The first answer of the trainer to each decision."""
    answers: dict[str, _Answered] = {}
    for event in material.journal:
        if isinstance(event, AdaptationApplied | AdaptationRejected):
            answers.setdefault(event.decision_id, event)
    return answers


def _paths(material: Material) -> dict[str, tuple[StageFacts, ...]]:
    paths: dict[str, tuple[StageFacts, ...]] = {}
    for event in material.journal:
        if isinstance(event, SeedTransitioned) and event.decision_id:
            stage = StageFacts(
                event.sequence, event.epoch, event.step, event.to_stage, event.reason
            )
            paths[event.decision_id] = (*paths.get(event.decision_id, ()), stage)
    return paths


def _of_review(
    review: EpochReviewed,
    command: ReviewedCommand,
    answer: _Answered | None,
    outcomes: Mapping[str, AdaptationOutcome],
    paths: Mapping[str, tuple[StageFacts, ...]],
) -> DecisionFacts:
    return DecisionFacts(
        decision_id=command.decision_id,
        by=TAMIYO,
        decided=moment(review.occurred_at),
        timeline=review.timeline,
        epoch=review.epoch,
        step=review.step,
        command=command.command,
        layer=command.layer,
        seed=command.seed,
        family=command.family,
        kernel_id=command.kernel_id,
        policy=review.policy_version,
        reason=review.reason,
        confidence=command.confidence,
        urgency=command.urgency,
        expected_impact=command.expected_impact,
        evidence=_evidence(command.evidence),
        signer=fingerprint(review.signer) if review.signer else None,
        **_end(command.decision_id, answer, outcomes, paths),
    )


def _of_journal(
    answer: _Answered,
    outcomes: Mapping[str, AdaptationOutcome],
    paths: Mapping[str, tuple[StageFacts, ...]],
) -> DecisionFacts:
    """A decision of which the journal alone is at hand."""
    applied = answer if isinstance(answer, AdaptationApplied) else None
    return DecisionFacts(
        decision_id=answer.decision_id,
        by=TAMIYO if answer.source_topic == EpochReviewed.TOPIC else OTHERS,
        decided=None,
        timeline=answer.timeline,
        epoch=answer.epoch,
        step=answer.step,
        command=answer.command,
        layer=answer.layer,
        seed=answer.seed,
        family=applied.family if applied else "",
        kernel_id=answer.kernel_id,
        policy=None,
        reason=None,
        confidence=applied.confidence if applied else None,
        urgency=applied.urgency if applied else None,
        expected_impact=None,
        evidence=None,
        signer=None,
        **_end(answer.decision_id, answer, outcomes, paths),
    )


def _end(
    decision_id: str,
    answer: _Answered | None,
    outcomes: Mapping[str, AdaptationOutcome],
    paths: Mapping[str, tuple[StageFacts, ...]],
) -> dict[str, Any]:
    outcome = outcomes.get(decision_id)
    refused = isinstance(answer, AdaptationRejected)
    reply: Reply = "OPEN" if answer is None else "REJECTED" if refused else "APPLIED"
    return {
        "answer": reply,
        "answer_step": answer.step if answer else None,
        "answer_event": answer.sequence if answer else None,
        "refused_because": answer.reason if isinstance(answer, AdaptationRejected) else "",
        "path": paths.get(decision_id, ()),
        "verdict": outcome.verdict if outcome else None,
        "reward": outcome.reward if outcome else None,
        "shadow_gap": outcome.shadow_gap if outcome else None,
    }


def _evidence(text: str) -> dict[str, Any]:
    try:
        found = json_of((text or "{}").encode(), DEFAULT, "The evidence of a decision")
    except EsperError:
        found = None
    # a policy of somebody else's says what it likes
    return dict(sorted(found.items())) if isinstance(found, dict) else {"text": text}
