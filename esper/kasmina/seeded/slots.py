"""A slot: one kernel in one seed, how it reads and how it is blended.

Shape legend: B batch (and any leading dimensions), I layer input channels, C chunk width, S
positions of a convolution; channels of a convolution stand before its positions, as torch has them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from esper.errors import BuildError
from esper.events.records import Blend, Tap
from esper.kernels.build import KernelModule

HALF = (torch.bfloat16, torch.float16)
"""Types in which sums and small steps lose what matters."""
SATURATED_US = 65_535  # latency is kept in 16 bits


@dataclass(slots=True)
class Slot:
    """A kernel that a seed holds.

    `alpha` is a tensor so that a compiled forward is not compiled again when it changes. `live`
    kernels take part in the forward pass; a TRAINING kernel is there, but only the shadow pass runs
    it. `fossilised` ones stay in a harvested model. `geometry` is the kernel's own, as
    `esper.events.geometry` writes it: on a Linear layer, a kernel of features runs at each
    position, one of sequences on all of them. `latency_us` is what the last sampled run took on the
    host. `unrecorded` says that a shadow pass ran it where no gradients are recorded.
    """

    kernel_id: str
    family: str
    kernel: nn.Module
    blend: Blend
    tap: Tap
    alpha_target: float
    geometry: str = ""
    alpha: Tensor = field(default_factory=lambda: torch.zeros(()))
    live: bool = False
    fossilised: bool = False
    latency_us: int = 0
    unrecorded: bool = False

    def __post_init__(self) -> None:
        """Take the geometry of a kernel that knows its blueprint."""
        if isinstance(self.kernel, KernelModule):
            self.geometry = self.kernel.ir.geometry.text

    def output(self, inputs: Tensor, chunk: Tensor, dim: int, *, timed: bool = False) -> Tensor:
        """What the kernel gives for layer inputs [B, I, S] and the host's chunk [B, C, S]: a tensor
        like the chunk. `dim` is that of channels.

        Raises:
            BuildError: it gives another shape or type.
        """
        source = inputs if self.tap == "LAYER_INPUT" else chunk
        begin = time.perf_counter_ns() if timed else 0
        result = self._run(source, dim)
        if timed:
            self.latency_us = min((time.perf_counter_ns() - begin) // 1000, SATURATED_US)
        if result.shape != chunk.shape:
            raise BuildError(
                f"The kernel gives {tuple(result.shape)} for a chunk of {tuple(chunk.shape)}."
            )
        if result.dtype != chunk.dtype:
            # under autocast, operators that stay in float32 give that; a kernel that casts gives
            # the type of its input, which a layer may change
            casts = getattr(self.kernel, "casts", False)
            if not (
                result.is_floating_point()
                and (casts or torch.is_autocast_enabled(chunk.device.type))
            ):
                raise BuildError(f"The kernel gives {result.dtype} for a chunk of {chunk.dtype}.")
            result = result.to(chunk.dtype)
        return result

    def _run(self, source: Tensor, dim: int) -> Tensor:
        if dim == -1 and not self.geometry and source.dim() != 2:
            # kernels of features are verified on [batch, features]: positions become samples
            flat: Tensor = self.kernel(source.reshape(-1, source.shape[-1]))
            return flat.reshape(*source.shape[:-1], flat.shape[-1])
        if source.dim() == (2 if dim == -1 and self.geometry else -dim):  # no batch dimension
            alone: Tensor = self.kernel(source.unsqueeze(0)).squeeze(0)
            return alone
        result: Tensor = self.kernel(source)
        return result

    def blended(self, chunk: Tensor, k: Tensor) -> Tensor:
        """The live chunk: residual `h + alpha*k`, or lerp `(1-alpha)*h + alpha*k`."""
        # `1 - alpha` has to round as finely as the chunk does
        alpha = self.alpha.double() if chunk.dtype == torch.float64 else self.alpha
        if chunk.dtype in HALF and not torch.is_autocast_enabled(chunk.device.type):
            # torch would round alpha itself to the chunk's type, and a number in a harvest not
            part, rest = (alpha * k.float()).to(chunk.dtype), chunk
            if self.blend == "LERP":
                rest = ((1 - alpha) * chunk.float()).to(chunk.dtype)
            return rest + part
        if self.blend == "RESIDUAL":
            return chunk + alpha * k
        # written out, not torch.lerp, whose rounding differs: `harvest` builds the same expression
        return (1 - alpha) * chunk + alpha * k

    def shadow(self, chunk: Tensor, k: Tensor) -> Tensor:
        """The chunk as it would be after blending: residual or lerp at the target.

        The chunk is detached, so gradients go to the kernel alone.
        """
        self.unrecorded |= not k.requires_grad
        if self.blend == "RESIDUAL":
            return chunk + self.alpha_target * k
        return (
            k if self.alpha_target == 1 else (1 - self.alpha_target) * chunk + self.alpha_target * k
        )
