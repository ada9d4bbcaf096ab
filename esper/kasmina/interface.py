"""The layer interface: what a layer is doing, and the commands that change what is in its seeds (MISSION: Kasmina).

Reading costs no synchronisation: every figure is on the host already. The commands change no tensor: they go to the journal, and tensors follow
the state that it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esper.errors import UsageError
from esper.events.records import Command, ExecutionState, Stage
from esper.kasmina.growth import GrowingModel
from esper.kasmina.vetting import Vetting
from esper.lifecycle import RunState
from esper.lifecycle.commands import Adapt, Source


@dataclass(frozen=True, slots=True)
class SeedStats:
    """One seed: lifecycle, what runs, weight in the blend, host time of the last sampled run (µs), faults in a row, health, runs of its kernel."""

    stage: Stage
    execution: ExecutionState
    kernel_id: str
    alpha: float
    latency_us: int
    errors: int
    health: float
    executions: int


@dataclass(frozen=True, slots=True)
class LayerStats:
    """One layer: calls of its forward, runs of kernels in it, runs a call, its seeds, and the figures of the kernel cache for it."""

    name: str
    kind: str
    geometry: str
    forward_calls: int
    kernel_executions: int
    execution_ratio: float
    seeds: tuple[SeedStats, ...]
    cache: Mapping[str, float]


def get_layer_stats(growing: GrowingModel, state: RunState, layer: str, *, cache: Mapping[str, float] | None = None) -> LayerStats:
    """What `layer` is doing; `cache` are the figures of the kernel cache for it.

    Raises:
        UsageError: the model has no such seeded layer.
    """
    if layer not in growing.layers:
        raise UsageError(f"There is no seeded layer {layer}; there are {', '.join(growing.layers)}.")
    found, seeds = growing.layers[layer].seeds, []
    for index in range(len(found.chunks)):
        place = (layer, index)
        folded, grown = state.seed(*place), growing.kernels.get(place)
        seeds.append(
            SeedStats(
                stage=folded.stage if folded else "DORMANT",
                execution=folded.execution if folded else "DORMANT",
                kernel_id=folded.kernel_id if folded else "",
                alpha=growing.alpha(folded, state.step) if folded else 0.0,
                latency_us=grown.slot.latency_us if grown else 0,
                errors=grown.errors if grown else 0,
                health=growing.health[place].score,
                executions=grown.slot.executions if grown else 0,
            )
        )
    return LayerStats(
        name=layer,
        kind=found.kind,
        geometry=growing.geometry(layer),
        forward_calls=found.calls,
        kernel_executions=found.executions,
        execution_ratio=found.executions / found.calls if found.calls else 0.0,
        seeds=tuple(seeds),
        cache=dict(cache or {}),
    )


class LayerCommands:
    """Commands of people and services for seeds; `do` writes each to the journal, which may refuse it.

    `vetting` gives the catalogue and shapes of the moment; `name` gives each command an id, by which it is one command however often it comes.
    """

    def __init__(self, *, do: Callable[[Adapt], object], vetting: Callable[[], Vetting], name: Callable[[], str]) -> None:
        self._do = do
        self._vetting = vetting
        self._name = name

    def load_kernel(self, layer: str, seed: int, kernel_id: str) -> None:
        """Graft a kernel of the catalogue into a dormant seed. It is loaded beside the training, and begins in TRAINING."""
        self._adapt("GERMINATE", layer, seed, kernel_id=kernel_id)

    def unload_kernel(self, layer: str, seed: int) -> None:
        """Cull what is in the seed: the chunk is the host's again, and the slot rests."""
        self._adapt("CULL", layer, seed)

    def set_seed_alpha(self, layer: str, seed: int, alpha: float) -> None:
        """Set the weight, 0 to 1, that a blended kernel ramps to or is held at."""
        self._adapt("SET_ALPHA", layer, seed, alpha=alpha)

    def _adapt(self, command: Command, layer: str, seed: int, *, kernel_id: str = "", alpha: float = -1.0) -> None:
        vetting, command_id = self._vetting(), self._name()
        kernel = vetting.kernels.get(kernel_id)
        self._do(
            Adapt(
                source=Source(command_id),
                decision_id=command_id,
                command=command,
                layer=layer,
                seed=seed,
                kernel_id=kernel_id,
                family=kernel.family if kernel else "",
                alpha=alpha,
                alpha_target=vetting.target(kernel_id),
                trusted=True,
                refusal=vetting.refusal(command, (layer, seed), kernel_id),
            )
        )
