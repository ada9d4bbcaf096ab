"""A harvested model computes what the growing one did, and knows nothing of Esper."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.events.geometry import parse
from esper.karn import BUILT_IN, families_for, generate
from esper.karn.ir import Budget
from esper.kasmina import GrowingModel, KernelTraining, Slot, germinate, harvest
from esper.kasmina.seeded.layers import reads_and_writes
from esper.kernels.build import module_of
from tests.unit.kasmina.cases import CASES, graft

HOSTS: dict[str, Any] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv_transpose2d": nn.ConvTranspose2d,
}


def fossilised(growing: GrowingModel, place: tuple[str, int], **settings: Any) -> Slot:
    slot = graft(growing, place, alpha=0.6, **settings)
    slot.fossilised = True
    return slot


def assert_plain(
    plain: nn.Module, growing: GrowingModel, x: Tensor, *, tolerance: float = 1e-6
) -> None:
    growing.module.eval()
    plain.eval()
    assert torch.allclose(plain(x), growing.module(x), atol=tolerance)
    assert not [part for part in plain.modules() if type(part).__module__.startswith("esper")]


@pytest.mark.parametrize("tap", ["LAYER_INPUT", "HOST_CHUNK"])
@pytest.mark.parametrize("blend", ["RESIDUAL", "LERP"])
@pytest.mark.parametrize("name", list(CASES))
def test_every_host_is_harvested(name: str, blend: str, tap: str) -> None:
    """Fossilised kernels of both taps and blends stay, the others are gone, for each
    kind of host.
    """
    case = CASES[name]
    growing = GrowingModel(germinate(case.host(), seeds=3), training=KernelTraining())
    fossilised(growing, case.places[0], blend=blend, tap=tap)
    graft(growing, case.places[1])
    plain = harvest(growing.module)
    assert_plain(plain, growing, case.inputs(3))
    kernels = {name.split(".kept_")[0] for name, _ in plain.named_parameters() if "kept_" in name}
    assert kernels == {case.places[0][0]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sequence in 6",
        "conv1d k3 s2 p1 d1 g1 in 12",
        "conv2d k3x3 s2x1 p1x1 d1x1 g2 in 8x6",
        "conv2d k3x3 s1x1 psame d2x2 g1 in 6x6",
        "conv_transpose2d k3x2 s2x1 p1x0 o1x0 d1x2 g2 in 5x4",
    ],
)
def test_kernels_of_every_family_run_and_are_harvested(text: str) -> None:
    """Each family that has something for a geometry runs in the layer that it is for, trains there,
    and is harvested into plain layers.
    """
    geometry = parse(text)
    for family in families_for(geometry.kind):
        host: nn.Module = nn.Linear(16, 12)
        if geometry.convolves:
            kind = HOSTS[geometry.kind]
            padding = "same" if geometry.padding is None else geometry.padding
            window = {
                "stride": geometry.stride,
                "padding": padding,
                "dilation": geometry.dilation,
                "groups": geometry.groups,
            }
            if geometry.output_padding:
                window["output_padding"] = geometry.output_padding
            host = kind(16, 12, geometry.kernel_size, **window)
        growing = GrowingModel(germinate(nn.Sequential(host), seeds=2), training=KernelTraining())
        x = (
            torch.randn(3, 16, *geometry.size)
            if geometry.convolves
            else torch.randn(3, *geometry.size, 16)
        )
        growing.probe(x)
        reads, width, found = growing.shapes()[("0", 0)]
        assert found == text
        assert reads_and_writes(growing.layers["0"]) == (16, 12)
        ir = generate(
            in_features=reads,
            out_features=width,
            family=family,
            budget=Budget.of(20_000, 64),
            seed=1,
            geometry=geometry,
        )
        assert ir is not None, family
        slot = Slot(ir.blueprint_id, family, module_of(ir), ir.blend, ir.tap, ir.alpha_target)
        growing.graft(("0", 0), slot)
        slot.live = slot.fossilised = True
        slot.alpha.fill_(ir.alpha_target)
        growing(x).square().sum().backward()
        assert any(
            parameter.grad is not None and parameter.grad.abs().sum() > 0
            for parameter in slot.kernel.parameters()
        ), family
        with torch.no_grad():
            for parameter in slot.kernel.parameters():
                parameter.add_(
                    torch.randn_like(parameter) * 0.1
                )  # what starts at zero says nothing
        assert not growing.switches.notes.raised, growing.switches.notes.raised
        assert_plain(harvest(growing.module), growing, x, tolerance=1e-5)
    assert {family.name for family in BUILT_IN} >= set(families_for(geometry.kind))


def test_linear_kernels_become_part_of_the_weight() -> None:
    """A chain of linear maps on a Linear layer is merged into its rows, so that the layer is again
    of its own class and its own size.
    """
    for blend in ("RESIDUAL", "LERP"):
        growing = GrowingModel(
            germinate(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)), seeds=3),
            training=KernelTraining(),
        )
        fossilised(
            growing,
            ("0", 1),
            module=nn.Sequential(nn.Linear(8, 3, bias=False), nn.Linear(3, 4)),
            blend=blend,
        )
        plain = harvest(growing.module)
        assert_plain(plain, growing, torch.randn(5, 8))
        assert type(plain[0]) is nn.Linear  # type: ignore[index]
        assert (
            sum(parameter.numel() for parameter in plain.parameters()) == 8 * 12 + 12 + 12 * 4 + 4
        )


def test_what_cannot_be_merged_stays_a_kernel() -> None:
    """A weight that another layer shares, a bias that the host has no room for, and a map that is
    not linear stay as they are.
    """
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    tied[2].weight = tied[0].weight
    unbiased = nn.Sequential(nn.Linear(8, 8, bias=False))
    for model, module in ((tied, nn.Linear(8, 4)), (unbiased, nn.Linear(8, 4))):
        growing = GrowingModel(germinate(copy.deepcopy(model), seeds=2), training=KernelTraining())
        fossilised(growing, ("0", 0), module=nn.Sequential(module), blend="RESIDUAL")
        plain = harvest(growing.module)
        assert isinstance(plain[0].kept_0, torch.fx.GraphModule)  # type: ignore[index]
        assert_plain(plain, growing, torch.randn(5, 8))


def test_a_layer_with_two_names_is_harvested_under_both() -> None:
    """A shared layer stays one layer."""
    layer = nn.Linear(6, 6)
    growing = GrowingModel(
        germinate(nn.Sequential(layer, nn.Tanh(), layer), seeds=2), training=KernelTraining()
    )
    fossilised(growing, ("0", 0))
    plain = harvest(growing.module)
    assert plain[0] is plain[2]  # type: ignore[index]
    assert_plain(plain, growing, torch.randn(5, 6))
