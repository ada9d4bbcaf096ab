"""A growing model: the seeded layers of a module, and what makes their tensors follow the folded state of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from esper.events.records import LayerInventory
from esper.kasmina.health import Health
from esper.kasmina.layers import SeededLinear, Seeds, Switches
from esper.kasmina.shadow import running_norms, shadow_gradients, untouched
from esper.kasmina.slots import Slot
from esper.kasmina.statistics import SeedStatistics, StatisticsBuffer
from esper.kasmina.table import SeedTable
from esper.lifecycle import LIVE, RunState, SeedState

Place = tuple[str, int]
"""A seed's address: layer name and index in the layer."""


class KernelTraining(BaseModel):
    """How kernels are optimised: apart from the host, with their own rate, warm-up and clipping."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(default=5e-3, gt=0, description="AdamW's rate before warm-up and the run's schedule")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's decoupled weight decay")
    warmup_steps: int = Field(default=20, ge=0, description="optimizer steps over which a kernel's rate rises from 0")
    clip_norm: float = Field(default=1.0, gt=0, description="largest Euclidean norm of one kernel's gradient")
    blend_steps: int = Field(default=200, ge=1, description="steps over which alpha ramps linearly to its target")


@dataclass(slots=True)
class Grown:
    """A kernel in its slot with its optimizer. `trained` counts optimizer steps in TRAINING, `stepped` all of them."""

    slot: Slot
    optimizer: torch.optim.AdamW
    parameters: list[nn.Parameter]
    trained: int = 0
    stepped: int = 0


class GrowingModel:
    """The seeded layers of a germinated module. Tensors follow the folded state: `follow` is called after each event frame."""

    def __init__(self, module: nn.Module, *, training: KernelTraining) -> None:
        self.module = module
        self.layers: dict[str, SeededLinear] = {name: layer for name, layer in module.named_modules() if isinstance(layer, SeededLinear)}
        self.switches = next(iter(self.layers.values())).seeds.switches if self.layers else Switches()
        self.host_parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.kernels: dict[Place, Grown] = {}
        self.table = SeedTable(sum(len(layer.seeds.chunks) for layer in self.layers.values()))
        self.health: dict[Place, Health] = {place: Health() for place in self.places()}
        device = self.host_parameters[0].device if self.host_parameters else torch.device("cpu")
        self._statistics = StatisticsBuffer({name: layer.seeds.chunks for name, layer in self.layers.items()}, device)
        for name, layer in self.layers.items():
            layer.seeds.statistics = self._statistics.layers[name]
        self._training = training
        self._norms = running_norms(module)

    def places(self) -> Iterator[Place]:
        """Every seed, in the order of the inventory."""
        return ((name, index) for name, layer in self.layers.items() for index in range(len(layer.seeds.chunks)))

    def inventory(self) -> tuple[LayerInventory, ...]:
        """The seeded layers, as RunStarted lists them."""
        return tuple(
            LayerInventory(
                name=name,
                kind="Linear",
                in_features=layer.in_features,
                out_features=layer.out_features,
                parameters=layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel()),
                chunks=layer.seeds.chunks,
            )
            for name, layer in self.layers.items()
        )

    def graft(self, place: Place, slot: Slot) -> None:
        """Put a kernel into an empty slot, with an optimizer of its own."""
        layer = self.layers[place[0]]
        slot.alpha = torch.zeros((), device=layer.weight.device)
        slot.kernel.to(layer.weight.device)
        layer.add_module(f"kernel_{place[1]}", slot.kernel)
        layer.seeds.slots[place[1]] = slot
        layer.seeds.refresh()
        parameters = [parameter for parameter in slot.kernel.parameters() if parameter.requires_grad]
        settings = self._training
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.kernels[place] = Grown(slot, optimizer, parameters)

    def release(self, place: Place) -> None:
        """Empty a slot: kernel and optimizer state are gone, the structure is the host's again."""
        layer = self.layers[place[0]]
        delattr(layer, f"kernel_{place[1]}")
        layer.seeds.slots[place[1]] = None
        layer.seeds.refresh()
        del self.kernels[place]

    def follow(self, state: RunState, step: int) -> None:
        """Make slots and alphas what the folded state says they are at `step`."""
        self.table.follow(state)
        for row, seed in enumerate(state.seeds):
            place = (seed.layer, seed.seed)
            grown = self.kernels.get(place)
            if grown is None:
                self.table.alpha[row] = 0.0
                continue
            if not seed.kernel_id or seed.execution == "ERROR_RECOVERY" or seed.stage == "TERMINATED":
                self.release(place)
                continue
            grown.slot.live = seed.stage in LIVE
            grown.slot.fossilised = seed.stage == "FOSSILIZED"
            grown.slot.alpha_target = seed.alpha_target
            alpha = self.alpha(seed, step)
            grown.slot.alpha.fill_(alpha)
            self.table.alpha[row] = alpha
            self.table.latency_us[row] = grown.slot.latency_us

    def alpha(self, seed: SeedState, step: int) -> float:
        """Blending weight of a seed at `step`: a linear ramp in BLENDING, the target after it, 0 before."""
        if seed.stage == "BLENDING":
            return seed.alpha_target * min(1.0, (step - seed.stage_step) / self._training.blend_steps)
        return seed.alpha_target if seed.stage in LIVE else 0.0

    def blended(self, seed: SeedState, step: int) -> bool:
        """Whether the ramp of a BLENDING seed has reached its target."""
        return step - seed.stage_step >= self._training.blend_steps

    def shadow_step(self, place: Place, random_state: Tensor, loss: Callable[[], Tensor]) -> None:
        """Leave the shadow pass's gradients in the parameters of the TRAINING kernel at `place`."""
        grown = self.kernels[place]
        with untouched(self._norms, random_state):
            _, gradients = shadow_gradients(self.switches, place, grown.parameters, loss)
        for parameter, gradient in zip(grown.parameters, gradients, strict=True):
            parameter.grad = gradient
        grown.trained += 1

    def optimise(self, places: Iterable[Place], fraction: float) -> None:
        """One optimizer step for the kernels at `places`, at `fraction` (0 to 1) of their rate by the run's schedule."""
        settings = self._training
        for place in places:
            grown = self.kernels[place]
            warmup = min(1.0, (grown.stepped + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
            grown.optimizer.param_groups[0]["lr"] = settings.learning_rate * fraction * warmup
            nn.utils.clip_grad_norm_(grown.parameters, settings.clip_norm)
            grown.optimizer.step()
            grown.optimizer.zero_grad(set_to_none=True)
            grown.stepped += 1

    def zero_gradients(self) -> None:
        """Forget the gradients of every kernel."""
        for grown in self.kernels.values():
            grown.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def observe_gradients(self) -> None:
        """Write the gradient norm of each seed into the statistics buffer: of its kernel when it holds one, else of its chunk's rows."""
        for name, layer in self.layers.items():
            rows = self._statistics.layers[name].rows
            gradient = layer.weight.grad
            for index, (start, width) in enumerate(zip(layer.seeds.starts(), layer.seeds.chunks, strict=True)):
                grown = self.kernels.get((name, index))
                held = [p.grad for p in grown.parameters if p.grad is not None] if grown else []
                if held:
                    rows[index, 3] = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in held]))
                elif gradient is not None:
                    rows[index, 3] = torch.linalg.vector_norm(gradient[start : start + width])

    def read_statistics(self) -> dict[Place, SeedStatistics]:
        """Figures of the last sampled step: one copy from the device."""
        return self._statistics.read()

    def kernel_bytes(self, place: Place) -> int:
        """Bytes of a kernel's parameters and optimizer state."""
        grown = self.kernels[place]
        states = [value for state in grown.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        return sum(one.numel() * one.element_size() for one in [*grown.parameters, *states])


def seed_layers(module: nn.Module, chunks: Mapping[str, tuple[int, ...]], make: Callable[[nn.Linear], type[SeededLinear]]) -> None:
    """Swap the class of each named layer for its seeded subclass and give it dormant seeds."""
    switches = Switches()
    modules = dict(module.named_modules())
    for name, sizes in chunks.items():
        layer = modules[name]
        assert isinstance(layer, nn.Linear)  # noqa: S101  # the caller found it so
        layer.__class__ = make(layer)
        layer.seeds = Seeds(name, sizes, switches)  # type: ignore[assignment]  # the class was just swapped
