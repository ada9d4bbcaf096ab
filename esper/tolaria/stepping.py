"""One optimizer step: the live pass for the host and live kernels, then the shadow passes of the TRAINING seeds whose turn it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.events.records import FailurePhase
from esper.kasmina.growth import GrowingModel, Place
from esper.lifecycle import LIVE, RunState
from esper.tolaria.recipe import Recipe


def stream_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed for the random stream that `labels` name: no stream moves another."""
    text = "\x1f".join(str(label) for label in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def batch_order(seed: int, epoch: int, samples: int, batch_size: int) -> Tensor:
    """Indices [steps, batch_size] of an epoch: a permutation made from (seed, epoch) alone; the rest that fills no batch is left out."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
    steps = samples // batch_size
    return torch.randperm(samples, generator=generator)[: steps * batch_size].view(steps, batch_size)


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Figures of one step: loss in nats, accuracy as a fraction, Euclidean norm of the host's gradient before clipping."""

    loss: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    faults: tuple[KernelFault, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelFault:
    """A kernel that failed in a step, for the `consecutive`th time in a row."""

    place: Place
    phase: FailurePhase
    error: str
    consecutive: int


class Stepper:
    """Steps a growing model. The schedule is a cosine to zero over `total_steps`."""

    def __init__(self, growing: GrowingModel, recipe: Recipe, total_steps: int) -> None:
        self._growing = growing
        self._recipe = recipe
        self._total_steps = total_steps
        settings = recipe.optimizer
        self.host_optimizer = torch.optim.AdamW(growing.host_parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def notes(self) -> dict[str, Any]:
        """What a snapshot keeps of it beside the optimizer's tensors."""
        return {}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Take back what `notes` gave."""

    def fraction(self, step: int) -> float:
        """Fraction of the learning rates that the schedule gives at `step` (SGDR, Loshchilov and Hutter 2017, without restarts)."""
        return 0.5 * (1 + math.cos(math.pi * min(step, self._total_steps) / self._total_steps))

    def turns(self, state: RunState, step: int) -> list[Place]:
        """The TRAINING seeds that have a shadow pass in this step: at most `kernels.shadow_passes`, taking turns."""
        training = [
            (seed.layer, seed.seed) for seed in state.seeds if seed.stage == "TRAINING" and (seed.layer, seed.seed) in self._growing.kernels
        ]
        passes = min(self._recipe.kernels.shadow_passes, len(training))
        return [training[(step * passes + index) % len(training)] for index in range(passes)]

    def step(
        self, state: RunState, step: int, batch: tuple[Tensor, Tensor], *, sample: bool, forced: frozenset[Place] = frozenset()
    ) -> StepFigures:
        """Do step number `step` (from 0) on inputs [B, ...] and labels [B]; with `sample`, seed statistics are taken."""
        growing, (inputs, labels) = self._growing, batch
        del forced
        fraction = self.fraction(step)
        group = self.host_optimizer.param_groups[0]
        group["lr"] = self._recipe.optimizer.learning_rate * fraction
        torch.manual_seed(stream_seed(self._recipe.run.seed, "forward", step))
        before = torch.get_rng_state()
        growing.switches.sampling = sample
        self.host_optimizer.zero_grad(set_to_none=True)
        growing.zero_gradients()
        logits = growing.module(inputs)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()
        growing.switches.sampling = False
        live = [(seed.layer, seed.seed) for seed in state.seeds if seed.stage in LIVE and (seed.layer, seed.seed) in growing.kernels]
        shadowed = self.turns(state, step)
        for place in shadowed:
            growing.shadow_step(place, before, lambda: functional.cross_entropy(growing.module(inputs), labels))
        if sample:
            growing.observe_gradients()
        limit = self._recipe.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(growing.host_parameters, limit)
        self.host_optimizer.step()
        growing.optimise([*live, *shadowed], fraction)
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        return StepFigures(loss.item(), accuracy.item(), norm.item(), group["lr"])
