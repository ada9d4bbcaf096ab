"""A kernel that fails does not hurt the step, and the step says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import GrowingModel, KernelTraining, Place, germinate
from esper.kasmina.numerics import Numerics
from esper.tolaria.step.evaluation import evaluate, with_shadow, without
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import StepFigures, Stepper, numerics_of
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.unit.kasmina.cases import CASES, Case, graft, kernel, recipe, staged

CASE = CASES["strided"]
OTHER, PLACE = CASE.places


class Spoilt(nn.Module):
    """A kernel that works, and spoils what it gives while `spoils` is set."""

    def __init__(self, inner: nn.Module, spoil: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = inner
        self.spoil = spoil
        self.spoils = True

    def forward(self, x: Tensor) -> Any:
        torch.rand(3)  # it moves the random stream before it fails
        result = self.inner(x)
        return self.spoil(result) if self.spoils else result


class _Backward(torch.autograd.Function):
    """The identity, with a backward that gives the gradient times `factor`, or raises when that is
    0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if not ctx.factor:
            raise RuntimeError("no way back")
        return gradients[0] * ctx.factor, None


def backward(factor: float) -> Callable[[Tensor], Any]:
    return lambda k: _Backward.apply(k, factor)


def _raise(_: Tensor) -> Tensor:
    raise ValueError("the kernel broke")


SPOILS: dict[str, tuple[Callable[[Tensor], Any], str, str]] = {
    "raises": (_raise, "FORWARD", "ValueError: the kernel broke."),
    "shape": (lambda k: k[..., 1:], "FORWARD", "for a chunk of"),
    "type": (lambda k: k.double(), "FORWARD", "torch.float64 for a chunk of torch.float32"),
    "no tensor": (lambda _: None, "FORWARD", "NoneType"),
    "nan": (lambda k: k * math.nan, "NON_FINITE", "The kernel's output was not finite."),
    "inf": (lambda k: k + math.inf, "NON_FINITE", "The kernel's output was not finite."),
    "huge": (
        lambda k: k * 3e38,
        "NON_FINITE",
        "The step was not finite with the kernel, and is without it.",
    ),
    "nan backward": (
        backward(math.nan),
        "NON_FINITE",
        "The step was not finite with the kernel, and is without it.",
    ),
    "raising backward": (
        backward(0),
        "NON_FINITE",
        "The step was not finite with the kernel, and is without it.",
    ),
}


def grown(case: Case = CASE, **run: object) -> tuple[GrowingModel, Stepper]:
    settings = recipe(batch_size=8, **run)
    numerics = numerics_of(settings.run)
    growing = GrowingModel(
        germinate(case.host(), seeds=3), training=KernelTraining(), numerics=numerics
    )
    return growing, Stepper(growing, settings, 100, Method(CLASSIFICATION))


def batch(step: int) -> tuple[Tensor, Tensor]:
    return CASE.inputs(8, step), torch.randint(
        0, 5, (8,), generator=torch.Generator().manual_seed(step)
    )


def spoilt(growing: GrowingModel, place: Place, spoil: Callable[[Tensor], Any]) -> Spoilt:
    return Spoilt(kernel(growing, place), spoil)


def host_of(growing: GrowingModel) -> dict[str, Tensor]:
    return {
        name: value.clone()
        for name, value in growing.module.state_dict().items()
        if "kernel_" not in name
    }


@pytest.mark.parametrize("name", list(SPOILS))
def test_a_failing_live_kernel_leaves_the_step_to_its_fallback(name: str) -> None:
    """With a live kernel that fails at steps 2 and 3, the host's trajectory is that of a run that
    forces the fallback there: also the norms' buffers.

    It is finite, the faults name the seed and are counted, the count starts anew once the kernel
    runs well, and the kernel learns from there.
    """
    spoil, phase, sentence = SPOILS[name]
    ends, told = [], []
    for forcing in (False, True):
        growing, stepper = grown()
        module = spoilt(growing, PLACE, spoil)
        graft(growing, PLACE, module, blend="RESIDUAL", alpha=0.3)
        graft(growing, OTHER, alpha=0.5)
        state = staged("PROBATIONARY", PLACE, OTHER)
        seen: list[StepFigures] = []
        for step in range(6):
            module.spoils = step in (2, 3) and not forcing
            forced = frozenset({PLACE}) if step in (2, 3) and forcing else frozenset[Place]()
            seen.append(stepper.step(state, step, batch(step), sample=False, forced=forced))
        ends.append(
            (
                host_of(growing),
                {key: value.clone() for key, value in module.inner.state_dict().items()},
                {place: kernel.state_dict() for place, kernel in growing.kernels.items()},
            )
        )
        told.append(seen)
    faults = [
        [(one.place, one.phase, one.consecutive) for one in figures.faults] for figures in told[0]
    ]
    assert faults == [[], [], [(PLACE, phase, 1)], [(PLACE, phase, 2)], [], []]
    assert sentence in told[0][2].faults[0].error
    assert not any(figures.faults for figures in told[1])
    for before, after in zip(told[0], told[1], strict=True):
        assert (before.loss, before.accuracy, before.gradient_norm) == (
            after.loss,
            after.accuracy,
            after.gradient_norm,
        )
        assert math.isfinite(before.loss)
    for key, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][key]), key
        assert torch.isfinite(value).all()
    for key, value in ends[0][1].items():
        assert torch.equal(value, ends[1][1][key]), key
    assert ends[0][2] == ends[1][2]
    assert ends[0][2][PLACE]["stepped"] == 4
    assert ends[0][2][PLACE]["errors"] == 0


def test_only_the_kernel_that_is_not_finite_is_blamed() -> None:
    """What a kernel passes on to the next ones is not held against them."""
    growing, stepper = grown()
    graft(growing, OTHER, spoilt(growing, OTHER, lambda k: k * math.nan), alpha=0.5)
    graft(growing, PLACE, alpha=0.5)
    figures = stepper.step(staged("PROBATIONARY", PLACE, OTHER), 0, batch(0), sample=False)
    assert [fault.place for fault in figures.faults] == [OTHER]
    assert growing.kernels[PLACE].stepped == 1


def test_two_failing_kernels_are_both_found() -> None:
    """Two kernels whose backward is not finite are both left out, and the host still takes its
    step.
    """
    growing, stepper = grown()
    for place in (PLACE, OTHER):
        graft(growing, place, spoilt(growing, place, backward(math.nan)), alpha=0.5)
    before = host_of(growing)
    figures = stepper.step(staged("PROBATIONARY", PLACE, OTHER), 0, batch(0), sample=True)
    assert {fault.place for fault in figures.faults} == {PLACE, OTHER}
    after = host_of(growing)
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    assert all(torch.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize(
    "name", [name for name in SPOILS if name != "huge"]
)  # norms scale a huge shadow back to a finite loss
def test_a_failing_training_kernel_loses_its_own_update_alone(name: str) -> None:
    """A TRAINING kernel that fails is not updated, the host and the other kernel are as if nothing
    had happened, and the fault is counted.
    """
    spoil, _, _ = SPOILS[name]
    ends = []
    for spoils in (True, False):
        growing, stepper = grown()
        module = spoilt(growing, PLACE, spoil)
        module.spoils = spoils
        graft(growing, PLACE, module)
        graft(growing, OTHER)
        before = {key: value.clone() for key, value in module.inner.state_dict().items()}
        figures = [
            stepper.step(staged("TRAINING", PLACE, OTHER), step, batch(step), sample=False)
            for step in range(2)
        ]
        after = module.inner.state_dict()
        assert [[(fault.place, fault.consecutive) for fault in one.faults] for one in figures] == (
            [[(PLACE, 1)], [(PLACE, 2)]] if spoils else [[], []]
        )
        assert all(torch.equal(value, after[key]) for key, value in before.items()) == spoils
        assert growing.kernels[PLACE].trained == (0 if spoils else 2)
        ends.append((host_of(growing), growing.kernels[OTHER].slot.kernel.state_dict()))
    for left, right in zip(*ends, strict=True):
        for key, value in left.items():
            assert torch.equal(value, right[key]), key


def test_a_host_that_diverges_is_not_a_kernels_fault() -> None:
    """When the loss is not finite without any kernel either, no kernel is blamed, and none is
    updated.
    """
    growing, stepper = grown()
    graft(growing, PLACE, alpha=0.5)
    graft(growing, OTHER)
    with torch.no_grad():
        growing.host_parameters[-1].fill_(math.nan)
    state = staged("PROBATIONARY", PLACE)
    state = replace(state, seeds=(*state.seeds, *staged("TRAINING", OTHER).seeds))
    figures = stepper.step(state, 0, batch(0), sample=False)
    assert math.isnan(figures.loss)
    assert not figures.faults
    assert all(grown.stepped == 0 for grown in growing.kernels.values())


@pytest.mark.parametrize("name", ["raises", "nan", "huge"])
def test_validation_survives_a_failing_kernel(name: str) -> None:
    """A live kernel that fails in validation is on its fallback for all of it.

    One in a shadow validation shows the host's own loss.
    """
    growing, _ = grown()
    split = (CASE.inputs(40), torch.randint(0, 5, (40,)))
    host = evaluate(growing, split, CLASSIFICATION, batch=8)
    slot = graft(growing, PLACE, spoilt(growing, PLACE, SPOILS[name][0]), alpha=0.5)
    graft(growing, OTHER, alpha=0.0)
    found = evaluate(growing, split, CLASSIFICATION, batch=8)
    assert found.batch_losses == pytest.approx(host.batch_losses)
    assert PLACE in found.failed
    assert without(growing, split, CLASSIFICATION, PLACE).failed == ()
    slot.live = False
    if name != "huge":
        shadow = with_shadow(growing, split, CLASSIFICATION, PLACE)
        assert (
            shadow.batch_losses == with_shadow(growing, split, CLASSIFICATION, OTHER).batch_losses
            or PLACE in shadow.failed
        )
    assert growing.switches.fallback == frozenset()
    assert growing.module.training


def test_an_overflow_in_float16_is_the_kernels_own() -> None:
    """In float16 a kernel whose scaled gradient overflows loses its update alone: the host's step
    goes through, nothing is a fault yet.

    The host's scaler is halved for a live kernel, the kernel's own scale for one in TRAINING; at
    scale 1 it is a fault.
    """
    for stage in ("PROBATIONARY", "TRAINING"):
        growing, stepper = grown(precision="float16")
        assert stepper.scaler is not None
        graft(
            growing,
            PLACE,
            spoilt(growing, PLACE, backward(math.inf)),
            alpha=0.5 if stage == "PROBATIONARY" else None,
        )
        before = host_of(growing)
        scale = stepper.scaler.get_scale()
        figures = stepper.step(staged(stage, PLACE), 0, batch(0), sample=False)
        assert not figures.faults
        assert math.isfinite(figures.gradient_norm)
        assert any(
            not torch.equal(value, host_of(growing)[key])
            for key, value in before.items()
            if "weight" in key
        )
        assert growing.kernels[PLACE].stepped == 0
        if stage == "PROBATIONARY":
            assert stepper.scaler.get_scale() == scale / 2
            stepper.scaler.update(1.0)
        else:
            assert stepper.scaler.get_scale() == scale
            assert growing.kernels[PLACE].scale == 65_536 / 2
            growing.kernels[PLACE].scale = 1.0
        assert [
            fault.phase
            for fault in stepper.step(staged(stage, PLACE), 1, batch(1), sample=False).faults
        ] == ["NON_FINITE"]


def test_kernels_alone_are_checked_and_only_while_they_are_live() -> None:
    """Without live kernels nothing is watched or copied; with one, its output alone is."""
    growing, stepper = grown()
    graft(growing, PLACE)
    stepper.step(staged("TRAINING", PLACE), 0, batch(0), sample=False)
    assert growing.switches.notes.finite == {}
    growing.kernels[PLACE].slot.live = True
    stepper.step(staged("PROBATIONARY", PLACE), 1, batch(1), sample=False)
    assert list(growing.switches.notes.finite) == [PLACE]


def test_counters_are_kept_and_restored() -> None:
    """What a snapshot keeps of a kernel's counts comes back."""
    growing, stepper = grown()
    graft(growing, PLACE, spoilt(growing, PLACE, _raise), alpha=0.5)
    stepper.step(staged("PROBATIONARY", PLACE), 0, batch(0), sample=False)
    counters = growing.kernels[PLACE].state_dict()
    assert counters["errors"] == 1
    again, _ = grown()
    graft(again, PLACE)
    again.kernels[PLACE].load_state_dict(counters)
    assert again.kernels[PLACE].state_dict() == counters
    assert Numerics().precision == "float32"
