"""What the passes of a step gave, and what follows for the kernels: which of them move, and which
have failed how often in a row. The same for a recipe's step and for a loop of the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from esper.events.records import FailurePhase
from esper.kasmina import GrowingModel, KernelFault
from esper.kasmina.growth import Place

NOT_FINITE: Final = "The kernel's output was not finite."
GRADIENT_NOT_FINITE: Final = "The kernel's gradient was not finite."
Faults = dict[Place, tuple[FailurePhase, str]]
"""In which phase a kernel failed, and how."""


@dataclass(slots=True)
class Pass:
    """What one attempt at a step gave: tensors on the device, until `read` copies them to the host
    at once.

    `kept` is the norm of the running statistics that it moved, `norms` are those of the kernels'
    gradients, `outputs` flags of finite outputs.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    norm: Tensor
    kept: Tensor
    norms: dict[Place, Tensor] = field(default_factory=dict)
    outputs: dict[Place, Tensor] = field(default_factory=dict)
    raised: dict[Place, str] = field(default_factory=dict)

    def read(self) -> PassFigures:
        """Its figures on the host, in one copy."""
        values = torch.stack(
            [
                # double holds float32 and counts of samples exactly: one copy carries all
                figure.double()
                for figure in (
                    self.loss,
                    self.norm,
                    self.kept,
                    *self.metrics.values(),
                    *self.norms.values(),
                    *self.outputs.values(),
                )
            ]
        )
        loss, norm, kept, *others = values.tolist()
        # not strict: norms and outputs follow the metrics in `others`
        metrics = dict(zip(self.metrics, others, strict=False))
        del others[: len(metrics)]
        return PassFigures(
            loss,
            metrics,
            norm,
            kept,
            {
                place: value
                for place, value in zip(self.norms, others, strict=False)
                if not math.isfinite(value)
            },
            [
                place
                for place, value in zip(self.outputs, others[len(self.norms) :], strict=True)
                if not value
            ],
        )


@dataclass(frozen=True, slots=True)
class PassFigures:
    """An attempt's figures on the host: the norms that are not finite, and the live kernels whose
    output was not, in the order they ran.
    """

    loss: float
    metrics: dict[str, float]
    norm: float
    kept: float
    norms: dict[Place, float]
    outputs: list[Place]

    @property
    def finite(self) -> bool:
        """Whether the host may move by it."""
        # statistics too: the forward moved them, and no skipped optimizer step takes that back
        return all(map(math.isfinite, (self.loss, self.norm, self.kept)))


def step_kernels(
    growing: GrowingModel, done: Pass, spoilt: Collection[Place], fraction: float
) -> None:
    """Let the kernels' optimizers move, but for those at `spoilt`; `fraction` is the schedule's."""
    growing.optimise(
        {place: norm for place, norm in done.norms.items() if place not in spoilt}, fraction
    )
    # shadow passes add to gradients, and the kernels at `spoilt` were not stepped
    growing.zero_gradients()


def count_faults(
    growing: GrowingModel,
    took_part: Sequence[Place],
    faults: Faults,
    *,
    forced: Collection[Place] = (),
    spared: Collection[Place] = (),
) -> tuple[KernelFault, ...]:
    """Count faults in a row, and put them together.

    A kernel at `forced` counts as failed without being told again; one at `spared` has neither
    failed nor shown that it works.
    """
    counted = []
    for place in took_part:
        grown = growing.kernels[place]
        if place in faults or place in forced:
            grown.errors += 1
        # an overflow proves nothing either way: the row of failures neither grows nor ends
        elif place not in spared:
            grown.errors = 0
        # a forced failure stands in the record already; a report would journal it twice
        if place in faults:
            phase, error = faults[place]
            counted.append(KernelFault(place, phase, error, grown.errors))
    return tuple(counted)
