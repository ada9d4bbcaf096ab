"""Kernels under way: each has its own optimizer, warm-up, clipping and overflow handling, apart
from the host's and from each other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from esper.kasmina.seeded.slots import Slot

FIRST_SCALE = 65_536.0  # of a TRAINING kernel's loss in float16, as torch.amp.GradScaler begins


class KernelTraining(BaseModel):
    """How kernels are optimised: apart from the host, with their own rate, warm-up and clipping."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(
        default=5e-3, gt=0, description="AdamW's rate before warm-up and the run's schedule"
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's decoupled weight decay")
    warmup_steps: int = Field(
        default=20, ge=0, description="optimizer steps over which a kernel's rate rises from 0"
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="largest Euclidean norm of one kernel's gradient"
    )
    blend_steps: int = Field(
        default=200, ge=1, description="steps over which alpha ramps linearly to its target"
    )


@torch.no_grad()
def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all elements of the tensors, on the device of the first.

    That of `nn.utils.get_total_norm`, to the bit, without its 0.1 to 0.3 ms of sorting tensors
    where all are alike.
    """
    if not tensors or len({(one.device, one.dtype) for one in tensors}) > 1:
        return nn.utils.get_total_norm(list(tensors))
    norms = torch.stack(torch._foreach_norm(list(tensors), 2.0))  # noqa: SLF001  # as torch's own does
    found: Tensor = torch.linalg.vector_norm(norms, 2.0)
    return found


class Counters(TypedDict):
    """What a snapshot has to keep of a kernel beside its tensors and optimizer state."""

    trained: int
    stepped: int
    errors: int
    scale: float


@dataclass(slots=True)
class Grown:
    """A kernel in its slot with its optimizer.

    `trained` counts optimizer steps in TRAINING, `stepped` all of them; `errors` faults in a row.
    `scale` multiplies the loss of its shadow passes in float16; an overflow halves it.
    """

    slot: Slot
    optimizer: torch.optim.AdamW
    parameters: list[nn.Parameter]
    trained: int = 0
    stepped: int = 0
    errors: int = 0
    scale: float = FIRST_SCALE

    def state_dict(self) -> Counters:
        """What a snapshot keeps of it beside the tensors of kernel and optimizer."""
        return Counters(
            trained=self.trained, stepped=self.stepped, errors=self.errors, scale=self.scale
        )

    def load_state_dict(self, counters: Counters) -> None:
        """Take back what `state_dict` gave."""
        self.trained, self.stepped = counters["trained"], counters["stepped"]
        self.errors, self.scale = counters["errors"], counters["scale"]

    def gradients(self) -> Iterator[Tensor]:
        """Gradients that are there."""
        return (parameter.grad for parameter in self.parameters if parameter.grad is not None)

    def add(self, gradients: tuple[Tensor | None, ...]) -> None:
        """Add gradients to those of earlier micro-batches."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def norm(self, scale: float) -> Tensor:
        """Divide the gradients by `scale`, and give their Euclidean norm."""
        held = list(self.gradients())
        if scale != 1.0:
            for gradient in held:
                # scales are powers of two: the division changes the exponent alone, and no digit
                gradient.div_(scale)
        return total_norm(held) if held else torch.zeros((), device=self.slot.alpha.device)

    def optimise(self, settings: KernelTraining, fraction: float, norm: Tensor) -> None:
        """One optimizer step at `fraction` (0 to 1) of the rate by the run's schedule.

        `norm` is that of the gradients.
        """
        warmup = (
            # from 1: at rate 0 the first step would move Adam's averages and no weight
            min(1.0, (self.stepped + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        )
        # set at each step from counters, so that a restored run needs no scheduler's state
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * fraction * warmup
        # Pascanu et al. 2013, arXiv 1211.5063; the overflow check has taken the norm already
        nn.utils.clip_grads_with_norm_(self.parameters, settings.clip_norm, norm)
        self.optimizer.step()
        self.stepped += 1
        if not self.slot.live:
            self.trained += 1
