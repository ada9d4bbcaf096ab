"""Gates: when a seed goes to its next stage by itself. Pure: evidence in, at most one move out.

A TRAINING kernel earns BLENDING by a paired test: its shadow loss must be below the host's on
held-out batches by `z` standard errors, by `min_gap`, and by the fraction `min_gain` of the host's:
many small wins overfit the model until nothing large can be won any more. A seed that the breaker
has put on its fallback is culled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esper.lifecycle import SeedState
from esper.lifecycle.commands import Move
from esper.tolaria.recipes.recipe import GatesSection


@dataclass(slots=True)
class Evidence:
    """What has been measured of one kernel.

    Gaps in nats; errors are standard errors of means over held-out batches.

    `shadow_gap` = host loss minus shadow loss, kept when TRAINING is over. `dependence` = loss
    without the seed minus loss with it.
    """

    trained_steps: int = 0
    shadow_gap: float = 0.0
    shadow_gap_error: float = 0.0
    dependence: float = 0.0
    dependence_error: float = 0.0
    blended: bool = False


def gate(
    seed: SeedState, evidence: Evidence, epoch: int, gates: GatesSection, *, loss: float
) -> Move | None:
    """The move that the evidence opens for `seed` at the end of an epoch, or None.

    `epoch` counts completed epochs; `loss` is the model's on the held-out split.
    """

    def move(stage: str, reason: str) -> Move:
        return Move(layer=seed.layer, seed=seed.seed, to_stage=stage, reason=reason)  # type: ignore[arg-type]  # a Stage literal

    # first: the kernel is gone, so evidence of any stage is out of date
    if seed.execution == "ERROR_RECOVERY":
        return move("CULLED", f"its kernel failed {seed.errors} times in a row")
    if seed.stage == "TRAINING":
        return _training(evidence, gates, abs(loss), move)
    return _later(seed, evidence, epoch - seed.stage_epoch, gates, move)


def _training(
    evidence: Evidence, gates: GatesSection, loss: float, move: Callable[[str, str], Move]
) -> Move | None:
    figure = (
        f"shadow gap {evidence.shadow_gap:.3f} ± {evidence.shadow_gap_error:.3f} nats after "
        f"{evidence.trained_steps} steps"
    )
    # all bounds: z alone lets tiny, certain wins through, the others alone let noise through
    better = evidence.shadow_gap > max(
        gates.z * evidence.shadow_gap_error,
        gates.min_gap,
        gates.min_gain * loss,
    )
    if evidence.trained_steps >= gates.min_training_steps and better:
        return move("BLENDING", figure)
    return (
        # asked last: a kernel that wins at the end of its budget still blends
        move("CULLED", f"budget spent: {figure}")
        if evidence.trained_steps >= gates.max_training_steps
        else None
    )


def _later(
    seed: SeedState,
    evidence: Evidence,
    rested: int,
    gates: GatesSection,
    move: Callable[[str, str], Move],
) -> Move | None:
    """The stages after TRAINING; `rested` counts the epochs in the present one."""
    if seed.stage == "BLENDING":
        return (
            move("SHADOWING", f"alpha reached {seed.alpha_target:g}") if evidence.blended else None
        )
    if seed.stage in ("SHADOWING", "PROBATIONARY"):
        figure = (
            f"loss without it minus with it {evidence.dependence:.3f} ± "
            f"{evidence.dependence_error:.3f} nats"
        )
        # telemetry asks within an epoch too, when the evidence may be of the stage before
        if rested >= 1 and evidence.dependence < -gates.z * evidence.dependence_error:
            return move("CULLED", f"it hurts: {figure}")
        return (
            # no gate leads to FOSSILIZED: to keep a kernel is Tamiyo's or a person's decision
            move("PROBATIONARY", figure)
            if seed.stage == "SHADOWING" and rested >= gates.shadow_epochs
            else None
        )
    if seed.stage == "CULLED":
        return move("EMBARGOED", "the slot rests")
    if seed.stage == "EMBARGOED" and rested >= gates.embargo_epochs:
        return move("DORMANT", f"rested for {rested} epochs")
    return None
