"""Blueprints as data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from esper.errors import BuildError
from esper.events.geometry import parse as geometry
from esper.karn import BlueprintIR, Budget, Node, generate, parse
from esper.karn.operators import (
    Activation,
    Add,
    AddChannel,
    Attention,
    Conv1d,
    Conv2d,
    Flatten,
    GlobalPool,
    Linear,
    Multiply,
    Norm,
    Operator,
    Scale,
)
from esper.karn.value import Value
from tests.unit.karn import cases

BUDGET = Budget.of(20_000)
OLD_CONV1D = "4a011e5b1997970c97f336b4e6996ab286843996157f3c22ac9e1440913f5d13"
OLD_GATE = "84b14127796e52ea7713b3297be6af05ea492241f7d5c11fce7b1d4fefa2c326"


def blueprint(*nodes: Node, in_features: int = 8, out_features: int = 3) -> BlueprintIR:
    """A residual blueprint of these nodes."""
    return BlueprintIR("test", in_features, out_features, "LAYER_INPUT", "RESIDUAL", 0.3, 0, nodes)


def conv1d() -> BlueprintIR:
    """A blueprint with many operators."""
    found = generate(in_features=40, out_features=25, family="conv1d", budget=BUDGET, seed=11)
    assert found is not None
    return found


@pytest.mark.parametrize(("family", "layer"), cases.CASES)
def test_a_blueprint_survives_its_json(family: str, layer: str) -> None:
    """parse(json) is the same blueprint with the same identity, and its JSON is canonical."""
    ir = cases.blueprint(family, layer)
    again = parse(ir.json)
    assert (again, again.blueprint_id, again.json) == (ir, ir.blueprint_id, ir.json)
    assert ir.json == json.dumps(json.loads(ir.json), sort_keys=True, separators=(",", ":"))


def test_blueprints_of_features_keep_their_text_and_identity() -> None:
    """What a journal of version 0.1 names is found under the same id, and its JSON, without
    geometry and later attributes, is read.
    """
    present = cases.blueprint("conv1d", in_features=40, out_features=25)
    # it replaced the chunk, and so began as a network of its own
    old = replace(present, blend="LERP", nodes=(*present.nodes[:-1], _begun(present.nodes[-1])))
    assert old.blueprint_id == OLD_CONV1D
    assert cases.blueprint("gate", in_features=40, out_features=25).blueprint_id == OLD_GATE
    text = conv1d().json
    assert "geometry" not in json.loads(text)
    assert set(json.loads(text)["nodes"][1]) == {
        "name",
        "op",
        "inputs",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
    }
    assert (
        parse(_edit_node(text, 1, dilation=1, groups=1, initialisation="default"))
        == parse(_edit(text, geometry=""))
        == conv1d()
    )


def _begun(node: Node) -> Node:
    """The node with PyTorch's initialisation."""
    assert isinstance(node.operator, Linear)
    return replace(node, operator=replace(node.operator, initialisation="default"))


def test_whatever_differs_gives_another_identity() -> None:
    """Seed, blending, an operator's attribute: each is part of the blueprint's identity."""
    ir = conv1d()
    others = (
        replace(ir, seed=12),
        replace(ir, alpha_target=0.5),
        replace(ir, blend="LERP"),
        replace(
            ir, nodes=(*ir.nodes[:-1], Node("linear1", Linear(25, bias=False), ir.nodes[-1].inputs))
        ),
    )
    assert len({ir.blueprint_id, *(other.blueprint_id for other in others)}) == 5


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        (
            (Node("linear1", Linear(4)),),
            r"writes features of shape \(4\), but has to write features of shape \(3\)",
        ),
        (
            (Node("conv1", Conv1d(3, 3)),),
            r"Node 'conv1': conv1d reads channels at positions, not features of shape \(8\)",
        ),
        (
            (Node("channel1", AddChannel()), Node("conv1", Conv1d(3, 9), ("channel1",))),
            "Node 'conv1': The window is longer than the input with its padding",
        ),
        (
            (Node("channel1", AddChannel()), Node("linear1", Linear(3), ("channel1",))),
            r"Node 'linear1': linear reads features or a sequence, not conv1d of shape \(1, 8\)",
        ),
        ((Node("flatten1", Flatten()),), "flatten reads"),
        (
            (Node("linear1", Linear(3)), Node("multiply1", Multiply(), ("linear1", "input"))),
            "two equal shapes",
        ),
        (
            (Node("linear1", Linear(3), ("linear2",)), Node("linear2", Linear(3), ("linear1",))),
            "linear1 -> linear2 -> linear1 form",
        ),
        ((Node("linear1", Linear(3), ("linear1",)),), "form a cycle"),
        (
            (Node("linear2", Linear(3), ("linear1",)), Node("linear1", Linear(3))),
            "'linear2' is listed before 'linear1'",
        ),
        ((Node("linear1", Linear(3)), Node("linear2", Linear(3))), "No node reads 'linear1'"),
        (
            (Node("linear1", Linear(3)), Node("linear1", Linear(3), ("linear1",))),
            "Two nodes are named 'linear1'",
        ),
        ((Node("linear1", Linear(3), ("conv7",)),), "reads 'conv7', which is no node"),
        (
            (Node("forward", Linear(3)),),
            "node name 'forward' is not a word in lower case with a number",
        ),
        ((Node("multiply1", Multiply()),), "reads 1 values; multiply reads 2"),
        ((Node("linear1", Linear(0)),), "out_features is 0; it has to be from 1"),
        ((Node("linear1", Linear(1 << 40)),), "out_features is 1099511627776"),
        ((Node("linear1", Linear(3, initialisation="ones")),), "initialisation 'ones' is unknown"),  # type: ignore[arg-type]
        ((Node("activation1", Activation("exp")),), "activation 'exp' is unknown"),  # type: ignore[arg-type]
        ((Node("scale1", Scale(float("inf"))),), "not a finite number"),
        ((Node("norm1", Norm("ones")),), "initialisation 'ones' is unknown"),  # type: ignore[arg-type]
        ((Node("pool1", GlobalPool()),), "global_pool reads channels at positions"),
        ((Node("attention1", Attention(1)),), "attention reads channels at positions"),
        (
            (Node("channel1", AddChannel()), Node("channel2", AddChannel(), ("channel1",))),
            "add_channel reads features, not conv1d",
        ),
        (
            (Node("linear1", Linear(3)), Node("add1", Add(), ("linear1", "input"))),
            "add reads two equal shapes",
        ),
        (
            (
                Node("channel1", AddChannel()),
                Node("conv1", Conv1d(3, 3, padding="valid"), ("channel1",)),  # type: ignore[arg-type]
            ),
            "padding 'valid' is unknown",
        ),
        (
            (Node("channel1", AddChannel()), Node("conv1", Conv1d(3, 3, 2, "same"), ("channel1",))),
            "'same' goes with a stride of 1",
        ),
        (
            (Node("channel1", AddChannel()), Node("conv1", Conv1d(3, 3, groups=2), ("channel1",))),
            "1 channels and 3 out_channels cannot be",
        ),
        ((), "has 0 nodes"),
    ],
)
def test_a_graph_that_cannot_be_built_is_refused(nodes: tuple[Node, ...], sentence: str) -> None:
    """Each fault of a graph has its own sentence, which names the node."""
    with pytest.raises(BuildError, match=sentence):
        blueprint(*nodes)


IMAGE = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x6"


@pytest.mark.parametrize(
    ("layer", "nodes", "sentence"),
    [
        (
            IMAGE,
            (Node("conv1", Conv2d(3, (3, 3), padding="same")),),
            r"writes conv2d of shape \(3, 8, 6\), but has to .* \(3, 4, 3\)",
        ),
        (IMAGE, (Node("conv1", Conv2d(3, (3, 3), (2, 2), "valid")),), "padding 'valid' is unknown"),  # type: ignore[arg-type]
        (
            IMAGE,
            (Node("conv1", Conv2d(3, (3, 3), (2, 2), (1, 1), groups=3)),),
            "8 channels and 3 out_channels cannot be parted into 3",
        ),
        (IMAGE, (Node("conv1", Conv2d(3, (3, 3), (2, 2), (1, 1), groups=0)),), "number below 1"),
        (IMAGE, (Node("conv1", Conv1d(3, 3)),), "conv1d reads channels at positions, not conv2d"),
        (IMAGE, (Node("linear1", Linear(3)),), "linear reads features or a sequence, not conv2d"),
        (
            IMAGE,
            (Node("flatten1", Flatten()),),
            "flattens positions, but a conv2d kernel has to run on any number of them",
        ),
        (
            IMAGE,
            (Node("pool1", GlobalPool()), Node("multiply1", Multiply(), ("pool1", "input"))),
            "or a gate for each channel in second place",
        ),
        (
            "sequence in 5",
            (Node("attention1", Attention(1)),),
            "8 channels are not queries, keys and values of 1 heads",
        ),
        (
            "sequence in 5",
            (Node("linear1", Linear(3)), Node("attention1", Attention(0), ("linear1",))),
            "heads is 0",
        ),
        (
            "sequence in 5",
            (Node("pool1", GlobalPool()), Node("linear1", Linear(3), ("pool1",))),
            "has to write sequence of shape",
        ),
    ],
)
def test_a_graph_that_leaves_the_layers_positions_is_refused(
    layer: str, nodes: tuple[Node, ...], sentence: str
) -> None:
    """What a node reads, and where the last one writes, follow from the layer's geometry."""
    with pytest.raises(BuildError, match=sentence):
        replace(blueprint(Node("linear1", Linear(3))), nodes=nodes, geometry=geometry(layer))


def test_a_kernel_of_the_chunk_keeps_positions() -> None:
    """Tap HOST_CHUNK goes with the geometry of what the layer writes."""
    ir = cases.blueprint("norm", IMAGE)
    assert ir.geometry.text == "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 4x3"
    with pytest.raises(BuildError, match="keeps its positions; the geometry 'conv2d k3x3 s2x2"):
        replace(ir, geometry=geometry(IMAGE))
    with pytest.raises(BuildError, match="more than 1048576 positions"):
        replace(ir, geometry=geometry(f"conv2d k1x1 s1x1 p0x0 d1x1 g1 in 4x{1 << 21}"))


def test_an_operator_outside_the_whitelist_is_refused() -> None:
    """A subclass of Operator is not enough."""

    class Sneaky(Linear):
        pass

    with pytest.raises(BuildError, match="not on the whitelist: Sneaky"):
        blueprint(Node("linear1", Sneaky(3)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"family": "Bad Name"}, "no name in lower case"),
        ({"tap": "WEIGHTS"}, "tap 'WEIGHTS' is unknown; it is one of LAYER_INPUT, HOST_CHUNK"),
        ({"tap": "HOST_CHUNK"}, "reads as many features as it writes"),
        ({"blend": "ADD"}, "blend 'ADD' is unknown"),
        ({"alpha_target": 0.0}, "above 0 and at most 1"),
        ({"alpha_target": float("nan")}, "above 0 and at most 1"),
        ({"seed": -1}, r"from 0 to 2\*\*63 - 1"),
        ({"in_features": 0}, "in_features is 0"),
        (
            {"geometry": geometry("sequence in 16")},
            "flattens positions, but a sequence kernel has to run on any number",
        ),
    ],
)
def test_a_field_out_of_range_is_refused(change: dict[str, Any], sentence: str) -> None:
    """Every field is checked, and the sentence says what it may be."""
    with pytest.raises(BuildError, match=sentence):
        replace(conv1d(), **change)


def _edit(text: str, **change: Any) -> str:
    return json.dumps(json.loads(text) | change)


def _edit_node(text: str, index: int, **change: Any) -> str:
    found = json.loads(text)
    found["nodes"][index] |= change
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ("x" * (1 << 19), "longer than"),
        ("{}", "lacks alpha_target, blend"),
        (_edit(conv1d().json, code="import os"), "unknown keys: code"),
        (_edit(conv1d().json, version=2), "version 2; this Esper reads version 1"),
        (_edit(conv1d().json, seed="7"), "seed is '7', which is no int"),
        (_edit(conv1d().json, seed=True), "seed is True, which is no int"),
        (_edit(conv1d().json, nodes={}), "nodes are not a list"),
        (_edit(conv1d().json, nodes=[1]), "not an object that names its op"),
        (
            _edit_node(conv1d().json, 1, op="eval"),
            "operator 'eval' is not on the whitelist: activation, add, add_channel",
        ),
        (_edit_node(conv1d().json, 1, weights="x"), "unknown keys: weights"),
        (_edit_node(conv1d().json, 1, stride=2.5), "stride is 2.5, which is no int"),
        (_edit_node(conv1d().json, 1, inputs="channel1"), "a list of names"),
        (_edit_node(conv1d().json, 8, bias=1), "bias is 1, which is no bool"),
        (_edit_node(conv1d().json, 1, padding="valid"), "padding 'valid' is unknown"),
        (_edit_node(conv1d().json, 1, groups="2"), "groups is '2', which is no int"),
        (_edit(conv1d().json, geometry=7), "geometry is 7, which is no str"),
        (_edit(conv1d().json, geometry="conv2d"), "'conv2d' is no geometry of a layer"),
        (
            _edit_node(cases.blueprint("conv2d", IMAGE).json, 0, kernel_size=3),
            "kernel_size is 3, which is no Pair",
        ),
        (
            _edit_node(cases.blueprint("conv2d", IMAGE).json, 0, stride=[1, 2, 3]),
            r"stride is \[1, 2, 3\], which are not two whole numbers",
        ),
        (
            _edit_node(cases.blueprint("conv2d", IMAGE).json, 0, dilation=[1, True]),
            "which are not two whole numbers",
        ),
        (
            _edit_node(cases.blueprint("conv2d", IMAGE).json, 0, padding="full"),
            "padding 'full' is unknown",
        ),
    ],
)
def test_text_that_is_no_blueprint_is_refused(text: str, sentence: str) -> None:
    """Whatever the text holds, the answer is a sentence.

    Nothing in it is executed or taken on trust.
    """
    with pytest.raises(BuildError, match=sentence):
        parse(text)


def test_a_blueprint_over_budget_is_refused_with_its_figures() -> None:
    """Parameters and operations each have a limit of their own."""
    ir = conv1d()
    ir.require(Budget(ir.parameters, ir.flops))
    for budget in (Budget(ir.parameters - 1, ir.flops), Budget(ir.parameters, ir.flops - 1)):
        with pytest.raises(
            BuildError, match=f"costs {ir.parameters} parameters and {ir.flops} operations"
        ):
            ir.require(budget)


def test_shapes_are_known_without_running_anything() -> None:
    """MNIST-1D's convolutions go from 40 positions to 19, 10 and 5."""
    values = conv1d().values
    assert [values[name].shape for name in ("channel1", "conv1", "conv2", "conv3", "flatten1")] == [
        (1, 40),
        (25, 19),
        (25, 10),
        (25, 5),
        (125,),
    ]


def test_an_operator_without_parameters_costs_nothing() -> None:
    """Only linear maps and convolutions are counted."""
    operators: tuple[Operator, ...] = (
        Activation("relu"),
        Scale(2.0),
        Flatten(),
        Add(),
        Multiply(),
        GlobalPool(),
    )
    value = Value("conv1d", 2, (3,))
    assert all(
        operator.parameters(value) == {} and operator.flops(value) == 0 for operator in operators
    )
