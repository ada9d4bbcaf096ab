"""Which commands a run accepts: pure, configurable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from esper.events.records import Command, Stage
from esper.lifecycle.commands import Adapt
from esper.lifecycle.stages import ADVANCE, LIVE, ways_to
from esper.lifecycle.state import RunState, SeedState

ALLOWED: dict[Command, frozenset[Stage]] = {
    "GERMINATE": ways_to("GERMINATED"),
    "ADVANCE": frozenset(ADVANCE),
    "SET_ALPHA": LIVE - {"FOSSILIZED"},
    "CULL": ways_to("CULLED"),
    "FOSSILISE": ways_to("FOSSILIZED"),
    "RESET": ways_to("RESETTING"),
    "TERMINATE": ways_to("TERMINATED"),
}
"""Stages in which a command makes sense."""

ADAPTATIONS: frozenset[Command] = frozenset({"GERMINATE", "ADVANCE", "SET_ALPHA"})
"""Commands that change what the model computes: they are counted, and need urgency.

Culling and keeping only end what was begun.
"""

WAYS_OUT: frozenset[Command] = frozenset({"CULL", "RESET"})
"""What can be asked of a seed in ERROR_RECOVERY: its kernel is gone."""


class Guardrails(BaseModel):
    """Limits on adaptation. Epochs are counted from 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frequency: int = Field(
        default=1,
        ge=1,
        description="adaptations are accepted only in epochs that are a multiple of this",
    )
    cooldown: int = Field(
        default=2, ge=0, description="epochs for which a seed rests between two adaptations"
    )
    per_epoch: int = Field(
        default=3, ge=1, description="adaptations that one epoch accepts at most"
    )
    confidence: float = Field(
        default=0.7, ge=0, le=1, description="a decision needs more confidence than this"
    )
    urgency: float = Field(
        default=0.6, ge=0, le=1, description="an adaptation needs more urgency than this"
    )


def refusal(state: RunState, seed: SeedState | None, command: Adapt, rails: Guardrails) -> str:  # noqa: PLR0911  # one return a rule
    """Why `command` is refused, in a sentence; empty when it is accepted."""
    if seed is None:
        return f"There is no seed {command.layer}[{command.seed}] in this run."
    if not command.trusted and (left_out := _left_out(state, command)):
        return left_out
    # before confidence and urgency: no confidence makes an impossible move possible
    if seed.stage not in ALLOWED[command.command]:
        return f"{command.command} does not fit a seed that is {seed.stage}."
    if seed.execution == "ERROR_RECOVERY" and command.command not in WAYS_OUT:
        return (
            f"{command.command} does not fit a seed that is on its fallback, because its "
            "kernel failed: it can be culled or reset."
        )
    # written so that NaN is refused: every comparison with it is false
    if command.command == "SET_ALPHA" and not 0 <= command.alpha <= 1:
        return f"Alpha {command.alpha} is not between 0 and 1."
    if not command.trusted and command.confidence <= rails.confidence:
        return f"Confidence {command.confidence:.2f} is not above {rails.confidence:.2f}."
    if command.command not in ADAPTATIONS:
        return ""
    if not command.trusted and command.urgency <= rails.urgency:
        return f"Urgency {command.urgency:.2f} is not above {rails.urgency:.2f}."
    if state.epoch % rails.frequency:
        return (
            f"Epoch {state.epoch} accepts no adaptations: they come every {rails.frequency} epochs."
        )
    if state.adapted_epoch == state.epoch and state.adaptations >= rails.per_epoch:
        return f"Epoch {state.epoch} has had its {rails.per_epoch} adaptations."
    if seed.adapted_epoch >= 0 and state.epoch - seed.adapted_epoch < rails.cooldown:
        return (
            f"Seed {seed.layer}[{seed.seed}] was adapted in epoch {seed.adapted_epoch} and "
            f"rests for {rails.cooldown} epochs."
        )
    return ""


def _left_out(state: RunState, command: Adapt) -> str:
    """Why a fork refuses a decision that it was made to leave out: the same command for the same
    seed and kernel in the same epoch.
    """
    # by what it does: in the fork, Tamiyo gives the same decision another id
    effect = (command.command, command.layer, command.seed, command.kernel_id, state.epoch)
    for decision in state.left_out:
        if effect == (
            decision.command,
            decision.layer,
            decision.seed,
            decision.kernel_id,
            decision.epoch,
        ):
            return (
                f"This fork leaves out decision {decision.decision_id} of run {decision.run_id}, "
                "which this one repeats."
            )
    return ""
