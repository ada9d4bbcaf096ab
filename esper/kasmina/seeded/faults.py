"""What went wrong with kernels in a pass, and whether what they gave was finite: noted on the way,
read once a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.events.records import FailurePhase

Place = tuple[str, int]
"""A seed's address: layer name and index in the layer."""


@dataclass(frozen=True, slots=True)
class KernelFault:
    """A kernel that did not do its part in a step, and whose seed was on its fallback for it.

    Attributes:
        place: The seed.
        phase: FORWARD: it raised, or gave another shape or type. NON_FINITE: what it gave, or the
            step with it, was not finite.
        error: What happened, in a sentence.
        consecutive: Faults of this kernel in a row, with this one.
    """

    place: Place
    phase: FailurePhase
    error: str
    consecutive: int


@dataclass(slots=True)
class Notes:
    """Notes of one pass.

    `finite` holds a flag on the device for each live kernel that was watched, in the order in which
    they ran.
    """

    watching: bool = False
    raised: dict[Place, str] = field(default_factory=dict)
    finite: dict[Place, Tensor] = field(default_factory=dict)

    def clear(self, *, watching: bool) -> None:
        """Begin a new pass; with `watching`, outputs of live kernels are checked."""
        self.watching, self.raised, self.finite = watching, {}, {}

    def failed(self, place: Place, error: Exception) -> None:
        """The kernel at `place` raised `error`."""
        # the first of a pass stays: a layer that runs again fails again for the same cause
        self.raised.setdefault(place, f"{type(error).__name__}: {error}".rstrip(".") + ".")

    def check(self, place: Place, value: Tensor) -> None:
        """Note whether all of what the kernel at `place` gave is finite.

        Does not wait for the device.
        """
        # a layer may run twice in one forward: both outputs count
        flag, known = torch.isfinite(value.detach()).all(), self.finite.get(place)
        self.finite[place] = flag if known is None else known & flag
