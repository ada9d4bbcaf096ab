"""Families of kernels that look at positions: of convolutions in one and two dimensions, and of
sequences.
"""

from __future__ import annotations

import math

from esper.events.geometry import Geometry
from esper.karn.ir import BlueprintIR, Node
from esper.karn.operators import (
    CONVOLUTIONS,
    Activation,
    Add,
    Attention,
    GlobalPool,
    Initialisation,
    Linear,
    Multiply,
    Norm,
    Operator,
    Scale,
)
from esper.karn.place import RANK_DIVISOR, WHOLE, ChunkPlace

_LEAST_CHANNELS = 4
_WINDOW = 3
_HEAD_WIDTH = 8
_MOST_SCORES = 1 << 20
"""Scores of one sample at most, heads * positions^2: each costs an exponential, which the count of
operations leaves out.
"""


def convolution(place: ChunkPlace) -> BlueprintIR | None:
    """The host's window, a residual block without batch statistics, and a map of the channels that
    starts at zero.

    Sources: He et al. 2016, arXiv 1512.03385; Zhang et al. 2019 (Fixup), arXiv 1901.09321.
    """
    family = place.geometry.layout

    def make(channels: int) -> BlueprintIR:
        nodes = (
            # the one node that may change positions, as the host does; the others keep them
            Node("conv1", _host_window(place.geometry, channels)),
            Node("activation1", Activation("relu"), ("conv1",)),
            Node("conv2", _same(place.geometry, channels, _WINDOW), ("activation1",)),
            # the identity beside conv2: conv1 gets its gradient past it
            Node("add1", Add(), ("activation1", "conv2")),
            Node("activation2", Activation("relu"), ("add1",)),
            Node(
                "conv3",
                _same(place.geometry, place.out_features, 1, initialisation="zero"),
                ("activation2",),
            ),
        )
        return place.on_input(family, "RESIDUAL", nodes, WHOLE)

    return place.largest(
        make, _LEAST_CHANNELS, max(_LEAST_CHANNELS, place.in_features, place.out_features)
    )


def depthwise(place: ChunkPlace) -> BlueprintIR | None:
    """The host's window on each channel by itself, and a map of the channels that starts at zero
    (MobileNet, Howard et al. 2017, arXiv 1704.04861).
    """
    nodes = (
        # a window a channel: cost grows with the channels, not with their square
        Node("conv1", _host_window(place.geometry, place.in_features, groups=place.in_features)),
        Node("activation1", Activation("relu"), ("conv1",)),
        Node(
            "conv2",
            _same(place.geometry, place.out_features, 1, initialisation="zero"),
            ("activation1",),
        ),
    )
    return place.affordable(place.on_input("depthwise", "RESIDUAL", nodes, WHOLE))


def pool(place: ChunkPlace) -> BlueprintIR | None:
    """Squeeze and excitation: each channel of the chunk times a gate that its mean over positions
    decides.

    Twice the sigmoid, so that the gate is open at 1 in the beginning. Source: Hu et al. 2018,
    arXiv 1709.01507.
    """

    def make(squeezed: int) -> BlueprintIR:
        nodes = (
            Node("pool1", GlobalPool()),
            Node("linear1", Linear(squeezed), ("pool1",)),
            Node("activation1", Activation("relu"), ("linear1",)),
            Node("linear2", Linear(place.out_features, initialisation="zero"), ("activation1",)),
            Node("activation2", Activation("sigmoid"), ("linear2",)),
            Node("scale1", Scale(2.0), ("activation2",)),
            Node("multiply1", Multiply(), ("input", "scale1")),
        )
        return place.on_chunk("pool", "LERP", nodes)

    return place.largest(make, 1, max(1, place.out_features // RANK_DIVISOR))


def attention(place: ChunkPlace) -> BlueprintIR | None:
    """A pre-normalised self-attention over positions whose output starts at zero.

    Sources: Vaswani et al. 2017; Xiong et al. 2020, arXiv 2002.04745. It reads the
    layer's input where the layer keeps positions, else the host's chunk, in as many heads as the
    budget pays.
    """

    def make(heads: int) -> BlueprintIR:
        nodes = (
            Node("norm1", Norm()),
            Node("project1", _pointwise(place.geometry, 3 * heads * _HEAD_WIDTH), ("norm1",)),
            Node(
                "attention1",
                Attention(heads, causal=place.geometry.kind == "causal"),
                ("project1",),
            ),
            Node(
                "project2",
                _pointwise(place.geometry, place.out_features, initialisation="zero"),
                ("attention1",),
            ),
        )
        # a residual with a zero map: the layer's output is unchanged until it has learnt
        return put("attention", "RESIDUAL", nodes, WHOLE)

    # attention writes where it reads, so it can read the input only where positions stay
    put, reads = (
        (place.on_input, place.in_features)
        if place.geometry.keeps_positions
        else (place.on_chunk, place.out_features)
    )
    useful = max(1, max(reads, place.out_features) // _HEAD_WIDTH)
    return place.largest(
        make, 1, min(useful, _MOST_SCORES // math.prod(place.geometry.output_size) ** 2)
    )


def _pointwise(
    geometry: Geometry, width: int, *, initialisation: Initialisation = "default"
) -> Operator:
    """A linear map of the channels at each position."""
    if geometry.convolves:
        return _same(geometry, width, 1, initialisation=initialisation)
    return Linear(width, initialisation=initialisation)


def _same(
    geometry: Geometry, channels: int, window: int, *, initialisation: Initialisation = "default"
) -> Operator:
    """A convolution that keeps the positions that `geometry` writes."""
    ones = (1,) * len(geometry.size)
    around = Geometry(
        geometry.layout, geometry.output_size, (window,) * len(ones), ones, None, ones
    )
    # by layout: behind a transposed host, too, an ordinary convolution keeps the positions
    kind = CONVOLUTIONS[geometry.layout]
    return kind.of(around, channels, initialisation=initialisation)


def _host_window(geometry: Geometry, channels: int, groups: int = 1) -> Operator:
    """An operator with the host's window, so that it writes the host's positions."""
    return CONVOLUTIONS[geometry.kind].of(geometry, channels, groups)
