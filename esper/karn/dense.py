"""Families of kernels on features.

On a sequence they work at each position (`conv1d` excepted, which looks along the features).
"""

from __future__ import annotations

import math

from esper.karn.ir import BlueprintIR, Node
from esper.karn.operators import (
    Activation,
    AddChannel,
    Conv1d,
    Flatten,
    Linear,
    Multiply,
    Norm,
    Scale,
)
from esper.karn.place import RANK_DIVISOR, WHOLE, ChunkPlace

CONV_LEAST_FEATURES = 8
"""Below this a convolution sees the whole input at once and is no better than a linear map."""
CONV_LEAST_CHANNELS = 4
CONV_MOST_CHANNELS = 25
"""What MNIST-1D's reference CNN has: https://github.com/greydanus/mnist1d."""
# its samples have 40 features
_CHANNELS_PER_FEATURE = CONV_MOST_CHANNELS / 40


def linear(place: ChunkPlace) -> BlueprintIR | None:
    """One linear map that starts at zero."""
    # zero weights still learn: their gradient is made of the input, not of themselves
    nodes = (Node("linear1", Linear(place.out_features, initialisation="zero")),)
    return place.affordable(place.on_input("linear", "RESIDUAL", nodes))


def low_rank(place: ChunkPlace) -> BlueprintIR | None:
    """A linear map of a lower rank that starts at zero (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

    def make(rank: int) -> BlueprintIR:
        nodes = (
            Node("linear1", Linear(rank, bias=False)),
            # one factor alone starts at zero: with both, each would keep the other's gradient at
            # zero
            Node("linear2", Linear(place.out_features, initialisation="zero"), ("linear1",)),
        )
        return place.on_input("low_rank", "RESIDUAL", nodes)

    return place.largest(
        make, 1, max(1, min(place.in_features, place.out_features) // RANK_DIVISOR)
    )


def mlp(place: ChunkPlace) -> BlueprintIR | None:
    """Two linear maps with a nonlinearity between them; the second starts at zero."""

    def make(hidden: int) -> BlueprintIR:
        nodes = (
            Node("linear1", Linear(hidden)),
            Node("activation1", Activation("gelu"), ("linear1",)),
            # at zero it starts as nothing: it has only to add to the chunk, not to learn it anew
            Node("linear2", Linear(place.out_features, initialisation="zero"), ("activation1",)),
        )
        return place.on_input("mlp", "RESIDUAL", nodes, WHOLE)

    return place.largest(make, 1, max(place.in_features, place.out_features))


def conv1d(place: ChunkPlace) -> BlueprintIR | None:
    """Three convolutions along the features, and a linear map that starts at zero: MNIST-1D's
    reference network.
    """
    if place.in_features < CONV_LEAST_FEATURES:
        return None

    def make(channels: int) -> BlueprintIR:
        nodes = [Node("channel1", AddChannel())]
        # windows, strides and padding of MNIST-1D's reference network
        for number, kernel_size in enumerate((5, 3, 3), start=1):
            convolution = Conv1d(channels, kernel_size, stride=2, padding=1)
            nodes.append(Node(f"conv{number}", convolution, (nodes[-1].name,)))
            nodes.append(Node(f"activation{number}", Activation("relu"), (nodes[-1].name,)))
        nodes.append(Node("flatten1", Flatten(), (nodes[-1].name,)))
        last = Linear(place.out_features, initialisation="zero")
        nodes.append(Node("linear1", last, (nodes[-1].name,)))
        return place.on_input("conv1d", "RESIDUAL", tuple(nodes), WHOLE)

    most = min(
        CONV_MOST_CHANNELS,
        max(CONV_LEAST_CHANNELS, round(_CHANNELS_PER_FEATURE * place.in_features)),
    )
    return place.largest(make, CONV_LEAST_CHANNELS, most)


def gate(place: ChunkPlace) -> BlueprintIR | None:
    """Twice a sigmoid of the chunk, times the chunk: open at 1 in the beginning (after
    squeeze-and-excitation, Hu et al. 2018).
    """
    nodes = (
        Node("linear1", Linear(place.out_features, initialisation="zero")),
        Node("activation1", Activation("sigmoid"), ("linear1",)),
        # 2 * sigmoid(0) = 1: the gate begins as the identity
        Node("scale1", Scale(2.0), ("activation1",)),
        Node("multiply1", Multiply(), ("input", "scale1")),
    )
    return place.affordable(place.on_chunk("gate", "LERP", nodes))


def norm(place: ChunkPlace) -> BlueprintIR | None:
    """The chunk normalised, with a scale and a shift that start at zero (LayerNorm, or GroupNorm
    with one group: see `Norm`).
    """
    if place.out_features * math.prod(place.geometry.output_size) < 2:
        return None  # one number normalised is always 0
    return place.affordable(place.on_chunk("norm", "RESIDUAL", (Node("norm1", Norm("zero")),)))
