"""Whether a kernel does what its blueprint says: shapes, batches, gradients, finite values, cost,
determinism.

Cost is counted at the size that the blueprint names. Numbers are compared at no more than 8
positions along a dimension, or what the window needs: it is the same graph with the same weights,
and a large image would take minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper.events.records import Check
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.value import Value
from esper.kernels.build import KernelModule, module_of

CheckName = Literal["shape", "dynamic_batch", "gradient", "finite", "budget", "determinism"]
# 1 and an odd number: vectorised loops treat what is left over differently
BATCHES = (1, 2, 7, 32)
POSITIONS = 8
_MORE = (3, 5)
# central differences in float64 err by about step^2 and 2e-16 / step: together below 1e-9 here
_STEP = 1e-6
# far above those errors, far below those of a wrong backward
_GRADIENT_TOLERANCE = 1e-6
_ROUNDING = 1e-5  # float32, between one sample alone and the same one in a batch
_LOUD = 1e3


def verify(ir: BlueprintIR, prepared: nn.Module, budget: Budget) -> tuple[Check, ...]:
    """Every check of a kernel, the failed ones too.

    Args:
        ir: what the kernel should be.
        prepared: what will run: the built module or its exported form, with the initial weights.
        budget: what it may cost.
    """
    small = at_size(ir, ir.geometry.cut(POSITIONS))
    with _awake(prepared):
        numbers = (
            _shape(small, prepared),
            _dynamic_batch(small, prepared),
            _gradient(small),
            _finite(small, prepared),
        )
    return (
        *numbers,
        _budget(ir, budget),
        _determinism(small),
    )


@contextmanager
def _awake(module: nn.Module) -> Iterator[nn.Module]:
    """Within: what starts at zero has other numbers, since a kernel that writes zeros is right for
    any input and batch. The built module and its exported form get the same.
    """
    asleep = [parameter for parameter in module.parameters() if not parameter.any()]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in asleep:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    try:
        yield module
    finally:
        with torch.no_grad():
            for parameter in asleep:
                parameter.zero_()


def at_size(ir: BlueprintIR, size: tuple[int, ...]) -> BlueprintIR:
    """The same kernel on an input of another size.

    Raises:
        BuildError: there its positions would not be those of the layer, or the layer would have no
            output.
    """
    return replace(ir, geometry=replace(ir.geometry, size=size))


def _check(name: CheckName, *, passed: bool, detail: str) -> Check:
    return Check(name=name, passed=passed, detail=detail)


def _inputs(
    ir: BlueprintIR, batch: int, *, dtype: torch.dtype = torch.float32, number: int = 0
) -> Tensor:
    """[batch, *ir.reads.shape] from the standard normal distribution, the same each time."""
    return torch.randn(
        batch, *ir.reads.shape, generator=torch.Generator().manual_seed(1 + number), dtype=dtype
    )


@torch.no_grad()
def _shape(ir: BlueprintIR, prepared: nn.Module) -> Check:
    """The shape of the output.

    For convolution and sequence kernels on another size too, since they have to run on any.
    """
    runs = [(ir, prepared)]
    if ir.geometry.size:
        other = at_size(
            ir, tuple(size + more for size, more in zip(ir.geometry.size, _MORE, strict=False))
        )
        runs.append((other, module_of(other)))
    shapes = [(blueprint, tuple(module(_inputs(blueprint, 3)).shape)) for blueprint, module in runs]
    passed = all(shape == (3, *blueprint.writes.shape) for blueprint, shape in shapes)
    return _check(
        "shape",
        passed=passed,
        detail=", ".join(
            f"{_by(3, blueprint.reads)} gives {' x '.join(map(str, shape))}"
            for blueprint, shape in shapes
        ),
    )


def _by(batch: int, value: Value) -> str:
    return " x ".join(map(str, (batch, *value.shape)))


@torch.no_grad()
def _dynamic_batch(ir: BlueprintIR, prepared: nn.Module) -> Check:
    """Any batch size runs, and a sample's result does not depend on its neighbours."""
    x = _inputs(ir, max(BATCHES))
    with _awake(module_of(ir)) as module:
        # the eager module one by one: shows a fixed batch and a wrong graph alike
        alone = torch.cat([module(row[None]) for row in x])
    worst = max((prepared(x[:batch]) - alone[:batch]).abs().max().item() for batch in BATCHES)
    return _check(
        "dynamic_batch",
        passed=worst <= _ROUNDING * max(1.0, alone.abs().max().item()),
        detail=f"largest difference {worst:.1e}",
    )


def _gradient(ir: BlueprintIR) -> Check:
    """Backward against central differences in float64, along a random direction for each parameter
    and for the input.

    Weights are moved away from their initial values first: where one starts at 0, the gradients
    behind it would be 0 too.
    """
    module = module_of(ir, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1
            )
    x = _inputs(ir, 4, dtype=torch.float64).requires_grad_()
    weights = torch.randn(4, *ir.writes.shape, generator=generator, dtype=torch.float64)

    def objective() -> Tensor:
        return torch.sum(module(x) * weights)

    variables = dict(module.named_parameters()) | {"input": x}
    gradients = torch.autograd.grad(objective(), list(variables.values()))
    worst, where = 0.0, "input"
    for (name, variable), gradient in zip(variables.items(), gradients, strict=True):
        direction = torch.randn(variable.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            variable.add_(direction, alpha=_STEP)
            above = objective()
            variable.sub_(direction, alpha=2 * _STEP)
            below = objective()
            variable.add_(direction, alpha=_STEP)
        numeric = ((above - below) / (2 * _STEP)).item()
        # relative to the whole gradient: along one direction the true value may be near 0
        error = abs(numeric - (gradient * direction).sum().item()) / max(
            1.0, gradient.norm().item()
        )
        if not error <= worst:  # a NaN is the worst
            worst, where = error, name
    return _check(
        "gradient",
        passed=worst <= _GRADIENT_TOLERANCE,
        detail=f"largest relative error {worst:.1e} ({where})",
    )


def _finite(ir: BlueprintIR, prepared: nn.Module) -> Check:
    """Finite results for quiet, loud and zero inputs, and finite gradients."""
    faults = list(_not_finite(ir, prepared))
    return _check(
        "finite", passed=not faults, detail="; ".join(faults) or "outputs and gradients are finite"
    )


def _not_finite(ir: BlueprintIR, prepared: nn.Module) -> Iterator[str]:
    x = _inputs(ir, 8, number=1)
    with torch.no_grad():
        for name, factor in (("zero", 0.0), ("ordinary", 1.0), ("loud", _LOUD)):
            if not prepared(x * factor).isfinite().all():
                yield f"output for {name} inputs is not finite"
    with _awake(module_of(ir)) as module:
        gradients = torch.autograd.grad(module(x).square().mean(), list(module.parameters()))
    for name, gradient in zip(dict(module.named_parameters()), gradients, strict=True):
        if not gradient.isfinite().all():
            yield f"gradient of {name} is not finite"


def _budget(ir: BlueprintIR, budget: Budget) -> Check:
    """Cost as torch counts it, against the blueprint's own count and the budget."""
    # on meta at full size: no memory, no computation, and the same operators
    module = module_of(ir, device="meta")
    parameters = sum(
        parameter.numel() for parameter in module.parameters() if parameter.requires_grad
    )
    flops = counted_flops(module)
    costs = ((parameters, flops), (ir.parameters, ir.flops), (budget.parameters, budget.flops))
    passed = costs[0] == costs[1] and ir.fits(budget)
    counted, own, most = (f"{p} parameters, {f} operations" for p, f in costs)
    return _check(
        "budget", passed=passed, detail=f"counted {counted}; blueprint {own}; budget {most}"
    )


@torch.no_grad()
def counted_flops(module: KernelModule) -> int:
    """Floating-point operations of a forward for one sample of the blueprint's size, as torch
    counts them on a module without weights.
    """
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *module.ir.reads.shape, device="meta"))
    return int(counter.get_total_flops())


@torch.no_grad()
def _determinism(ir: BlueprintIR) -> Check:
    """Two builds have the same bits."""
    first, second = module_of(ir), module_of(ir)
    x = _inputs(ir, 5)
    same = all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    ) and torch.equal(first(x), second(x))
    return _check(
        "determinism",
        passed=same,
        detail="two builds are bit-identical" if same else "two builds differ",
    )
