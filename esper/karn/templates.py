"""Template families: how a blueprint of a kind looks for a layer's shape and geometry, within a
budget.

| family | layers | reads | blend | starts as |
|---|---|---|---|---|
| linear | features, sequences | layer input | residual 0.3 | nothing (zero weights) |
| low_rank | features, sequences | layer input | residual 0.3 | nothing (zero second factor) |
| mlp | features, sequences | layer input | residual 1 | nothing (zero second map) |
| conv1d | features, signals | layer input | residual 1 | nothing (zero last map) |
| conv2d | images | layer input | residual 1 | nothing (zero last map) |
| depthwise | convolutions | layer input | residual 1 | nothing (zero pointwise map) |
| gate | features, sequences | host chunk | lerp 1 | the host's chunk (gate open at 1) |
| pool | convolutions | host chunk | lerp 1 | the host's chunk (gate open at 1) |
| norm | all | host chunk | residual 0.3 | nothing (zero scale and shift) |
| attention | all but features | layer input * | residual 1 | nothing (zero output map) |

Signals and images are what convolutions of one and two dimensions read and write.

* the host chunk, where the layer changes the positions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from esper.errors import BuildError, UsageError, printable
from esper.events.geometry import PLAIN, Geometry, Kind, windows_on
from esper.karn import dense, spatial
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.place import ChunkPlace
from esper.plugins import plugged

Maker = Callable[[ChunkPlace], BlueprintIR | None]
"""The largest useful blueprint for a place, or None when it has nothing for it."""
GROUP: Final = "esper.families"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class FamilyFault(BuildError):  # noqa: N818  # whose it is matters, not that it is an error
    """What a family of an installed package has done wrong."""


@dataclass(frozen=True, slots=True)
class Family:
    """A way to make a blueprint for a place.

    Attributes:
        name: What reports, blueprints and decisions call it: lower case, digits, underscores.
        makers: What makes its blueprint, by the kind of geometry of the layer; it has nothing for
            kinds that are not there.
        at_each_position: Kinds of geometry at whose positions it works alike, so that its
            blueprint leaves the positions out, and one kernel serves every length.
    """

    name: str
    # a mapping has no hash, and the frozen class would ask it for one
    makers: Mapping[Kind, Maker] = field(hash=False)
    at_each_position: frozenset[Kind] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a name that no event could carry.

        Raises:
            UsageError: what a name has to be.
        """
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no name of a family: it takes a lower-case letter, then lower-"
                "case letters, digits and underscores, 64 at most."
            )


def _positions(name: str, maker: Maker, more: Mapping[Kind, Maker] | None = None) -> Family:
    """A family that works alike on features and at each position of a sequence."""
    sequences: tuple[Kind, ...] = ("sequence", "causal")
    makers = {**dict.fromkeys(("features", *sequences), maker), **(more or {})}
    return Family(name, makers, frozenset(sequences))


def _of(name: str, maker: Maker, *kinds: Kind) -> Family:
    return Family(name, dict.fromkeys(kinds, maker))


SIGNALS: Final = windows_on("conv1d")
IMAGES: Final = windows_on("conv2d")
BUILT_IN: Final = (
    _positions("linear", dense.linear),
    _positions("low_rank", dense.low_rank),
    _positions("mlp", dense.mlp),
    Family("conv1d", {"features": dense.conv1d, **dict.fromkeys(SIGNALS, spatial.convolution)}),
    _of("conv2d", spatial.convolution, *IMAGES),
    _of("depthwise", spatial.depthwise, *SIGNALS, *IMAGES),
    _positions("gate", dense.gate),
    _of("pool", spatial.pool, *SIGNALS, *IMAGES),
    _positions("norm", dense.norm, dict.fromkeys((*SIGNALS, *IMAGES), dense.norm)),
    _of("attention", spatial.attention, "sequence", "causal", *SIGNALS, *IMAGES),
)
"""Esper's own families, in the order in which they are proposed; installed ones come after them."""


@cache
def known() -> Mapping[str, Family]:
    """Every family by name: Esper's own, then those of installed packages, sorted.

    Raises:
        UsageError: a package's family cannot be used; see `esper.plugins.plugged`.
    """
    return named((*BUILT_IN, *plugged(GROUP, Family).values()))


def named(families: Iterable[Family]) -> Mapping[str, Family]:
    """Families by their names.

    Raises:
        UsageError: two have the same.
    """
    by_name: dict[str, Family] = {}
    for family in families:
        if family.name in by_name:
            raise UsageError(
                f"There are two kernel families of the name {family.name!r}: rename the one that "
                "an installed package brings, or uninstall it."
            )
        by_name[family.name] = family
    return by_name


def families_for(kind: Kind) -> tuple[str, ...]:
    """The families that have something for layers of a kind, in the order of `known`."""
    return tuple(name for name, family in known().items() if kind in family.makers)


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
        FamilyFault: one of an installed package has failed.
    """
    chosen = known().get(family)
    if chosen is None:
        raise BuildError(
            f"There is no blueprint family {family!r}; known are {', '.join(known())}."
        )
    maker = chosen.makers.get(geometry.kind)
    if maker is None:
        return None
    # without positions in the blueprint, layers of all lengths get one and the same kernel
    serves = PLAIN if geometry.kind in chosen.at_each_position else geometry
    place = ChunkPlace(in_features, out_features, serves, budget, seed)
    # not guarded: a failure of Esper's own family is a defect and keeps its traceback
    return maker(place) if chosen in BUILT_IN else _guarded(chosen, maker, place)


def _guarded(family: Family, maker: Maker, place: ChunkPlace) -> BlueprintIR | None:
    """What the maker of an installed package makes, which may do anything at all.

    Raises:
        FamilyFault: it raised, or gave something else than a blueprint of its family for the
            place.
    """
    try:
        made = maker(place)
    except Exception as error:
        raise FamilyFault(
            f"Family {family.name} of an installed package has failed "
            f"({type(error).__name__}: {printable(str(error))})."
        ) from error
    if made is None:
        return None
    if not isinstance(made, BlueprintIR) or made.family != family.name:
        what = f"a blueprint of {made.family!r}" if isinstance(made, BlueprintIR) else repr(made)
        raise FamilyFault(f"Family {family.name} of an installed package gave {printable(what)}.")
    # a maker may have kept a blueprint from an earlier place
    if made.out_features != place.out_features or made.seed != place.seed:
        raise FamilyFault(
            f"Family {family.name} of an installed package gave a blueprint for another place: "
            "use the place's own methods (on_input, on_chunk)."
        )
    return place.affordable(made)
