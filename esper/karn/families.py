"""Template families: how a blueprint of a kind looks for a layer's shape, within a budget.

| family | reads | blend | starts as |
|---|---|---|---|
| linear | layer input | residual 0.3 | nothing (zero weights) |
| low_rank | layer input | residual 0.3 | nothing (zero second factor) |
| mlp | layer input | lerp 1 | PyTorch's initialisation |
| conv1d | layer input | lerp 1 | PyTorch's initialisation |
| gate | host chunk | lerp 1 | the host's chunk (gate open at 1) |
"""

from __future__ import annotations

from collections.abc import Callable

from esper.errors import BuildError
from esper.karn.ir import BlueprintIR, Budget, Node
from esper.karn.operators import Activation, AddChannel, Conv1d, Flatten, Linear, Multiply, Scale

RESIDUAL_ALPHA = 0.3
LERP_ALPHA = 1.0
CONV_LEAST_FEATURES = 8
"""Below this a convolution sees the whole input at once and is no better than a linear map."""
CONV_LEAST_CHANNELS = 4
CONV_MOST_CHANNELS = 25
"""What MNIST-1D's reference CNN has: https://github.com/greydanus/mnist1d."""
_CHANNELS_PER_FEATURE = CONV_MOST_CHANNELS / 40
_RANK_DIVISOR = 4


def _linear(in_features: int, out_features: int, seed: int) -> BlueprintIR:
    nodes = (Node("linear1", Linear(out_features, initialisation="zero")),)
    return BlueprintIR("linear", in_features, out_features, "LAYER_INPUT", "RESIDUAL", RESIDUAL_ALPHA, seed, nodes)


def _low_rank(in_features: int, out_features: int, seed: int, rank: int) -> BlueprintIR:
    nodes = (
        Node("linear1", Linear(rank, bias=False)),
        Node("linear2", Linear(out_features, initialisation="zero"), ("linear1",)),
    )
    return BlueprintIR("low_rank", in_features, out_features, "LAYER_INPUT", "RESIDUAL", RESIDUAL_ALPHA, seed, nodes)


def _mlp(in_features: int, out_features: int, seed: int, hidden: int) -> BlueprintIR:
    nodes = (
        Node("linear1", Linear(hidden)),
        Node("activation1", Activation("gelu"), ("linear1",)),
        Node("linear2", Linear(out_features), ("activation1",)),
    )
    return BlueprintIR("mlp", in_features, out_features, "LAYER_INPUT", "LERP", LERP_ALPHA, seed, nodes)


def _conv1d(in_features: int, out_features: int, seed: int, channels: int) -> BlueprintIR:
    nodes = [Node("channel1", AddChannel())]
    for number, kernel_size in enumerate((5, 3, 3), start=1):
        convolution = Conv1d(channels, kernel_size, stride=2, padding=1)
        nodes.append(Node(f"conv{number}", convolution, (nodes[-1].name,)))
        nodes.append(Node(f"activation{number}", Activation("relu"), (nodes[-1].name,)))
    nodes.append(Node("flatten1", Flatten(), (nodes[-1].name,)))
    nodes.append(Node("linear1", Linear(out_features), (nodes[-1].name,)))
    return BlueprintIR("conv1d", in_features, out_features, "LAYER_INPUT", "LERP", LERP_ALPHA, seed, tuple(nodes))


def _gate(out_features: int, seed: int) -> BlueprintIR:
    nodes = (
        Node("linear1", Linear(out_features, initialisation="zero")),
        Node("activation1", Activation("sigmoid"), ("linear1",)),
        Node("scale1", Scale(2.0), ("activation1",)),
        Node("multiply1", Multiply(), ("input", "scale1")),
    )
    return BlueprintIR("gate", out_features, out_features, "HOST_CHUNK", "LERP", LERP_ALPHA, seed, nodes)


def _largest(make: Callable[[int], BlueprintIR], least: int, most: int, budget: Budget) -> BlueprintIR | None:
    """The largest blueprint of sizes `least` to `most` within the budget; None when even the least is over it. Cost grows with size."""
    low, high, best = least, most, None
    while low <= high:
        middle = (low + high) // 2
        candidate = make(middle)
        if candidate.fits(budget):
            low, best = middle + 1, candidate
        else:
            high = middle - 1
    return best


def _make_linear(in_features: int, out_features: int, budget: Budget, seed: int) -> BlueprintIR | None:
    candidate = _linear(in_features, out_features, seed)
    return candidate if candidate.fits(budget) else None


def _make_low_rank(in_features: int, out_features: int, budget: Budget, seed: int) -> BlueprintIR | None:
    most = max(1, min(in_features, out_features) // _RANK_DIVISOR)
    return _largest(lambda rank: _low_rank(in_features, out_features, seed, rank), 1, most, budget)


def _make_mlp(in_features: int, out_features: int, budget: Budget, seed: int) -> BlueprintIR | None:
    return _largest(lambda hidden: _mlp(in_features, out_features, seed, hidden), 1, max(in_features, out_features), budget)


def _make_conv1d(in_features: int, out_features: int, budget: Budget, seed: int) -> BlueprintIR | None:
    if in_features < CONV_LEAST_FEATURES:
        return None
    most = min(CONV_MOST_CHANNELS, max(CONV_LEAST_CHANNELS, round(_CHANNELS_PER_FEATURE * in_features)))
    return _largest(lambda channels: _conv1d(in_features, out_features, seed, channels), CONV_LEAST_CHANNELS, most, budget)


def _make_gate(in_features: int, out_features: int, budget: Budget, seed: int) -> BlueprintIR | None:
    del in_features  # it reads the host's chunk
    candidate = _gate(out_features, seed)
    return candidate if candidate.fits(budget) else None


_MAKERS: dict[str, Callable[[int, int, Budget, int], BlueprintIR | None]] = {
    "linear": _make_linear,
    "low_rank": _make_low_rank,
    "mlp": _make_mlp,
    "conv1d": _make_conv1d,
    "gate": _make_gate,
}
FAMILIES = tuple(_MAKERS)
"""Every family, in the order in which they are proposed."""


def generate(*, in_features: int, out_features: int, family: str, budget: Budget, seed: int) -> BlueprintIR | None:
    """The largest useful blueprint of a family for a layer that reads `in_features` and a chunk `out_features` wide.

    Returns:
        None when the family has nothing for this shape within the budget.

    Raises:
        BuildError: no such family.
    """
    if family not in _MAKERS:
        raise BuildError(f"There is no blueprint family {family!r}; known are {', '.join(FAMILIES)}.")
    return _MAKERS[family](in_features, out_features, budget, seed)
