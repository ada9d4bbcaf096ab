"""Where a kernel is wanted, and how large it may become there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from esper.events.geometry import Geometry, outputs
from esper.events.records import Blend, Tap
from esper.karn.ir import BlueprintIR, Budget, Node

ALPHA_TARGETS: Final[Mapping[Blend, float]] = {"RESIDUAL": 0.3, "LERP": 1.0}
"""Blending weight that a kernel ramps to, where its blueprint says no other."""
WHOLE: Final = 1.0
"""Blending weight of a kernel with a nonlinearity whose last map starts at zero: it begins as
nothing, and what it has learnt counts in full.
"""
RANK_DIVISOR = 4
"""A bottleneck is at most a quarter as wide as what it connects."""


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """A chunk of a layer.

    Attributes:
        in_features: Features or channels that the layer reads.
        out_features: Width of the chunk.
        geometry: The layer's.
        budget: What one kernel may cost.
        seed: Random seed of the initial weights.
    """

    in_features: int
    out_features: int
    geometry: Geometry
    budget: Budget
    seed: int

    def on_input(
        self, family: str, blend: Blend, nodes: tuple[Node, ...], alpha: float | None = None
    ) -> BlueprintIR:
        """A blueprint that reads the layer's input; `alpha` is its blending weight, where it is
        another than that of its blend.
        """
        return self._blueprint(
            family, "LAYER_INPUT", blend, nodes, alpha, (self.in_features, self.geometry)
        )

    def on_chunk(
        self, family: str, blend: Blend, nodes: tuple[Node, ...], alpha: float | None = None
    ) -> BlueprintIR:
        """A blueprint that reads the host's chunk; `alpha` as for `on_input`."""
        # a chunk stands at the positions that the layer writes, not at those that it reads
        reads = (self.out_features, outputs(self.geometry))
        return self._blueprint(family, "HOST_CHUNK", blend, nodes, alpha, reads)

    def _blueprint(
        self,
        family: str,
        tap: Tap,
        blend: Blend,
        nodes: tuple[Node, ...],
        alpha: float | None,
        reads: tuple[int, Geometry],
    ) -> BlueprintIR:
        return BlueprintIR(
            family=family,
            in_features=reads[0],
            out_features=self.out_features,
            tap=tap,
            blend=blend,
            alpha_target=ALPHA_TARGETS[blend] if alpha is None else alpha,
            seed=self.seed,
            nodes=nodes,
            geometry=reads[1],
        )

    def affordable(self, candidate: BlueprintIR) -> BlueprintIR | None:
        """The candidate, or None when it is over the budget."""
        return candidate if candidate.fits(self.budget) else None

    def largest(
        self, make: Callable[[int], BlueprintIR], least: int, most: int
    ) -> BlueprintIR | None:
        """The largest blueprint of sizes `least` to `most` within the budget.

        None when even the least is over it. Cost grows with size.
        """
        low, high, best = least, most, None
        # bisection: about 20 blueprints at most, even for the largest size
        while low <= high:
            middle = (low + high) // 2
            candidate = make(middle)
            if candidate.fits(self.budget):
                low, best = middle + 1, candidate
            else:
                high = middle - 1
        return best
