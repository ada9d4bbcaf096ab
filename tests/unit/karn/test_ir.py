"""Blueprints as data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from esper.errors import BuildError
from esper.karn import FAMILIES, BlueprintIR, Budget, Node, generate, parse
from esper.karn.operators import Activation, AddChannel, Conv1d, Flatten, Linear, Multiply, Operator, Scale

BUDGET = Budget.of(20_000)


def blueprint(*nodes: Node, in_features: int = 8, out_features: int = 3) -> BlueprintIR:
    """A residual blueprint of these nodes."""
    return BlueprintIR("test", in_features, out_features, "LAYER_INPUT", "RESIDUAL", 0.3, 0, nodes)


def conv1d() -> BlueprintIR:
    """A blueprint with many operators."""
    found = generate(in_features=40, out_features=25, family="conv1d", budget=BUDGET, seed=11)
    assert found is not None
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_blueprint_survives_its_json(family: str) -> None:
    """parse(json) is the same blueprint with the same identity, and its JSON is canonical."""
    ir = generate(in_features=40, out_features=25, family=family, budget=BUDGET, seed=11)
    assert ir is not None
    again = parse(ir.json)
    assert (again, again.blueprint_id, again.json) == (ir, ir.blueprint_id, ir.json)
    assert ir.json == json.dumps(json.loads(ir.json), sort_keys=True, separators=(",", ":"))


def test_whatever_differs_gives_another_identity() -> None:
    """Seed, blending, an operator's attribute: each is part of the blueprint's identity."""
    ir = conv1d()
    others = (
        replace(ir, seed=12),
        replace(ir, alpha_target=0.5),
        replace(ir, blend="RESIDUAL"),
        replace(ir, nodes=(*ir.nodes[:-1], Node("linear1", Linear(25, bias=False), ir.nodes[-1].inputs))),
    )
    assert len({ir.blueprint_id, *(other.blueprint_id for other in others)}) == 5


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ((Node("linear1", Linear(4)),), r"writes shape \(4,\), but its out_features are 3"),
        ((Node("conv1", Conv1d(3, 3)),), r"Node 'conv1': conv1d reads \(channels, length\), not shape \(8,\)"),
        ((Node("channel1", AddChannel()), Node("conv1", Conv1d(3, 9), ("channel1",))), "kernel_size of 9 is longer than the 8 positions"),
        ((Node("channel1", AddChannel()), Node("linear1", Linear(3), ("channel1",))), r"Node 'linear1': linear reads \(features,\)"),
        ((Node("flatten1", Flatten()),), "flatten reads"),
        ((Node("linear1", Linear(3)), Node("multiply1", Multiply(), ("linear1", "input"))), "two equal shapes"),
        (
            (Node("linear1", Linear(3), ("linear2",)), Node("linear2", Linear(3), ("linear1",))),
            "linear1 -> linear2 -> linear1 form",
        ),
        ((Node("linear1", Linear(3), ("linear1",)),), "form a cycle"),
        ((Node("linear2", Linear(3), ("linear1",)), Node("linear1", Linear(3))), "'linear2' is listed before 'linear1'"),
        ((Node("linear1", Linear(3)), Node("linear2", Linear(3))), "Nobody reads node 'linear1'"),
        ((Node("linear1", Linear(3)), Node("linear1", Linear(3), ("linear1",))), "Two nodes are named 'linear1'"),
        ((Node("linear1", Linear(3), ("conv7",)),), "reads 'conv7', which is no node"),
        ((Node("forward", Linear(3)),), "node name 'forward' is not a word in lower case with a number"),
        ((Node("multiply1", Multiply()),), "reads 1 values; multiply reads 2"),
        ((Node("linear1", Linear(0)),), "out_features is 0; it has to be from 1"),
        ((Node("linear1", Linear(1 << 40)),), "out_features is 1099511627776"),
        ((Node("linear1", Linear(3, initialisation="ones")),), "initialisation 'ones' is unknown"),  # type: ignore[arg-type]
        ((Node("activation1", Activation("exp")),), "activation 'exp' is unknown"),  # type: ignore[arg-type]
        ((Node("scale1", Scale(float("inf"))),), "not a finite number"),
        ((), "has 0 nodes"),
    ],
)
def test_a_graph_that_cannot_be_built_is_refused(nodes: tuple[Node, ...], sentence: str) -> None:
    """Each fault of a graph has its own sentence, which names the node."""
    with pytest.raises(BuildError, match=sentence):
        blueprint(*nodes)


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
        (_edit_node(conv1d().json, 1, op="eval"), "operator 'eval' is not on the whitelist: activation, add_channel"),
        (_edit_node(conv1d().json, 1, dilation=2), "unknown keys: dilation"),
        (_edit_node(conv1d().json, 1, stride=2.5), "stride is 2.5, which is no int"),
        (_edit_node(conv1d().json, 1, inputs="channel1"), "a list of names"),
        (_edit_node(conv1d().json, 8, bias=1), "bias is 1, which is no bool"),
    ],
)
def test_text_that_is_no_blueprint_is_refused(text: str, sentence: str) -> None:
    """Whatever the text holds, the answer is a sentence; nothing in it is executed or taken on trust."""
    with pytest.raises(BuildError, match=sentence):
        parse(text)


def test_a_blueprint_over_budget_is_refused_with_its_figures() -> None:
    """Parameters and operations each have a limit of their own."""
    ir = conv1d()
    ir.require(Budget(ir.parameters, ir.flops))
    for budget in (Budget(ir.parameters - 1, ir.flops), Budget(ir.parameters, ir.flops - 1)):
        with pytest.raises(BuildError, match=f"costs {ir.parameters} parameters and {ir.flops} operations"):
            ir.require(budget)


def test_shapes_are_known_without_running_anything() -> None:
    """MNIST-1D's convolutions go from 40 positions to 19, 10 and 5."""
    shapes = conv1d().shapes
    assert [shapes[name] for name in ("channel1", "conv1", "conv2", "conv3", "flatten1")] == [(1, 40), (25, 19), (25, 10), (25, 5), (125,)]


def test_an_operator_without_parameters_costs_nothing() -> None:
    """Only linear maps and convolutions are counted."""
    operators: tuple[Operator, ...] = (Activation("relu"), Scale(2.0), Flatten())
    assert all(operator.parameters((2, 3)) == {} and operator.flops((2, 3)) == 0 for operator in operators)
