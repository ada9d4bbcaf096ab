"""The interpreter against independent formulations in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from esper.errors import BuildError
from esper.karn import FAMILIES, BlueprintIR, Budget, generate
from esper.tezzeret.build import KernelModule, load_weights, module_of, weights_of

Weights = Mapping[str, Tensor]


def make(family: str, in_features: int = 40, out_features: int = 25) -> BlueprintIR:
    """A blueprint of a family with a comfortable budget."""
    ir = generate(in_features=in_features, out_features=out_features, family=family, budget=Budget.of(20_000), seed=3)
    assert ir is not None
    return ir


def awake(ir: BlueprintIR) -> KernelModule:
    """A float64 module whose weights are all away from zero."""
    module = module_of(ir, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.2)
    return module


def _linear(x: Tensor, w: Weights) -> Tensor:
    return x @ w["linear1.weight"].T + w["linear1.bias"]


def _low_rank(x: Tensor, w: Weights) -> Tensor:
    return x @ w["linear1.weight"].T @ w["linear2.weight"].T + w["linear2.bias"]


def _mlp(x: Tensor, w: Weights) -> Tensor:
    return functional.gelu(x @ w["linear1.weight"].T + w["linear1.bias"]) @ w["linear2.weight"].T + w["linear2.bias"]


def _conv1d(x: Tensor, w: Weights) -> Tensor:
    h = x[:, None, :]
    for number in (1, 2, 3):
        kernel = w[f"conv{number}.weight"]
        windows = functional.pad(h, (1, 1)).unfold(2, kernel.shape[2], 2)
        h = (torch.einsum("bclk,ock->bol", windows, kernel) + w[f"conv{number}.bias"][:, None]).clamp(min=0)
    return h.reshape(len(x), -1) @ w["linear1.weight"].T + w["linear1.bias"]


def _gate(x: Tensor, w: Weights) -> Tensor:
    return 2 * x / (1 + torch.exp(-(x @ w["linear1.weight"].T + w["linear1.bias"])))


FORMULAS: dict[str, Callable[[Tensor, Weights], Tensor]] = {
    "linear": _linear,
    "low_rank": _low_rank,
    "mlp": _mlp,
    "conv1d": _conv1d,
    "gate": _gate,
}


@pytest.mark.parametrize(("in_features", "out_features"), [(40, 25), (8, 3), (101, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_computes_its_formula_forward_and_backward(family: str, in_features: int, out_features: int) -> None:
    """Output, and gradients of every parameter and of the input, equal those of the formula written out by hand, in float64."""
    module = awake(make(family, in_features, out_features))
    x = torch.randn(6, module.ir.in_features, dtype=torch.float64, requires_grad=True)
    weights = dict(module.named_parameters())
    ours, theirs = module(x), FORMULAS[family](x, weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    variables = [*weights.values(), x]
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), variables), torch.autograd.grad(theirs.square().sum(), variables), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_agree_with_finite_differences(family: str) -> None:
    """Torch's own gradcheck passes on a small kernel, over the input and every parameter."""
    module = awake(make(family, 9, 2))
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))
        return found

    x = torch.randn(2, module.ir.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blueprints_counts_are_torchs(family: str) -> None:
    """Parameters and operations counted from data alone equal what torch counts on the module, also for a batch."""
    ir = make(family)
    module = module_of(ir)
    assert sum(parameter.numel() for parameter in module.parameters()) == ir.parameters
    assert {name: tuple(parameter.shape) for name, parameter in module.named_parameters()} == ir.parameter_shapes
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(7, ir.in_features))
    assert counter.get_total_flops() == 7 * ir.flops


@pytest.mark.parametrize("family", FAMILIES)
def test_two_builds_have_the_same_bits_and_leave_the_global_stream_alone(family: str) -> None:
    """Initial weights follow from the blueprint's seed only, and nobody else's random numbers move."""
    ir = make(family)
    before = torch.get_rng_state()
    first = module_of(ir)
    torch.rand(3)
    second = module_of(ir)
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    module_of(ir, device="meta")
    module_of(ir)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_are_distributed_as_torchs_own() -> None:
    """Conv1d and Linear draw uniformly within 1/sqrt(fan in): the same bound and spread as freshly made torch layers."""
    ir = make("conv1d", 100, 25)
    module = module_of(ir)
    torch.manual_seed(0)
    for name, theirs in (("conv2", nn.Conv1d(25, 25, 3)), ("linear1", nn.Linear(325, 25))):
        for parameter in ("weight", "bias"):
            ours, reference = getattr(module.get_submodule(name), parameter).detach(), getattr(theirs, parameter).detach()
            assert ours.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.15)
            assert ours.std().item() == pytest.approx(reference.std().item(), rel=0.35)


def test_kernels_start_where_their_family_says() -> None:
    """Residual kernels start at nothing, and the gate as the host's own chunk."""
    x = torch.randn(4, 40)
    assert not module_of(make("low_rank"))(x).any()
    assert not module_of(make("linear"))(x).any()
    chunk = torch.randn(4, 25)
    assert torch.equal(module_of(make("gate"))(chunk), chunk)
    assert module_of(make("conv1d"))(x).any()


def test_a_module_on_the_meta_device_has_shapes_only() -> None:
    """The trainer can size its slots without allocating weights."""
    ir = make("conv1d")
    module = module_of(ir, device="meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module(torch.empty(5, 40, device="meta")).shape == (5, 25)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_travel_from_one_module_to_another(family: str) -> None:
    """What weights_of takes, load_weights gives another module of the same blueprint; the copies are independent."""
    ir = make(family)
    source, target = awake(ir).float(), module_of(ir)
    weights = weights_of(source)
    load_weights(target, weights)
    x = torch.randn(3, ir.in_features)
    expected = source(x).detach()
    assert torch.equal(target(x), expected)
    with torch.no_grad():
        next(source.parameters()).zero_()
    assert torch.equal(target(x), expected)


def test_wrong_weights_are_refused() -> None:
    """Names and shapes have to be the kernel's."""
    module = module_of(make("linear"))
    with pytest.raises(BuildError, match="The weights are for other"):
        load_weights(module, {"other": np.zeros(3, dtype=np.float32)})
    with pytest.raises(BuildError, match=r"linear1.weight have shape \(1, 1\)"):
        load_weights(module, weights_of(module) | {"linear1.weight": np.zeros((1, 1), dtype=np.float32)})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kernel_copies_and_traces_into_plain_torch(family: str) -> None:
    """Deepcopy keeps the output, and symbolic tracing leaves a module in which nothing of Esper is left."""
    module = awake(make(family))
    x = torch.randn(3, module.ir.in_features, dtype=torch.float64)
    traced = torch.fx.symbolic_trace(module)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    assert torch.equal(traced(x), module(x))
    assert not [child for child in traced.modules() if type(child).__module__.startswith("esper")]
