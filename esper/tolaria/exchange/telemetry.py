"""What the trainer tells while it trains: steps, seed health, performance deltas, resources, the
kernel cache. Fire and forget, off the training thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import psutil

from esper.events import Event, Origin
from esper.events.records import (
    CacheSampled,
    PerformanceDelta,
    ResourceSampled,
    SeedHealth,
    TrainingStep,
)
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.loader import LoaderFigures
from esper.kasmina.monitor import SeedMonitor
from esper.lifecycle import RunState
from esper.tolaria.recipes.recipe import GatesSection
from esper.tolaria.step.evaluation import Figures, paired
from esper.tolaria.step.gates import Evidence, gate
from esper.tolaria.step.stepping import StepFigures


class Telemetry:
    """Makes the trainer's telemetry events and hands them to `emit`, which must not block."""

    def __init__(
        self,
        *,
        origin: Origin,
        emit: Callable[[Event], None],
        growing: GrowingModel,
        monitor: SeedMonitor,
        gates: GatesSection,
    ) -> None:
        self._origin = origin
        self._emit = emit
        self._growing = growing
        self._monitor = monitor
        self._gates = gates
        self._process = psutil.Process()
        self._process.cpu_percent()

    def step(
        self,
        figures: StepFigures,
        *,
        epoch: int,
        step: int,
        samples: int,
        duration_us: int,
        timeline: int,
    ) -> None:
        """One TrainingStep; `step` counts the optimizer steps completed, with this one."""
        self._emit(
            TrainingStep(
                **self._origin.envelope(f"step/{step}", timeline=timeline),
                epoch=epoch,
                step=step,
                loss=figures.loss,
                accuracy=figures.accuracy,
                gradient_norm=figures.gradient_norm,
                learning_rate=figures.learning_rate,
                samples=samples,
                duration_us=duration_us,
                # twice the accuracy would cost a third of the speed at which these are decoded
                metrics={k: v for k, v in figures.metrics.items() if k != "accuracy"},
            )
        )

    def seeds(
        self, state: RunState, evidence: dict[Place, Evidence], *, step: int, loss: float
    ) -> None:
        """SeedHealth of every seed, from what its monitor has just taken in; `loss` is the last on
        the held-out split.
        """
        growing = self._growing
        for seed in state.seeds:
            place = (seed.layer, seed.seed)
            figures, health = self._monitor.statistics[place], growing.health[place]
            grown = growing.kernels.get(place)
            layer = growing.layers[seed.layer].seeds
            self._emit(
                SeedHealth(
                    **self._origin.envelope(
                        f"health/{step}/{seed.layer}/{seed.seed}", timeline=state.timeline
                    ),
                    layer=seed.layer,
                    seed=seed.seed,
                    chunk_start=layer.starts()[seed.seed],
                    chunk_size=layer.chunks[seed.seed],
                    epoch=state.epoch,
                    step=step,
                    stage=seed.stage,
                    activation_variance=figures.activation_variance,
                    dead_ratio=figures.dead_ratio,
                    correlation=figures.correlation,
                    gradient_norm=figures.gradient_norm,
                    gradient_variance=health.variance,
                    latency_us=grown.slot.latency_us if grown else 0,
                    errors=seed.errors,
                    recovering=seed.execution == "ERROR_RECOVERY",
                    health=health.score,
                    ready=gate(
                        seed,
                        evidence.get(place, Evidence()),
                        state.epoch,
                        self._gates,
                        loss=loss,
                    )
                    is not None,
                )
            )

    def performance(self, state: RunState, place: Place, live: Figures, without: Figures) -> None:
        """What the live seed at `place` changed in one validation."""
        seed, slot = state.seed(*place), self._growing.kernels[place].slot
        if seed is None:
            return
        self._emit(
            PerformanceDelta(
                **self._origin.envelope(
                    f"performance/{state.epoch}/{place[0]}/{place[1]}", timeline=state.timeline
                ),
                layer=seed.layer,
                seed=seed.seed,
                kernel_id=seed.kernel_id,
                family=seed.family,
                epoch=state.epoch,
                step=state.step,
                accuracy_delta=live.accuracy - without.accuracy,
                loss_delta=paired(without.batch_losses, live.batch_losses)[0],
                latency_us=float(slot.latency_us),
                memory_bytes=self._growing.kernel_bytes(place),
            )
        )

    def resources(self, state: RunState) -> None:
        """One sample of this process."""
        self._emit(
            ResourceSampled(
                **self._origin.envelope(f"resources/{state.epoch}", timeline=state.timeline),
                process="trainer",
                pid=os.getpid(),
                cpu_percent=self._process.cpu_percent(),
                rss_bytes=self._process.memory_info().rss,
                gpu_bytes=0,
            )
        )

    def cache(self, state: RunState, figures: LoaderFigures) -> None:
        """The kernel cache's counts since the run began."""
        self._emit(
            CacheSampled(
                **self._origin.envelope(f"cache/{state.epoch}", timeline=state.timeline),
                hits_memory=figures.hits_memory,
                hits_disk=figures.hits_disk,
                hits_store=figures.hits_store,
                misses=figures.misses,
                evictions=figures.evictions,
                prefetched=figures.prefetched,
                entries=figures.entries,
                bytes=figures.bytes,
                limit_entries=figures.limit_entries,
                limit_bytes=figures.limit_bytes,
                latency_us=figures.latency_us,
            )
        )
