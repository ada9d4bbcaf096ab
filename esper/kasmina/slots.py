"""A slot: one kernel in one seed, how it reads and how it is blended.

Shape legend: B batch (and any leading dimensions), I layer input features, C chunk width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from esper.events.records import Blend, Tap

SATURATED_US = 65_535  # latency is kept in 16 bits


@dataclass(slots=True)
class Slot:
    """A kernel that a seed holds.

    `alpha` is a tensor so that a compiled forward is not compiled again when it changes. `live` kernels take part in the forward pass;
    a TRAINING kernel is there, but only the shadow pass runs it. `fossilised` ones stay in a harvested model.
    """

    kernel_id: str
    family: str
    kernel: nn.Module
    blend: Blend
    tap: Tap
    alpha_target: float
    alpha: Tensor = field(default_factory=lambda: torch.zeros(()))
    live: bool = False
    fossilised: bool = False
    latency_us: int = 0

    def output(self, inputs: Tensor, chunk: Tensor, *, timed: bool = False) -> Tensor:
        """What the kernel gives for layer inputs [B, I] and the host's chunk [B, C]: [B, C]."""
        source = inputs if self.tap == "LAYER_INPUT" else chunk
        if not timed:
            result: Tensor = self.kernel(source)
            return result
        begin = time.perf_counter_ns()
        result = self.kernel(source)
        self.latency_us = min((time.perf_counter_ns() - begin) // 1000, SATURATED_US)
        return result

    def blended(self, inputs: Tensor, chunk: Tensor, *, timed: bool = False) -> Tensor:
        """The live chunk [B, C]: residual `h + alpha*k`, or lerp `(1-alpha)*h + alpha*k`."""
        k = self.output(inputs, chunk, timed=timed)
        if self.blend == "RESIDUAL":
            return chunk + self.alpha * k
        return (1 - self.alpha) * chunk + self.alpha * k

    def shadow(self, inputs: Tensor, chunk: Tensor) -> Tensor:
        """The chunk [B, C] as it would be after blending, with gradients to the kernel alone: `h.detach() + target*k`, or lerp at its target."""
        h = chunk.detach()
        k = self.output(inputs.detach(), h)
        if self.blend == "RESIDUAL":
            return h + self.alpha_target * k
        return k if self.alpha_target == 1 else (1 - self.alpha_target) * h + self.alpha_target * k
