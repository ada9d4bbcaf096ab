"""Verification catches what is wrong, and compilation tries again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.clock import ManualClock, SystemClock
from esper.errors import BuildError
from esper.events.geometry import parse
from esper.karn import BlueprintIR, Budget, Node
from esper.karn.operators import Conv1d, Linear, Multiply, Scale
from esper.kernels.build import KernelModule, module_of
from esper.tezzeret.compilation import AttemptStarted, Compiled, Failed, Rejected
from esper.tezzeret.compile import CONFIGURATIONS, Configuration, compile_kernel, latency_us
from esper.tezzeret.verify import verify
from esper.urza.artefact import read
from tests.unit.karn.cases import CASES, blueprint

BUDGET = Budget.of(20_000)
News = AttemptStarted | Failed | Rejected


def make(family: str, layer: str = "") -> BlueprintIR:
    """A small blueprint."""
    return blueprint(family, layer)


def compiled(
    ir: BlueprintIR, *configurations: Configuration, budget: Budget = BUDGET
) -> tuple[Compiled | None, list[News]]:
    """The outcome of a compilation, with what it told."""
    heard: list[News] = []
    try:
        kernel = compile_kernel(
            ir,
            budget,
            clock=SystemClock(),
            progress=heard.append,
            configurations=configurations or CONFIGURATIONS,
        )
    except BuildError:
        return None, heard
    return kernel, heard


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_every_family_passes_every_check_in_its_exported_form(family: str, layer: str) -> None:
    """The first configuration succeeds, all six checks hold, and the sealed artefact is one that
    Urza accepts.
    """
    ir = make(family, layer)
    kernel, heard = compiled(ir, budget=Budget.of(20_000, ir.writes.positions))
    assert kernel is not None
    assert heard == [AttemptStarted(1, "exported")]
    assert [check.name for check in kernel.checks] == [
        "shape",
        "dynamic_batch",
        "gradient",
        "finite",
        "budget",
        "determinism",
    ]
    assert all(check.passed for check in kernel.checks)
    assert kernel.latency_us > 0
    assert (
        read(
            kernel.sealed.content, kernel_id=kernel.sealed.kernel_id, sha256=kernel.sealed.sha256
        ).ir
        == ir
    )


def test_a_large_image_is_verified_at_a_smaller_size_and_costed_at_its_own() -> None:
    """What it costs is counted for every position of 224 x 224.

    Numbers are compared on few, and on a second size.
    """
    ir = make("conv2d", "conv2d k7x7 s2x2 p3x3 d1x1 g1 in 224x224")
    checks = {
        check.name: check
        for check in verify(ir, module_of(ir), Budget.of(20_000, ir.writes.positions))
    }
    assert all(check.passed for check in checks.values())
    assert f"counted {ir.parameters} parameters, {ir.flops} operations" in checks["budget"].detail
    assert (
        checks["shape"].detail
        == "3 x 9 x 11 x 11 gives 3 x 3 x 6 x 6, 3 x 9 x 14 x 16 gives 3 x 3 x 7 x 8"
    )
    assert ir.flops > 112 * 112 * ir.parameter_shapes["conv1.weight"][0] * 2 * 9 * 49


def test_a_graph_that_fits_one_size_only_is_refused() -> None:
    """A second convolution with a stride writes the right positions for one input.

    On another size it would not.
    """
    geometry = parse("conv1d k3 s2 p1 d1 g1 in 2")
    ir = BlueprintIR(
        "test", 4, 3, "LAYER_INPUT", "LERP", 1.0, 0, (Node("conv1", Conv1d(3, 2)),), geometry
    )
    with pytest.raises(BuildError, match="has to write conv1d"):
        verify(ir, module_of(ir), BUDGET)
    kernel, heard = compiled(ir)
    assert kernel is None
    assert [type(news) for news in heard] == [AttemptStarted, Failed] * 2


def test_a_kernel_that_fails_at_another_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape check runs the kernel on a second number of positions."""
    ir = make("attention", "sequence in 6")
    forward = KernelModule.forward
    monkeypatch.setattr(KernelModule, "forward", lambda module, x: forward(module, x)[:, :6])
    failed = {
        check.name for check in verify(ir, module_of(ir), Budget.of(20_000, 6)) if not check.passed
    }
    assert failed == {"shape"}


def test_many_positions_are_timed_with_fewer_samples() -> None:
    """The latency stands for 32 samples also where only one is run: on a clock that every forward
    moves by one second, 32 s.
    """
    clock = ManualClock()
    ir = make("pool", "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 900x900")
    module = module_of(ir)
    batches: list[int] = []

    def forward(x: Tensor) -> Tensor:
        batches.append(len(x))
        clock.advance(1.0)
        return x

    module.forward = forward  # type: ignore[method-assign]
    assert latency_us(module, clock) == pytest.approx(32e6)
    assert set(batches) == {1}
    assert len(batches) == 5 + 3


def _refuse(module: KernelModule) -> nn.Module:
    raise RuntimeError(f"no export for {module.ir.family} today\nand a second line")


def test_a_failed_attempt_is_told_and_the_next_configuration_is_tried() -> None:
    """Where export fails, the eager module is verified in its place.

    The failure has its sentence and its whole diagnostic.
    """
    kernel, heard = compiled(make("mlp"), Configuration("exported", _refuse), CONFIGURATIONS[1])
    assert kernel is not None
    assert (kernel.attempt, kernel.configuration) == (2, "eager")
    assert [type(news) for news in heard] == [AttemptStarted, Failed, AttemptStarted]
    failure = heard[1]
    assert isinstance(failure, Failed)
    assert failure.error == "RuntimeError: no export for mlp today"
    assert "Traceback" in failure.detail


def test_when_no_configuration_is_left_the_blueprint_has_failed() -> None:
    """The exception carries the last attempt's sentence."""
    with pytest.raises(BuildError, match="no export for gate today"):
        compile_kernel(
            make("gate"),
            BUDGET,
            clock=SystemClock(),
            progress=lambda _: None,
            configurations=(Configuration("exported", _refuse),),
        )


def test_a_kernel_that_overflows_is_rejected_in_every_configuration() -> None:
    """A blueprint that is valid as data but not in numbers: the finite check names what is not
    finite.
    """
    nodes = (
        Node("scale1", Scale(1e30)),
        Node("multiply1", Multiply(), ("scale1", "scale1")),
        Node("linear1", Linear(3), ("multiply1",)),
    )
    kernel, heard = compiled(BlueprintIR("test", 9, 3, "LAYER_INPUT", "RESIDUAL", 0.3, 0, nodes))
    assert kernel is None
    assert [type(news) for news in heard] == [AttemptStarted, Rejected, Failed] * 2
    rejected = heard[1]
    assert isinstance(rejected, Rejected)
    finite = next(check for check in rejected.checks if check.name == "finite")
    assert not finite.passed
    assert "output for ordinary inputs is not finite" in finite.detail


class _Wrong(nn.Module):
    """A module that differs from the kernel in one respect."""

    def __init__(self, module: KernelModule, fault: str) -> None:
        super().__init__()
        self.module = module
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)
        match self.fault:
            case "shape":
                return torch.cat([y, y], 1)
            case "dynamic_batch":
                return y - y.mean(0)
            case _:
                return torch.where(x.abs().max() > 100, torch.full_like(y, torch.nan), y)


@pytest.mark.parametrize("fault", ["dynamic_batch", "finite"])
def test_a_wrong_result_fails_its_own_check_alone(fault: str) -> None:
    """Samples that depend on their neighbours, and values that are not finite, are each caught by
    name.
    """
    ir = make("mlp")
    failed = {
        check.name for check in verify(ir, _Wrong(module_of(ir), fault), BUDGET) if not check.passed
    }
    assert failed == {fault}


def test_a_wrong_shape_stops_the_attempt() -> None:
    """An output of another width never becomes a kernel."""
    kernel, heard = compiled(
        make("mlp"), Configuration("wrong", lambda module: _Wrong(module, "shape"))
    )
    assert kernel is None
    assert isinstance(heard[-1], Failed)


def test_a_kernel_over_budget_is_rejected() -> None:
    """The budget check compares what torch counts."""
    ir = make("mlp")
    failed = {
        check.name
        for check in verify(ir, module_of(ir), Budget(ir.parameters - 1, ir.flops))
        if not check.passed
    }
    assert failed == {"budget"}


def test_a_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward that is 1 % off fails the gradient check, whichever parameter it belongs to."""

    class Crooked(torch.autograd.Function):
        @staticmethod
        def forward(_context: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_context: object, *gradients: Tensor) -> Tensor:
            return gradients[0] * 1.01

    ir = make("mlp")
    forward = KernelModule.forward
    monkeypatch.setattr(
        KernelModule, "forward", lambda module, x: Crooked.apply(forward(module, x))
    )
    failed = {check.name for check in verify(ir, module_of(ir), BUDGET) if not check.passed}
    assert failed == {"gradient"}
