"""Template families: how a blueprint of a kind looks for a layer's shape and geometry, within a
budget.

| family | layers | reads | blend | starts as |
|---|---|---|---|---|
| linear | features, sequences | layer input | residual 0.3 | nothing (zero weights) |
| low_rank | features, sequences | layer input | residual 0.3 | nothing (zero second factor) |
| mlp | features, sequences | layer input | lerp 1 | PyTorch's initialisation |
| conv1d | features, Conv1d | layer input | lerp 1 | PyTorch's initialisation |
| conv2d | Conv2d | layer input | lerp 1 | PyTorch's initialisation |
| depthwise | convolutions | layer input | residual 0.3 | nothing (zero pointwise map) |
| gate | features, sequences | host chunk | lerp 1 | the host's chunk (gate open at 1) |
| pool | convolutions | host chunk | lerp 1 | the host's chunk (gate open at 1) |
| norm | all | host chunk | residual 0.3 | nothing (zero scale and shift) |
| attention | all but features | layer input * | residual 0.3 | nothing (zero output map) |

* the host chunk, where the layer changes the positions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esper.errors import BuildError
from esper.events.geometry import PLAIN, Geometry, Kind
from esper.karn import dense, spatial
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.place import ChunkPlace

Maker = Callable[[ChunkPlace], BlueprintIR | None]

_AT_EACH_POSITION: Mapping[str, Maker] = {
    "linear": dense.linear,
    "low_rank": dense.low_rank,
    "mlp": dense.mlp,
    "gate": dense.gate,
    "norm": dense.norm,
}
_OF_CONVOLUTIONS: Mapping[str, Maker] = {
    "depthwise": spatial.depthwise,
    "pool": spatial.pool,
    "norm": dense.norm,
    "attention": spatial.attention,
}
_MAKERS: Mapping[Kind, Mapping[str, Maker]] = {
    "features": {**_AT_EACH_POSITION, "conv1d": dense.conv1d},
    "sequence": {**_AT_EACH_POSITION, "attention": spatial.attention},
    "conv1d": {"conv1d": spatial.convolution, **_OF_CONVOLUTIONS},
    "conv2d": {"conv2d": spatial.convolution, **_OF_CONVOLUTIONS},
}
FAMILIES = (
    "linear",
    "low_rank",
    "mlp",
    "conv1d",
    "conv2d",
    "depthwise",
    "gate",
    "pool",
    "norm",
    "attention",
)
"""Every family, in the order in which they are proposed."""


def families_for(kind: Kind) -> tuple[str, ...]:
    """The families that have something for layers of a kind, in the order of `FAMILIES`."""
    return tuple(family for family in FAMILIES if family in _MAKERS[kind])


def generate(
    *,
    in_features: int,
    out_features: int,
    family: str,
    budget: Budget,
    seed: int,
    geometry: Geometry = PLAIN,
) -> BlueprintIR | None:
    """The largest useful blueprint of a family for a layer that reads `in_features` and a chunk
    `out_features` wide.

    Args:
        in_features: features or channels of the layer's input.
        out_features: width of the chunk.
        family: name of the family.
        budget: what the kernel may cost for one sample.
        seed: random seed of the initial weights.
        geometry: the layer's.

    Returns:
        None when the family has nothing for such a layer within the budget.

    Raises:
        BuildError: no such family.
    """
    if family not in FAMILIES:
        raise BuildError(
            f"There is no blueprint family {family!r}; known are {', '.join(FAMILIES)}."
        )
    maker = _MAKERS[geometry.kind].get(family)
    if maker is None:
        return None
    serves = PLAIN if geometry.kind == "sequence" and family in _AT_EACH_POSITION else geometry
    return maker(ChunkPlace(in_features, out_features, serves, budget, seed))
