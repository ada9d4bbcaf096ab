"""Steps: micro-batches, precision, and what a step leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.tolaria.step.evaluation import evaluate
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper, numerics_of
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.unit.kasmina.cases import CASES, Case, graft, recipe, staged

CASE = Case(
    lambda: CASES["sequence"].make().eval(), (7, 8), (("0", 1), ("4", 2))
)  # in evaluation mode: no dropout


def batch() -> tuple[Tensor, Tensor]:
    return CASE.inputs(12), torch.randint(0, 5, (12,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("parts", [2, 5])
def test_micro_batches_give_the_step_of_the_whole_batch(parts: int) -> None:
    """Loss, accuracy, gradient norm and the weights of host, live and TRAINING kernels are those of
    one batch, up to rounding, also unevenly split.
    """
    ends = []
    for accumulate in (1, parts):
        settings = recipe(batch_size=12, accumulate=accumulate)
        growing = GrowingModel(
            germinate(CASE.host(), seeds=3),
            training=KernelTraining(),
            numerics=numerics_of(settings.run),
        )
        graft(growing, CASE.places[0])
        graft(growing, CASE.places[1], alpha=0.5)
        stepper = Stepper(growing, settings, 10, Method(CLASSIFICATION))
        state = staged("TRAINING", CASE.places[0])
        state = replace(state, seeds=(*state.seeds, *staged("PROBATIONARY", CASE.places[1]).seeds))
        figures = stepper.step(state, 0, batch(), sample=True)
        assert growing.kernels[CASE.places[0]].trained == 1
        ends.append(
            (figures, {key: value.clone() for key, value in growing.module.state_dict().items()})
        )
    (whole, expected), (split, found) = ends
    assert split.loss == pytest.approx(whole.loss, rel=1e-5)
    assert split.accuracy == pytest.approx(whole.accuracy)
    assert split.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
    for key, value in expected.items():
        assert torch.allclose(found[key], value, atol=2e-5), key


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_reaches_every_pass(precision: str) -> None:
    """Live, shadow and validation passes run in the recipe's precision, parameters and losses stay
    in float32, and the model learns.
    """
    settings = recipe(batch_size=12, precision=precision)
    growing = GrowingModel(
        germinate(CASE.host(), seeds=3),
        training=KernelTraining(),
        numerics=numerics_of(settings.run),
    )
    graft(growing, CASE.places[0])
    stepper, seen = Stepper(growing, settings, 60, Method(CLASSIFICATION)), set[torch.dtype]()
    growing.module.get_submodule("0").register_forward_hook(
        lambda _, __, output: seen.add(output.dtype)
    )
    first = evaluate(growing, batch(), CLASSIFICATION)
    losses = [
        stepper.step(staged("TRAINING", CASE.places[0]), step, batch(), sample=True).loss
        for step in range(60)
    ]
    assert evaluate(growing, batch(), CLASSIFICATION).loss < first.loss
    assert losses[-1] < losses[0]
    assert seen == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in growing.module.parameters()} == {torch.float32}
    assert growing.kernels[CASE.places[0]].trained == 60
