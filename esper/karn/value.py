"""What flows along an edge of a blueprint's graph, for one sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.errors import BuildError
from esper.events.geometry import Layout, channels_first, shape

MAX_SIZE = 1 << 20
"""Largest number of features, channels or positions."""


@dataclass(frozen=True, slots=True)
class Value:
    """Channels at positions.

    | kind | shape |
    |---|---|
    | features | (features,) |
    | sequence | (length, features) |
    | conv1d | (channels, length) |
    | conv2d | (channels, height, width) |

    Attributes:
        kind: How they are laid out: as a layer of that kind reads and writes them.
        channels: Channels or features.
        size: Positions: (), (length,) or (height, width).
    """

    kind: Layout
    channels: int
    size: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the tensor without the batch."""
        return shape(self.kind, self.channels, self.size)

    @property
    def channels_first(self) -> bool:
        """Whether channels stand before positions."""
        return channels_first(self.kind)

    @property
    def positions(self) -> int:
        """Number of positions; 1 for plain features."""
        return math.prod(self.size)

    def __str__(self) -> str:
        return f"{self.kind} of shape ({', '.join(map(str, self.shape))})"


def require_size(what: str, value: int, *, least: int = 1) -> None:
    """Refuse a number that no layer has.

    Raises:
        BuildError: it is below `least` or above `MAX_SIZE`.
    """
    if not least <= value <= MAX_SIZE:
        raise BuildError(f"{what} is {value}; it has to be from {least} to {MAX_SIZE}.")
