"""A growing model: the seeded layers of a module, and what makes their tensors follow the folded
state of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.errors import UsageError
from esper.events.geometry import Geometry, parse
from esper.events.records import LayerInventory
from esper.kasmina.adamw import EagerAdamW
from esper.kasmina.numerics import Numerics, each_tensor, full
from esper.kasmina.seeded.fast_path import FastPaths, slow_path
from esper.kasmina.seeded.faults import KernelFault, Place
from esper.kasmina.seeded.health import Health
from esper.kasmina.seeded.hosts import gradient, unsuited
from esper.kasmina.seeded.kernel_training import Grown, KernelTraining
from esper.kasmina.seeded.layers import (
    SeededLayer,
    Switches,
    clear,
    fill,
    host_parameters,
    kernel_type,
    reads_and_writes,
    unseed,
)
from esper.kasmina.seeded.probing import REFUSED, Seen, geometries, uncompiled
from esper.kasmina.seeded.shadow import (
    Gradients,
    Kept,
    Unrecorded,
    evaluating,
    shadow_gradients,
    untouched,
)
from esper.kasmina.seeded.slots import HALF, Slot
from esper.kasmina.seeded.statistics import SeedStatistics, StatisticsBuffer
from esper.kernels.build import KernelModule
from esper.lifecycle import LIVE, RunState, SeedState

__all__ = ["GrowingModel", "Grown", "KernelFault", "KernelTraining", "Place", "Shape"]

T = TypeVar("T")
Shape = tuple[int, int, str]
"""What a kernel has to fit at a seed: channels that the layer reads, chunk width, and the layer's
geometry as esper.events.geometry writes it.
"""


class GrowingModel:
    """The seeded layers of a germinated module.

    Tensors follow the folded state: `follow` is called after each event frame.

    `excluded` names layers of a host's class that have no seeds because their forward is not what
    runs, and why.
    """

    def __init__(
        self, module: nn.Module, *, training: KernelTraining, numerics: Numerics | None = None
    ) -> None:
        self.module = module
        self.numerics = numerics or Numerics()
        self.layers: dict[str, SeededLayer] = {
            name: layer for name, layer in module.named_modules() if isinstance(layer, SeededLayer)
        }
        _require_one_process(module)
        self.switches = Switches()
        for name, layer in self.layers.items():
            # the model may have been wrapped since `germinate`, or seeded in several calls: names
            # are those of what is trained, and one assignment reaches every layer of it
            layer.seeds.name, layer.seeds.switches = name, self.switches
        # taken before any graft: later module.parameters() has those of kernels too
        self.host_parameters = [
            parameter for parameter in module.parameters() if parameter.requires_grad
        ]
        self.kernels: dict[Place, Grown] = {}
        self.excluded: dict[str, str] = unsuited(module)
        self._training = training
        self._fast_paths = FastPaths(module)
        self._checkpointed: set[Place] = set()  # seeds within reentrant checkpoints
        self._settle()

    def _settle(self) -> None:
        """Make health and statistics for the layers that have seeds."""
        self.health: dict[Place, Health] = {place: Health() for place in self.places()}
        device = self.host_parameters[0].device if self.host_parameters else torch.device("cpu")
        self._statistics = StatisticsBuffer(
            {name: (layer.seeds.chunks, layer.seeds.dim) for name, layer in self.layers.items()},
            device,
        )
        for name, layer in self.layers.items():
            layer.seeds.statistics = self._statistics.layers[name]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The module's output for inputs [B, ...], in the run's precision.

        What is in a lower one comes back as float32.
        """
        place = self.numerics.inputs
        with self.numerics.autocast():
            output = self.module(
                *(each_tensor(place, one) for one in inputs),
                **{name: each_tensor(place, one) for name, one in named.items()},
            )
        # losses and metrics sum many numbers: in half precision they would lose the small ones
        return each_tensor(self._widened, output)

    def _widened(self, tensor: Tensor) -> Tensor:
        low = self.numerics.precision != "float32" or tensor.dtype in HALF
        return full(tensor) if low else tensor

    def trial(self, forward: Callable[[], T]) -> T:
        """What a forward gives in evaluation mode, without gradients.

        Nothing of model or random streams moves.
        """
        with torch.no_grad(), evaluating(self.module):
            return forward()

    def probe(self, *inputs: Any, **named: Any) -> dict[str, str]:
        """Learn each layer's geometry from one forward on inputs [B, ...]; see `probe_by`."""
        first = next(one for one in (*inputs, *named.values()) if isinstance(one, Tensor))
        return self.probe_by(lambda: self(*inputs, **named), samples=len(first))

    def probe_by(self, forward: Callable[[], object], samples: int) -> dict[str, str]:
        """Learn each layer's geometry from one `forward` of this model on `samples` samples, in
        evaluation mode.

        Nothing of model or random streams moves.

        Layers that the forward does not reach or runs without gradients, or that do not compute
        what their class says, lose their seeds: kernels there would change nothing, could not learn
        or could not be verified. Call it before the run starts.

        Returns:
            Those layers and why, as in `excluded`.

        Raises:
            UsageError: no layer is left, or one holds a kernel of an earlier run.
        """
        _require_empty(self.layers)
        seen = Seen(self.layers)
        # with gradients, to see the layers that the model runs without
        with torch.enable_grad(), uncompiled(), slow_path(), evaluating(self.module), seen:
            forward()
        if seen.frozen:
            seen.frozen &= self._frozen_in_training(forward)
        known, refused = geometries(self.layers, seen, batch=samples)
        for name, geometry in known.items():
            self.layers[name].seeds.geometry = geometry
        self._refuse(refused)
        return refused

    def keep_order(self) -> dict[str, str]:
        """Take the model for one none of whose outputs may depend on a later position: its
        sequences get kernels that look at earlier ones alone. Call it after the probe.

        Returns:
            The layers that lose their seeds by it, and why: windows look ahead.

        Raises:
            UsageError: no layer is left.
        """
        refused = {}
        for name, layer in self.layers.items():
            seen = parse(layer.seeds.geometry or "")
            if seen.kind == "sequence":
                layer.seeds.geometry = Geometry("causal", seen.size).text
            elif seen.layout == "conv1d":
                refused[name] = (
                    "no output of the model depends on a later position, and kernels with a window "
                    "would look ahead"
                )
        self._refuse(refused)
        return refused

    def _refuse(self, refused: Mapping[str, str]) -> None:
        """Take the seeds of layers that cannot grow.

        Raises:
            UsageError: no layer is left.
        """
        for name, why in refused.items():
            layer = self.layers.pop(name)
            unseed(layer)
            REFUSED[layer] = why
        if not self.layers:
            raise UsageError(
                "No layer can grow: "
                f"{'; '.join(f'{name}: {why}' for name, why in refused.items())}. Include "
                "other layers."
            )
        self.excluded |= refused
        self._settle()

    def _frozen_in_training(self, forward: Callable[[], object]) -> set[str]:
        """The layers that the model runs without gradients in training too: some models record none
        in evaluation alone.
        """
        seen = Seen(self.layers)
        if not self.module.training:
            return set()
        try:
            with torch.enable_grad(), uncompiled(), untouched(self.module), seen:
                forward()
        except Exception:  # noqa: BLE001  # so few samples may be too few for training
            return set()
        return seen.frozen

    def places(self) -> Iterator[Place]:
        """Every seed, in the order of the inventory."""
        return (
            (name, index)
            for name, layer in self.layers.items()
            for index in range(len(layer.seeds.chunks))
        )

    def geometry(self, name: str) -> str:
        """A layer's geometry; that of a layer on features is empty before a probe.

        Raises:
            UsageError: a convolution's is not known yet.
        """
        seeds = self.layers[name].seeds
        if seeds.geometry is None and not seeds.kind.at_each_position:
            raise UsageError(
                f"The size that {name} reads is not known yet; call probe(inputs) first."
            )
        return seeds.geometry or ""

    def shapes(self) -> dict[Place, Shape]:
        """What a kernel has to fit, for each seed."""
        return {
            (name, index): (reads_and_writes(layer)[0], width, self.geometry(name))
            for name, layer in self.layers.items()
            for index, width in enumerate(layer.seeds.chunks)
        }

    def inventory(self) -> tuple[LayerInventory, ...]:
        """The seeded layers, as RunStarted lists them."""
        return tuple(
            LayerInventory(
                name=name,
                kind=layer.seeds.kind.name,
                in_features=reads_and_writes(layer)[0],
                out_features=reads_and_writes(layer)[1],
                parameters=host_parameters(layer),
                chunks=layer.seeds.chunks,
                geometry=self.geometry(name),
            )
            for name, layer in self.layers.items()
        )

    def graft(self, place: Place, slot: Slot) -> None:
        """Put a kernel into an empty slot, with an optimizer of its own."""
        layer = self.layers[place[0]]
        device = next(layer.parameters()).device
        slot.alpha = torch.zeros((), device=device)
        dtype, casts = kernel_type(layer)
        slot.kernel.to(device, dtype)
        if isinstance(slot.kernel, KernelModule):
            slot.kernel.casts = casts
        fill(layer, place[1], slot)
        self._fast_paths.settle()
        parameters = [
            parameter for parameter in slot.kernel.parameters() if parameter.requires_grad
        ]
        settings = self._training
        optimizer = EagerAdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.kernels[place] = Grown(slot, optimizer, parameters)

    def release(self, place: Place) -> None:
        """Empty a slot: kernel and optimizer state are gone, the structure is the host's again."""
        clear(self.layers[place[0]], place[1])
        self._fast_paths.settle()
        del self.kernels[place]

    def follow(self, state: RunState, step: int) -> None:
        """Make slots and alphas what the folded state says they are at `step`."""
        for seed in state.seeds:
            place = (seed.layer, seed.seed)
            grown = self.kernels.get(place)
            if grown is None:
                continue
            if (
                not seed.kernel_id
                or seed.execution == "ERROR_RECOVERY"
                or seed.stage == "TERMINATED"
            ):
                self.release(place)
                continue
            grown.slot.live = seed.stage in LIVE
            grown.slot.fossilised = seed.stage == "FOSSILIZED"
            grown.slot.alpha_target = seed.alpha_target
            # in place: a compiled forward holds this very tensor
            grown.slot.alpha.fill_(self.alpha(seed, step))

    def alpha(self, seed: SeedState, step: int) -> float:
        """Blending weight of a seed at `step`: a linear ramp in BLENDING, the target after it, 0
        before.
        """
        if seed.stage == "BLENDING":
            # from the step alone, not summed up step by step: replay and restore get the same bits
            return seed.alpha_target * min(
                1.0, (step - seed.stage_step) / self._training.blend_steps
            )
        return seed.alpha_target if seed.stage in LIVE else 0.0

    def blended(self, seed: SeedState, step: int) -> bool:
        """Whether the ramp of a BLENDING seed has reached its target."""
        return step - seed.stage_step >= self._training.blend_steps

    def kept(self) -> Kept:
        """Copies of what a forward in training moves beside gradients, to be put back when a step
        is done again.
        """
        return Kept(self.module.modules())

    def shadow_step(self, place: Place, random_seed: int, loss: Callable[[], Tensor]) -> None:
        """Add the shadow pass's gradients to those of the TRAINING kernel at `place`, times its
        `scale` in float16.

        A kernel that fails is noted in `switches.notes`, and has no gradients.
        """
        grown = self.kernels[place]
        scale = grown.scale if self.numerics.scales else 1.0
        scaled = loss if scale == 1.0 else lambda: loss() * scale
        try:
            gradients = self._shadow_gradients(place, random_seed, scaled)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a kernel does in its backward, the step goes on
            self.switches.notes.failed(place, error)
            return
        grown.add(gradients)

    def _shadow_gradients(
        self, place: Place, random_seed: int, loss: Callable[[], Tensor]
    ) -> Gradients:
        grown = self.kernels[place]
        kernel = (self.switches, place, grown.slot, grown.parameters)
        if place not in self._checkpointed:
            try:
                with untouched(self.module, random_seed):
                    return shadow_gradients(*kernel, loss)
            except Unrecorded:
                self._checkpointed.add(place)
        with untouched(self.module, random_seed):
            return shadow_gradients(*kernel, loss, through=self.module)

    def optimise(self, norms: Mapping[Place, Tensor], fraction: float) -> None:
        """One optimizer step for each kernel in `norms` (norm of its gradients), at `fraction` (0
        to 1) of its rate by the run's schedule.
        """
        for place, norm in norms.items():
            self.kernels[place].optimise(self._training, fraction, norm)

    def zero_gradients(self) -> None:
        """Forget the gradients of every kernel."""
        for grown in self.kernels.values():
            grown.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def observe_gradients(self) -> None:
        """Write the gradient norm of each seed into the statistics buffer: of its kernel when it
        holds one, else of its chunk's rows.
        """
        for name, layer in self.layers.items():
            statistics = self._statistics.layers[name]
            rows = gradient(layer.seeds.kind, layer)
            if rows is not None:
                statistics.observe_gradient(rows)
            for index in range(len(layer.seeds.chunks)):
                grown = self.kernels.get((name, index))
                held = list(grown.gradients()) if grown else []
                if held:
                    # stays on the device: .item() here would wait for the GPU once a seed
                    statistics.rows[index, 3] = torch.linalg.vector_norm(
                        torch.stack([torch.linalg.vector_norm(gradient) for gradient in held])
                    )

    def read_statistics(self) -> dict[Place, SeedStatistics]:
        """Figures of the last sampled step: one copy from the device."""
        return self._statistics.read()

    def kernel_bytes(self, place: Place) -> int:
        """Bytes of a kernel's parameters and optimizer state."""
        grown = self.kernels[place]
        states = [
            value
            for state in grown.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return sum(
            tensor.numel() * tensor.element_size() for tensor in [*grown.parameters, *states]
        )


def _require_empty(layers: Mapping[str, SeededLayer]) -> None:
    """Refuse layers that grew before: their seeds would be dormant to a run, and their kernels in
    the way of its own.

    Raises:
        UsageError: the first is named.
    """
    for name, layer in layers.items():
        if layer.seeds.busy:
            raise UsageError(
                f"Layer {name} holds kernels that it has grown before: harvest the model and "
                "germinate what that gives, and it keeps them and grows on."
            )


def _require_one_process(module: nn.Module) -> None:
    """Refuse what runs a model in several copies, of which each would grow by itself.

    Raises:
        UsageError: the wrapper is named.
    """
    for part in module.modules():
        if isinstance(part, nn.DataParallel) and len(part.device_ids) > 1:
            raise UsageError(
                f"nn.DataParallel runs copies of the model on {len(part.device_ids)} GPUs, and "
                "kernels are on one: give it device_ids=[0], or train the model without it."
            )
        if isinstance(part, DistributedDataParallel) and part.process_group.size() > 1:
            raise UsageError(
                f"DistributedDataParallel trains the model in {part.process_group.size()} "
                "processes, and each would grow another: train it in one."
            )
