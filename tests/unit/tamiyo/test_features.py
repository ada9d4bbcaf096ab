"""Claims about what a packet says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.events.records import CatalogueEntry, LayerState, SystemStatePacket, Tap
from esper.policies import CommonSettings
from esper_processors.tamiyo.deciding.features import choices, context, lacking
from tests.unit.tamiyo.world import Family, World, kernel

IMAGE, WRITTEN = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8", "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 4x4"
SENTENCE = "sequence in 16"


def packet(layer: tuple[str, str], *kernels: CatalogueEntry) -> SystemStatePacket:
    """A packet with one layer of (kind, geometry) that reads 40 channels, and these kernels on
    offer.
    """
    asked = World({"0": 40}, {"0": ()}).packet()
    kind, geometry = layer
    return replace(
        asked, layers=(replace(asked.layers[0], kind=kind, geometry=geometry),), catalogue=kernels
    )


def offered(family: str, geometry: str, *, tap: Tap = "LAYER_INPUT") -> CatalogueEntry:
    """A kernel of the right width."""
    return replace(kernel("0", 40, Family(family, 0.1, tap=tap)), geometry=geometry)


ALL = (
    offered("mlp", ""),
    offered("conv2d", IMAGE),
    offered("depthwise", IMAGE.replace("8x8", "9x9")),
    offered("pool", WRITTEN, tap="HOST_CHUNK"),
    offered("attention", SENTENCE),
)


@pytest.mark.parametrize(
    ("layer", "families"),
    [
        (("Linear", ""), {"mlp"}),
        (("Linear", SENTENCE), {"mlp", "attention"}),
        (("Conv2d", IMAGE), {"conv2d", "pool"}),
        (("Conv2d", WRITTEN), {"pool"}),
        (("Conv2d", "something new"), set()),
    ],
)
def test_kernels_are_matched_by_geometry(layer: tuple[str, str], families: set[str]) -> None:
    """Widths alone are the same for all five: a seed is offered those whose positions are its
    layer's.
    """
    asked = packet(layer, *ALL)
    assert {key.family for key in choices(asked, CommonSettings(), frozenset())} == families


def test_a_layer_lacks_kernels_of_its_geometry() -> None:
    """Kernels of the right widths for another geometry do not stop a layer from being reported."""
    asked = packet(("Conv2d", IMAGE), offered("mlp", ""), offered("attention", SENTENCE))
    assert lacking(asked, CommonSettings()) == ("0",)
    assert lacking(packet(("Conv2d", IMAGE), *ALL), CommonSettings()) == ()


def test_experience_is_kept_apart_by_the_kind_of_layer() -> None:
    """What a family was worth on a convolution says nothing about the same family on a linear layer
    of that width.
    """
    layers: list[LayerState] = [packet((kind, "")).layers[0] for kind in ("Linear", "Conv2d")]
    assert [context(layer, "norm") for layer in layers] == [
        "Linear/64x128/norm",
        "Conv2d/64x128/norm",
    ]
