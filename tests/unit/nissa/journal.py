"""Builds the events of a run for tests of Nissa."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper.clock import Clock, SystemClock
from esper.events import JournalEvent, Origin
from esper.events.records import (
    AdaptationApplied,
    EpochEnded,
    KernelCompiled,
    LayerInventory,
    RunCompleted,
    RunStarted,
    SeedHealth,
    SeedTransitioned,
    TrainingStep,
)


@dataclass
class Run:
    """Numbers its journal events as the trainer does."""

    run_id: str
    clock: Clock = field(default_factory=SystemClock)
    sequence: int = 0
    epoch: int = 0

    def started(self) -> RunStarted:
        """Two layers of four seeds."""
        layers = tuple(
            LayerInventory(name=name, kind="Linear", in_features=40, out_features=100, parameters=4100, chunks=(25, 25, 25, 25))
            for name in ("0", "2")
        )
        return RunStarted(
            **self._journal("started"),
            incarnation=0,
            recipe="mnist1d",
            config="{}",
            seed=0,
            decisions="LIVE",
            total_steps=6000,
            layers=layers,
            parameters=8200,
            source_sha256="",
            versions="{}",
            threads=1,
            instruction_set="",
            blas="",
            onednn=True,
        )

    def germinated(self, layer: str, seed: int) -> list[JournalEvent]:
        """A germination that was accepted."""
        decision = self._origin("decision")["event_id"]
        applied = AdaptationApplied(
            **self._journal(f"applied/{layer}/{seed}"),
            command_id=decision,
            decision_id=decision,
            command="GERMINATE",
            layer=layer,
            seed=seed,
            kernel_id="k",
            family="conv1d",
            alpha=-1.0,
            confidence=0.9,
            urgency=0.9,
            source_topic="decision.tamiyo",
            source_partition=0,
            source_offset=0,
        )
        moved = SeedTransitioned(
            **self._journal(f"moved/{layer}/{seed}"),
            layer=layer,
            seed=seed,
            from_stage="DORMANT",
            to_stage="GERMINATED",
            execution="LOADING",
            kernel_id="k",
            family="conv1d",
            decision_id=decision,
            alpha=0.0,
            alpha_target=1.0,
            reason="Tamiyo grafts a conv1d kernel",
        )
        return [applied, moved]

    def step(self, number: int, *, loss: float) -> TrainingStep:
        """Telemetry of a step."""
        return TrainingStep(
            **self._origin(f"step/{number}"),
            epoch=self.epoch,
            step=number,
            loss=loss,
            accuracy=0.5,
            gradient_norm=1.0,
            learning_rate=1e-3,
            samples=100,
            duration_us=4000,
        )

    def health(self, layer: str, seed: int, score: float) -> SeedHealth:
        """Telemetry of a seed."""
        return SeedHealth(
            **self._origin(f"health/{layer}/{seed}/{self.epoch}"),
            epoch=self.epoch,
            step=0,
            layer=layer,
            seed=seed,
            chunk_start=25 * seed,
            chunk_size=25,
            stage="DORMANT",
            activation_variance=1.0,
            dead_ratio=0.0,
            correlation=0.1,
            gradient_norm=1.0,
            gradient_variance=0.1,
            latency_us=0,
            errors=0,
            recovering=False,
            health=score,
            ready=False,
        )

    def compiled(self, seconds: float) -> KernelCompiled:
        """A compilation."""
        return KernelCompiled(
            **self._origin(f"compiled/{self.sequence}"),
            kernel_id=f"kernel-{self.run_id}",
            blueprint_id="b",
            attempt=1,
            configuration="eager",
            compile_ms=1e3 * seconds,
        )

    def epoch_ended(self, *, validation_accuracy: float) -> EpochEnded:
        """The end of the present epoch."""
        event = EpochEnded(
            **self._journal("ended"),
            train_loss=1.0,
            train_accuracy=0.4,
            validation_loss=1.1,
            validation_accuracy=validation_accuracy,
            test_loss=1.2,
            test_accuracy=0.42,
            learning_rate=1e-3,
            parameters_digest="",
            state_digest="",
            alphas=(0.0,) * 8,
        )
        self.epoch += 1
        return event

    def completed(self, *, accuracy: float) -> RunCompleted:
        """The end of the run."""
        return RunCompleted(
            **self._journal("completed"), outcome="FINISHED", accuracy=accuracy, loss=0.3, parameters=1, digest="", model_sha256=""
        )

    def _origin(self, key: str) -> dict[str, Any]:
        return Origin(self.run_id, "trainer", "0" * 32, self.clock).envelope(key)

    def _journal(self, key: str) -> dict[str, Any]:
        fields = {
            **self._origin(f"{key}/{self.sequence}"),
            "timeline": 0,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": 40 * self.epoch,
        }
        self.sequence += 1
        return fields
