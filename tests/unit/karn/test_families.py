"""Families within budgets, and what is proposed for a report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.clock import ManualClock
from esper.errors import BuildError
from esper.events import Origin
from esper.events.records import FieldReport, ReportedLayer
from esper.karn import FAMILIES, Budget, generate, innovate

MNIST1D = ((40, 100, (25, 25, 25, 25)), (100, 100, (25, 25, 25, 25)), (100, 10, (3, 3, 2, 2)))


def report(*, run_id: str = "r", layers: tuple[ReportedLayer, ...] | None = None, families: tuple[str, ...] = ()) -> FieldReport:
    """A report about MNIST-1D's host, or about `layers`."""
    mnist1d = tuple(
        ReportedLayer(name=f"layer{number}", kind="Linear", in_features=reads, out_features=writes, chunks=chunks, parameter_budget=20_000)
        for number, (reads, writes, chunks) in enumerate(MNIST1D)
    )
    envelope = Origin(run_id, "tamiyo", "0" * 32, ManualClock()).envelope("report")
    return FieldReport(**envelope, run_seed=0, layers=mnist1d if layers is None else layers, families=families)


@given(
    family=st.sampled_from(FAMILIES),
    in_features=st.integers(1, 300),
    out_features=st.integers(1, 80),
    parameters=st.integers(0, 30_000),
)
def test_no_family_leaves_its_budget_or_shape(family: str, in_features: int, out_features: int, parameters: int) -> None:
    """Whatever is asked for, a blueprint fits budget and place, or there is none."""
    budget = Budget.of(parameters)
    ir = generate(in_features=in_features, out_features=out_features, family=family, budget=budget, seed=1)
    if ir is not None:
        assert ir.fits(budget)
        assert ir.out_features == out_features
        assert ir.in_features == (out_features if ir.tap == "HOST_CHUNK" else in_features)
        assert (ir.blend, ir.alpha_target) in {("RESIDUAL", 0.3), ("LERP", 1.0)}


@pytest.mark.parametrize("family", ["low_rank", "mlp", "conv1d"])
def test_a_family_uses_the_budget_that_it_has(family: str) -> None:
    """More budget gives a larger kernel, up to what the family finds useful; less than the least gives none."""
    sizes = [
        ir.parameters
        for parameters in (400, 1000, 4000, 20_000, 2_000_000)
        if (ir := generate(in_features=40, out_features=25, family=family, budget=Budget.of(parameters), seed=1))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert generate(in_features=40, out_features=25, family=family, budget=Budget.of(50), seed=1) is None


def test_conv1d_is_the_reference_network_of_mnist1d() -> None:
    """For 40 inputs: three convolutions of 25 channels; it needs 8 inputs, and lerps to 1."""
    ir = generate(in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=1)
    assert ir is not None
    assert ir.parameter_shapes["conv2.weight"] == (25, 25, 3)
    assert (ir.blend, ir.alpha_target) == ("LERP", 1.0)
    assert generate(in_features=8, out_features=3, family="conv1d", budget=Budget.of(20_000), seed=1) is not None
    assert generate(in_features=7, out_features=3, family="conv1d", budget=Budget.of(20_000), seed=1) is None


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    """The sentence lists what there is."""
    with pytest.raises(BuildError, match="no blueprint family 'resnet'; known are linear, low_rank, mlp, conv1d, gate"):
        generate(in_features=8, out_features=3, family="resnet", budget=Budget.of(1000), seed=1)


def test_a_report_gets_each_family_once_for_each_place() -> None:
    """MNIST-1D's three layers have four distinct places; the gate only sees the chunk, so two of them share one."""
    blueprints = innovate(report())
    places = sorted((ir.family, ir.in_features, ir.out_features) for ir in blueprints)
    assert len(places) == len(set(places)) == 19
    assert [(reads, writes) for family, reads, writes in places if family == "conv1d"] == [(40, 25), (100, 2), (100, 3), (100, 25)]
    assert [(reads, writes) for family, reads, writes in places if family == "gate"] == [(2, 2), (3, 3), (25, 25)]


def test_the_same_layer_gets_the_same_blueprints_in_every_run() -> None:
    """Neither the run nor its seed nor the layer's name changes a blueprint, and no two have one seed."""
    first, other = report(), report(run_id="another")
    renamed = replace(other, run_seed=99, layers=tuple(replace(layer, name=f"x{layer.name}") for layer in other.layers))
    assert innovate(first) == innovate(renamed)
    assert len({ir.seed for ir in innovate(first)}) == 19


def test_only_wanted_and_possible_kernels_are_proposed() -> None:
    """Families that were not asked for, unknown ones, impossible widths and empty budgets propose nothing."""
    assert {ir.family for ir in innovate(report(families=("conv1d", "gate", "resnet")))} == {"conv1d", "gate"}
    layer = report().layers[0]
    for broken in (
        replace(layer, parameter_budget=0),
        replace(layer, parameter_budget=-5),
        replace(layer, chunks=()),
        replace(layer, chunks=(0, -1, 1 << 30)),
        replace(layer, in_features=0),
    ):
        assert innovate(report(layers=(broken,))) == ()


def test_layers_of_one_shape_keep_their_own_budgets() -> None:
    """A rich and a poor layer of one shape get kernels of their own sizes."""
    rich = report().layers[0]
    poor = replace(rich, name="poor", parameter_budget=2000)
    sizes = [ir.parameters for ir in innovate(report(layers=(rich, poor), families=("conv1d",)))]
    assert len(sizes) == 2
    assert sizes[1] <= 2000 < sizes[0]
