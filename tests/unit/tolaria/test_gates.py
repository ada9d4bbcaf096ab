from __future__ import annotations

import math

import pytest
import torch

from esper.lifecycle import SeedState
from esper.tolaria.recipes.recipe import GatesSection
from esper.tolaria.step.evaluation import paired
from esper.tolaria.step.gates import Evidence, gate
from esper.tolaria.step.stepping import batch_order, stream_seed

GATES = GatesSection(
    min_training_steps=100, max_training_steps=300, z=2.0, shadow_epochs=2, embargo_epochs=3
)


@pytest.mark.parametrize(
    ("stage", "evidence", "epoch", "expected"),
    [
        ("TRAINING", Evidence(100, 0.3, 0.1), 5, "BLENDING"),
        ("TRAINING", Evidence(99, 0.3, 0.1), 5, None),
        ("TRAINING", Evidence(100, 0.2, 0.1), 5, None),
        ("TRAINING", Evidence(300, 0.2, 0.1), 5, "CULLED"),
        ("TRAINING", Evidence(300, 0.3, 0.1), 5, "BLENDING"),
        ("BLENDING", Evidence(blended=False), 5, None),
        ("BLENDING", Evidence(blended=True), 5, "SHADOWING"),
        ("SHADOWING", Evidence(dependence=0.1, dependence_error=0.1), 1, None),
        ("SHADOWING", Evidence(dependence=0.1, dependence_error=0.1), 2, "PROBATIONARY"),
        ("SHADOWING", Evidence(dependence=-0.3, dependence_error=0.1), 2, "CULLED"),
        ("PROBATIONARY", Evidence(dependence=-0.3, dependence_error=0.1), 9, "CULLED"),
        ("PROBATIONARY", Evidence(dependence=0.3, dependence_error=0.1), 9, None),
        ("CULLED", Evidence(), 1, "EMBARGOED"),
        ("EMBARGOED", Evidence(), 2, None),
        ("EMBARGOED", Evidence(), 3, "DORMANT"),
        ("DORMANT", Evidence(), 9, None),
        ("FOSSILIZED", Evidence(dependence=-9.0), 9, None),
    ],
)
def test_gates(stage: str, evidence: Evidence, epoch: int, expected: str | None) -> None:
    """Each gate opens exactly on its evidence."""
    move = gate(SeedState("a", 0, stage=stage), evidence, epoch, GATES, loss=1.0)  # type: ignore[arg-type]
    assert (move.to_stage if move else None) == expected


@pytest.mark.parametrize(("loss", "opens"), [(29.0, True), (31.0, False), (-31.0, False)])
def test_a_win_is_held_against_the_loss_too(loss: float, *, opens: bool) -> None:
    """Losses have all kinds of units: a gap of 0.3 is 1 % of a loss of 30."""
    gates = GATES.model_copy(update={"min_gain": 0.01})
    evidence = Evidence(100, 0.3, 0.01)
    move = gate(SeedState("a", 0, stage="TRAINING"), evidence, 5, gates, loss=loss)
    assert (move is not None) is opens


@pytest.mark.parametrize("stage", ["TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"])
def test_a_seed_on_its_fallback_is_culled(stage: str) -> None:
    """Whatever the evidence says, a seed in ERROR_RECOVERY is culled at the end of the epoch, with
    the number of its failures.
    """
    seed = SeedState("a", 0, stage=stage, execution="ERROR_RECOVERY", errors=3)  # type: ignore[arg-type]
    move = gate(seed, Evidence(1000, 9.0, 0.1, 9.0, 0.1, blended=True), 9, GATES, loss=1.0)
    assert move is not None
    assert (move.layer, move.seed, move.to_stage, move.reason) == (
        "a",
        0,
        "CULLED",
        "its kernel failed 3 times in a row",
    )


def test_paired_difference_and_its_error() -> None:
    """The paired test uses the differences of the same batches: their mean, and the standard error
    of that mean.
    """
    mean, error = paired([1.0, 2.0, 4.0], [0.5, 1.0, 2.5])
    assert mean == pytest.approx(1.0)
    assert error == pytest.approx(torch.tensor([0.5, 1.0, 1.5]).std().item() / math.sqrt(3))
    assert paired([1.0], [0.5]) == (0.5, math.inf)


def test_batch_order_is_a_function_of_seed_and_epoch_alone() -> None:
    """The order of batches does not depend on, or move, the global generator; epochs differ.

    Each sample comes at most once.
    """
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = batch_order(0, 3, 1050, 100)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(batch_order(0, 3, 1050, 100), first)
    assert not torch.equal(batch_order(0, 4, 1050, 100), first)
    assert torch.equal(batch_order(0, 3, 1050, 100, order=0), first)
    assert not torch.equal(batch_order(0, 3, 1050, 100, order=1), first)
    assert first.shape == (10, 100)
    assert len(first.unique()) == 1000
    assert stream_seed(0, "a", 1) != stream_seed(0, "a", 2)
