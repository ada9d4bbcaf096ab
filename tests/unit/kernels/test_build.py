"""The interpreter against independent formulations in plain torch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper.errors import BuildError
from esper.events.geometry import outputs, parse
from esper.karn import BlueprintIR
from esper.karn.operators import Operator
from esper.karn.templates import families_for
from esper.karn.value import Value
from esper.kernels.build import KernelModule, module_of, weights_of
from esper.kernels.operator_modules import layer_of
from tests.unit.karn.cases import CASES, blueprint
from tests.unit.kernels.formulas import AT_POSITIONS, FORMULAS, Weights, causal_attention


def make(family: str, in_features: int = 40, out_features: int = 25) -> BlueprintIR:
    """A blueprint of features with a comfortable budget."""
    return blueprint(family, in_features=in_features, out_features=out_features)


def awake(ir: BlueprintIR) -> KernelModule:
    """A float64 module whose weights are all away from zero."""
    module = module_of(ir, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.2
            )
    return module


def _assert_same(
    module: KernelModule, formula: Callable[[Tensor, Weights], Tensor], *shape: int
) -> None:
    """Output and every gradient of the module equal those of the formula, in float64."""
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    weights = dict(module.named_parameters())
    ours, theirs = module(x), formula(x, weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    variables = [*weights.values(), x]
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), variables),
        torch.autograd.grad(theirs.square().sum(), variables),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("in_features", "out_features"), [(40, 25), (8, 3), (101, 2)])
@pytest.mark.parametrize("family", families_for("features"))
def test_each_family_computes_its_formula_forward_and_backward(
    family: str, in_features: int, out_features: int
) -> None:
    """Output, and gradients of every parameter and of the input, equal those of the formula written
    out by hand, in float64.
    """
    module = awake(make(family, in_features, out_features))
    _assert_same(module, FORMULAS[family], 6, module.ir.in_features)


@pytest.mark.parametrize(("in_features", "out_features"), [(9, 3), (24, 8)])
@pytest.mark.parametrize(("family", "layer"), [case for case in CASES if case[1]])
def test_families_at_positions_compute_their_formula(
    family: str, layer: str, in_features: int, out_features: int
) -> None:
    """The same for sequences and convolutions, at the blueprint's size and at another one.

    Windows are summed by hand.
    """
    module = awake(blueprint(family, layer, in_features=in_features, out_features=out_features))
    geometry = parse(layer) if module.ir.tap == "LAYER_INPUT" else outputs(parse(layer))
    for more in (0, 3):
        here = replace(geometry, size=tuple(size + more for size in geometry.size))
        if here.layout == "sequence":
            causal = (family, here.kind) == ("attention", "causal")
            formula = causal_attention if causal else FORMULAS[family]
            _assert_same(module, formula, 2, *here.size, module.ir.in_features)
        else:
            _assert_same(
                module,
                partial(AT_POSITIONS[family], geometry=here),
                2,
                module.ir.in_features,
                *here.size,
            )


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_gradients_agree_with_finite_differences(family: str, layer: str) -> None:
    """Torch's own gradcheck passes on a small kernel, over the input and every parameter."""
    module = awake(blueprint(family, layer))
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (x,)
        )
        return found

    x = torch.randn(
        2,
        *module.ir.reads.shape,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(1),
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(call, (x, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_the_blueprints_counts_are_torchs(family: str, layer: str) -> None:
    """Parameters and operations counted from data alone equal what torch counts on the module, also
    for a batch.
    """
    ir = blueprint(family, layer, in_features=24, out_features=12)
    module = module_of(ir)
    assert sum(parameter.numel() for parameter in module.parameters()) == ir.parameters
    assert {
        name: tuple(parameter.shape) for name, parameter in module.named_parameters()
    } == ir.parameter_shapes
    with FlopCounterMode(display=False) as counter:
        assert module(torch.zeros(7, *ir.reads.shape)).shape == (7, *ir.writes.shape)
    assert counter.get_total_flops() == 7 * ir.flops


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_two_builds_have_the_same_bits_and_leave_the_global_stream_alone(
    family: str, layer: str
) -> None:
    """Initial weights follow from the blueprint's seed only, and nobody else's random
    numbers move.
    """
    ir = blueprint(family, layer)
    before = torch.get_rng_state()
    first = module_of(ir)
    torch.rand(3)
    second = module_of(ir)
    torch.set_rng_state(before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    module_of(ir, device="meta")
    module_of(ir)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_are_distributed_as_torchs_own() -> None:
    """Convolutions and Linear draw uniformly within 1/sqrt(fan in): the same bound and spread as
    freshly made torch layers.
    """
    module, mlp = module_of(make("conv1d", 100, 25)), module_of(make("mlp", 100, 25))
    hidden = mlp.ir.parameter_shapes["linear1.bias"][0]
    upsampling = "conv_transpose2d k4x4 s2x2 p1x1 o0x0 d1x1 g1 in 4x4"
    image = module_of(blueprint("conv2d", upsampling, in_features=40, out_features=25))
    torch.manual_seed(0)
    for name, theirs in (
        ("conv2", nn.Conv1d(25, 25, 3)),
        ("linear1", nn.Linear(100, hidden)),
        ("conv1", nn.ConvTranspose2d(40, image.ir.parameter_shapes["conv1.weight"][1], 4)),
    ):
        module = {"conv1": image, "linear1": mlp}.get(name, module)
        for parameter in ("weight", "bias"):
            ours, reference = (
                getattr(module.get_submodule(name), parameter).detach(),
                getattr(theirs, parameter).detach(),
            )
            assert ours.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.15)
            assert ours.std().item() == pytest.approx(reference.std().item(), rel=0.35)


def test_kernels_start_where_their_family_says() -> None:
    """Residual kernels start at nothing, and the gate as the host's own chunk."""
    x = torch.randn(4, 40)
    for family in ("linear", "low_rank", "mlp", "conv1d"):
        assert not module_of(make(family))(x).any(), family
    chunk = torch.randn(4, 25)
    assert torch.equal(module_of(make("gate"))(chunk), chunk)


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_kernels_start_harmless_or_random_as_their_family_says(family: str, layer: str) -> None:
    """Residual kernels write zeros in the beginning, gates the host's chunk, and the others
    something of their own.
    """
    ir = blueprint(family, layer)
    x = torch.randn(4, *ir.reads.shape)
    found = module_of(ir)(x)
    if ir.blend == "RESIDUAL":
        assert not found.any()
    elif ir.tap == "HOST_CHUNK":
        assert torch.equal(found, x)
    else:
        assert found.std() > 0.01


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_a_module_on_the_meta_device_has_shapes_only(family: str, layer: str) -> None:
    """The trainer can size its slots without allocating weights.

    What it fills then holds nothing but parameters.
    """
    ir = blueprint(family, layer)
    module = module_of(ir, device="meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    assert set(module.state_dict()) == set(ir.parameter_shapes)
    assert module(torch.empty(5, *ir.reads.shape, device="meta")).shape == (5, *ir.writes.shape)


@pytest.mark.parametrize("family", families_for("features"))
def test_kernels_of_features_work_at_each_position(family: str) -> None:
    """On [batch, length, features] the result is that of each position by itself, also for the
    family that looks along the features.
    """
    module = awake(make(family))
    x = torch.randn(3, 5, module.ir.in_features, dtype=torch.float64)
    expected = torch.stack([module(x[:, position]) for position in range(5)], 1)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(
    ("family", "layer"), [case for case in CASES if parse(case[1] or "").layout == "conv2d"]
)
def test_the_memory_format_of_the_input_is_kept(family: str, layer: str) -> None:
    """channels_last in, channels_last out, and contiguous likewise, with the same values."""
    module = awake(blueprint(family, layer))
    x = torch.randn(2, *module.ir.reads.shape, dtype=torch.float64)
    plain, last = module(x), module(x.to(memory_format=torch.channels_last))
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    torch.testing.assert_close(plain, last)


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_weights_are_copies_by_name(family: str, layer: str) -> None:
    """weights_of gives every parameter, and what becomes of the module does not change what was
    given.
    """
    module = awake(blueprint(family, layer)).float()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    weights = weights_of(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert weights.keys() == before.keys()
    assert all(torch.equal(torch.from_numpy(weights[name]), before[name]) for name in before)


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_a_kernel_copies_and_traces_into_plain_torch(family: str, layer: str) -> None:
    """Deepcopy and pickle keep the output, and symbolic tracing leaves a module for any size in
    which nothing of Esper is left.
    """
    module = awake(blueprint(family, layer))
    more = tuple(size + 2 for size in module.ir.geometry.size)
    traced = torch.fx.symbolic_trace(module)
    for ir in (module.ir, replace(module.ir, geometry=replace(module.ir.geometry, size=more))):
        x = torch.randn(3, *ir.reads.shape, dtype=torch.float64)
        assert torch.equal(copy.deepcopy(module)(x), module(x))
        assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))  # noqa: S301  # our own
        assert torch.equal(traced(x), module(x))
    assert not [child for child in traced.modules() if type(child).__module__.startswith("esper")]


def test_an_operator_that_nobody_can_build_is_refused() -> None:
    """An operator that is no data of the whitelist gets a sentence, not a module."""

    class Other(Operator):
        OP = "other"

        def output(self, *inputs: Value) -> Value:
            return inputs[0]

    with pytest.raises(BuildError, match="cannot build the operator 'other'"):
        layer_of(Other(), (Value("features", 3),), "cpu")
