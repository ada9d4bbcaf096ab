"""Families within budgets, and what is proposed for a report."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.clock import ManualClock
from esper.errors import BuildError
from esper.events import Origin
from esper.events.geometry import FORMS, PLAIN, Geometry, fits, outputs, parse
from esper.events.records import FieldReport, ReportedLayer
from esper.karn import BUILT_IN, Budget, families_for, generate, innovate
from esper.karn.operators import CONVOLUTIONS, Linear
from tests.unit.events.layers import layers
from tests.unit.karn import cases

MNIST1D = ((40, 100, (25, 25, 25, 25)), (100, 100, (25, 25, 25, 25)), (100, 10, (3, 3, 2, 2)))


def report(
    *,
    run_id: str = "r",
    layers: tuple[ReportedLayer, ...] | None = None,
    families: tuple[str, ...] = (),
) -> FieldReport:
    """A report about MNIST-1D's host, or about `layers`."""
    mnist1d = tuple(
        ReportedLayer(
            name=f"layer{number}",
            kind="Linear",
            in_features=reads,
            out_features=writes,
            chunks=chunks,
            parameter_budget=20_000,
        )
        for number, (reads, writes, chunks) in enumerate(MNIST1D)
    )
    envelope = Origin(run_id, "tamiyo", "0" * 32, ManualClock()).envelope("report")
    return FieldReport(
        **envelope, run_seed=0, layers=mnist1d if layers is None else layers, families=families
    )


@given(
    family=st.sampled_from([family.name for family in BUILT_IN]),
    geometry=st.one_of(st.just(PLAIN), layers()),
    in_features=st.integers(1, 300),
    out_features=st.integers(1, 80),
    parameters=st.integers(0, 30_000),
)
def test_no_family_leaves_its_budget_or_place(
    family: str, geometry: Geometry, in_features: int, out_features: int, parameters: int
) -> None:
    """Whatever is asked for, a blueprint fits budget and place, or there is none."""
    budget = Budget.of(parameters, math.prod(geometry.output_size))
    ir = generate(
        in_features=in_features,
        out_features=out_features,
        family=family,
        budget=budget,
        seed=1,
        geometry=geometry,
    )
    if ir is not None:
        assert ir.fits(budget)
        assert ir.fits(Budget.of(parameters, ir.writes.positions))
        assert ir.out_features == out_features
        assert ir.in_features == (out_features if ir.tap == "HOST_CHUNK" else in_features)
        assert fits(ir.geometry.text, ir.tap, geometry.text)
        assert (ir.blend, ir.alpha_target) in {("RESIDUAL", 0.3), ("RESIDUAL", 1.0), ("LERP", 1.0)}


@pytest.mark.parametrize(("family", "layer"), cases.CASES)
def test_kernels_follow_their_layer_to_any_size(family: str, layer: str) -> None:
    """The graph of a convolution or sequence kernel writes the layer's positions on inputs of other
    sizes too, with the same weights.
    """
    ir = cases.blueprint(family, layer)
    for more in (1, 2, 3, 10):
        other = replace(
            ir,
            geometry=replace(ir.geometry, size=tuple(number + more for number in ir.geometry.size)),
        )
        assert other.parameter_shapes == ir.parameter_shapes


def test_a_layer_of_each_kind_has_the_families_that_are_of_use() -> None:
    """Linear maps and the gate work at each position of a sequence.

    Convolutions have their own families; norm is for all.
    """
    assert families_for("features") == ("linear", "low_rank", "mlp", "conv1d", "gate", "norm")
    assert families_for("sequence") == ("linear", "low_rank", "mlp", "gate", "norm", "attention")
    assert families_for("conv1d") == ("conv1d", "depthwise", "pool", "norm", "attention")
    assert families_for("conv2d") == ("conv2d", "depthwise", "pool", "norm", "attention")
    assert families_for("conv_transpose2d") == families_for("conv2d")
    upsampling = "conv_transpose2d k4x4 s2x2 p1x1 o0x0 d1x1 g1 in 4x3"
    assert cases.blueprint("conv2d", upsampling).geometry.text == upsampling
    chunk = cases.blueprint("pool", upsampling)  # as that of any image of these positions
    assert chunk == cases.blueprint("pool", "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 8x6")
    assert cases.blueprint("mlp", "sequence in 6") == cases.blueprint("mlp")
    assert cases.blueprint("attention", "sequence in 6").geometry.text == "sequence in 6"


def test_every_geometry_has_an_operator_and_cases() -> None:
    """A kind of geometry that is added has an operator with its window, families that serve it, and
    layers in the tests of families.
    """
    assert set(FORMS) == {parse(layer).kind for layer in cases.LAYERS}
    windows = {kind for kind, form in FORMS.items() if form.positions is not None}
    assert set(CONVOLUTIONS) == windows
    for kind in FORMS:
        assert set(families_for(kind)) >= set(families_for(FORMS[kind].layout))


def test_attention_reads_the_chunk_where_the_layer_changes_positions() -> None:
    """With a stride or without padding the layer's input has other positions than its output."""
    taps = {
        layer: cases.blueprint("attention", layer).tap
        for layer in (
            "sequence in 6",
            "conv1d k3 s1 p1 d1 g1 in 9",
            "conv1d k4 s1 psame d1 g1 in 9",
            "conv1d k3 s2 p1 d1 g1 in 9",
            "conv1d k3 s1 p0 d1 g1 in 9",
        )
    }
    assert list(taps.values()) == [
        "LAYER_INPUT",
        "LAYER_INPUT",
        "LAYER_INPUT",
        "HOST_CHUNK",
        "HOST_CHUNK",
    ]


def test_attention_over_many_positions_is_held_by_its_operations() -> None:
    """Four times as many positions leave room for less: the work grows with their square, the
    budget with their number.
    """
    small, large = (
        cases.blueprint("attention", f"sequence in {length}", in_features=64, out_features=16)
        for length in (64, 256)
    )
    assert small.parameters > large.parameters
    assert large.flops <= 4 * 20_000 * 256
    budget = Budget.of(20_000, 1 << 16)
    assert (
        generate(
            in_features=64,
            out_features=16,
            family="attention",
            budget=budget,
            seed=1,
            geometry=parse("sequence in 65536"),
        )
        is None
    )


def test_one_number_is_not_normalised() -> None:
    """A chunk of one feature at one position would always become 0."""
    budget = Budget.of(1000)
    assert generate(in_features=4, out_features=1, family="norm", budget=budget, seed=1) is None
    image = parse("conv2d k3x3 s1x1 p1x1 d1x1 g1 in 4x4")
    assert (
        generate(
            in_features=4, out_features=1, family="norm", budget=budget, seed=1, geometry=image
        )
        is not None
    )


@pytest.mark.parametrize("family", ["low_rank", "mlp", "conv1d"])
def test_a_family_uses_the_budget_that_it_has(family: str) -> None:
    """More budget gives a larger kernel, up to what the family finds useful.

    Less than the least gives none.
    """
    sizes = [
        ir.parameters
        for parameters in (400, 1000, 4000, 20_000, 2_000_000)
        if (
            ir := generate(
                in_features=40, out_features=25, family=family, budget=Budget.of(parameters), seed=1
            )
        )
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert (
        generate(in_features=40, out_features=25, family=family, budget=Budget.of(50), seed=1)
        is None
    )


def test_conv1d_is_the_reference_network_of_mnist1d() -> None:
    """For 40 inputs: three convolutions of 25 channels; it needs 8 inputs, and adds to the chunk
    what begins as nothing.
    """
    ir = generate(
        in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=1
    )
    assert ir is not None
    assert ir.parameter_shapes["conv2.weight"] == (25, 25, 3)
    assert (ir.blend, ir.alpha_target) == ("RESIDUAL", 1.0)
    last = ir.nodes[-1].operator
    assert isinstance(last, Linear)
    assert last.initialisation == "zero"
    assert (
        generate(in_features=8, out_features=3, family="conv1d", budget=Budget.of(20_000), seed=1)
        is not None
    )
    assert (
        generate(in_features=7, out_features=3, family="conv1d", budget=Budget.of(20_000), seed=1)
        is None
    )


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    """The sentence lists what there is."""
    with pytest.raises(
        BuildError,
        match=(
            "no blueprint family 'resnet'; known are linear, low_rank, mlp, conv1d, conv2d, "
            "depthwise, gate"
        ),
    ):
        generate(in_features=8, out_features=3, family="resnet", budget=Budget.of(1000), seed=1)


def test_a_report_gets_each_family_once_for_each_place() -> None:
    """MNIST-1D's three layers have four distinct places.

    Gate and norm only see the chunk, so two of them share one.
    """
    blueprints = innovate(report())
    places = sorted((ir.family, ir.in_features, ir.out_features) for ir in blueprints)
    assert len(places) == len(set(places)) == 22
    assert [(reads, writes) for family, reads, writes in places if family == "conv1d"] == [
        (40, 25),
        (100, 2),
        (100, 3),
        (100, 25),
    ]
    assert [(reads, writes) for family, reads, writes in places if family == "gate"] == [
        (2, 2),
        (3, 3),
        (25, 25),
    ]


def test_the_same_layer_gets_the_same_blueprints_in_every_run() -> None:
    """Neither the run nor its seed nor the layer's name changes a blueprint, and no two have one
    seed.
    """
    first, other = report(), report(run_id="another")
    renamed = replace(
        other,
        run_seed=99,
        layers=tuple(replace(layer, name=f"x{layer.name}") for layer in other.layers),
    )
    assert innovate(first) == innovate(renamed)
    assert len({ir.seed for ir in innovate(first)}) == 22


def test_only_wanted_and_possible_kernels_are_proposed() -> None:
    """Families that were not asked for, unknown ones, impossible widths and empty budgets propose
    nothing.
    """
    assert {ir.family for ir in innovate(report(families=("conv1d", "gate", "resnet")))} == {
        "conv1d",
        "gate",
    }
    layer = report().layers[0]
    for broken in (
        replace(layer, parameter_budget=0),
        replace(layer, parameter_budget=-5),
        replace(layer, chunks=()),
        replace(layer, chunks=(0, -1, 1 << 30)),
        replace(layer, in_features=0),
    ):
        assert innovate(report(layers=(broken,))) == ()


def test_convolutions_and_sequences_get_kernels_of_their_geometry() -> None:
    """Every place of a report is served by each family for its kind.

    A geometry that cannot be read gets nothing, and harms no other.
    """
    image, sentence = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 9x9", "sequence in 16"
    convolution = replace(
        report().layers[0], kind="Conv2d", in_features=8, chunks=(4, 4), geometry=image
    )
    sequence = replace(report().layers[0], in_features=8, chunks=(4,), geometry=sentence)
    broken = replace(convolution, geometry="conv2d k3x3 in 9x9")
    huge = replace(convolution, geometry=f"conv2d k1x1 s1x1 p0x0 d1x1 g1 in {'9' * 4000}x9")
    blueprints = innovate(report(layers=(broken, huge, convolution, sequence)))
    assert [ir.family for ir in blueprints if ir.geometry.kind == "conv2d"] == [
        "conv2d",
        "depthwise",
        "pool",
        "norm",
        "attention",
    ]
    assert {
        ir.geometry for ir in blueprints if ir.tap == "LAYER_INPUT" and ir.geometry.kind == "conv2d"
    } == {parse(image)}
    assert {
        ir.geometry for ir in blueprints if ir.tap == "HOST_CHUNK" and ir.geometry.kind == "conv2d"
    } == {outputs(parse(image))}
    assert [ir.geometry.text for ir in blueprints if ir.geometry.kind != "conv2d"] == [
        "",
        "",
        "",
        "",
        "",
        sentence,
    ]
    assert len({ir.seed for ir in blueprints}) == len(blueprints) == 11
    assert innovate(report(layers=(broken,))) == ()


def test_layers_of_one_shape_keep_their_own_budgets() -> None:
    """A rich and a poor layer of one shape get kernels of their own sizes."""
    rich = report().layers[0]
    poor = replace(rich, name="poor", parameter_budget=2000)
    sizes = [ir.parameters for ir in innovate(report(layers=(rich, poor), families=("conv1d",)))]
    assert len(sizes) == 2
    assert sizes[1] <= 2000 < sizes[0]
