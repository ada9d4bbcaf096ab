"""Layers of every kind, and each family that has something for them."""

from __future__ import annotations

import math

from esper.events.geometry import parse
from esper.karn import BlueprintIR, Budget, families_for, generate

LAYERS = (
    "",
    "sequence in 6",
    "causal in 6",
    "conv1d k5 s2 p2 d1 g1 in 11",
    "conv1d k3 s1 psame d2 g1 in 9",
    "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 6x5",
    "conv2d k3x1 s1x1 psame d1x2 g1 in 4x5",
    "conv2d k3x2 s2x1 p1x0 d1x2 g3 in 7x6",
    "conv_transpose2d k4x4 s2x2 p1x1 o0x0 d1x1 g1 in 4x3",
    "conv_transpose2d k3x2 s3x1 p2x1 o1x1 d2x2 g3 in 5x6",
)
CASES = tuple((family, layer) for layer in LAYERS for family in families_for(parse(layer).kind))


def blueprint(
    family: str,
    layer: str = "",
    *,
    in_features: int = 9,
    out_features: int = 3,
    parameters: int = 20_000,
) -> BlueprintIR:
    """A family's blueprint for a layer."""
    geometry = parse(layer)
    ir = generate(
        in_features=in_features,
        out_features=out_features,
        family=family,
        budget=Budget.of(parameters, math.prod(geometry.output_size)),
        seed=3,
        geometry=geometry,
    )
    assert ir is not None
    return ir
