"""Builds the events of a run for tests of Nissa."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from esper.clock import Clock, SystemClock
from esper.events import JournalEvent, Origin
from esper.events.records import (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    CacheSampled,
    CheckpointTaken,
    EpochEnded,
    EpochReviewed,
    InstabilityDetected,
    KernelCompiled,
    KernelFailed,
    LayerInventory,
    RestoredSeed,
    ReviewedCommand,
    RunCompleted,
    RunRolledBack,
    RunStarted,
    SeedHealth,
    SeedTransitioned,
    TrainingStep,
)
from tests.samples import START


@dataclass
class Run:
    """Numbers its journal events as the trainer does."""

    run_id: str
    clock: Clock = field(default_factory=SystemClock)
    sequence: int = 0
    epoch: int = 0
    timeline: int = 0

    def started(self) -> RunStarted:
        """Two layers of four seeds."""
        layers = tuple(
            LayerInventory(
                name=name,
                kind="Linear",
                in_features=40,
                out_features=100,
                parameters=4100,
                chunks=(25, 25, 25, 25),
            )
            for name in ("0", "2")
        )
        asked = replace(
            START, recipe="mnist1d", total_steps=6000, layers=layers, parameters=8200, onednn=True
        )
        return RunStarted(
            **self._journal("started"), **{name: getattr(asked, name) for name in asked.__slots__}
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
            **self._journal("completed"),
            outcome="FINISHED",
            accuracy=accuracy,
            loss=0.3,
            parameters=1,
            digest="",
            model_sha256="",
        )

    def reviewed(self, *decisions: str, layer: str = "0", seed: int = 1) -> EpochReviewed:
        """Tamiyo's answer with a germination for each decision."""
        commands = tuple(
            ReviewedCommand(
                decision_id=decision,
                command="GERMINATE",
                layer=layer,
                seed=seed,
                kernel_id="k",
                family="conv1d",
                alpha=-1.0,
                confidence=0.9,
                urgency=0.8,
                expected_impact=0.02,
                evidence='{"strategy":"DIVERSIFY"}',
            )
            for decision in decisions
        )
        return EpochReviewed(
            **self._origin(f"review/{self.epoch}"),
            packet_id=self._origin("packet")["event_id"],
            timeline=self.timeline,
            packet=self.epoch,
            epoch=self.epoch,
            step=0,
            effective_step=0,
            policy_version="thompson-1",
            commands=commands,
            reason="Germinates conv1d on 0[1].",
            duration_us=1,
        )

    def answered(
        self, decision: str, *, refused: str = "", topic: str = "decision.tamiyo"
    ) -> AdaptationApplied | AdaptationRejected:
        """The trainer's answer to a germination: a refusal where a reason is given."""
        target: dict[str, Any] = {
            "command_id": decision,
            "decision_id": decision,
            "command": "GERMINATE",
            "layer": "0",
            "seed": 1,
            "kernel_id": "k",
            "source_topic": topic,
            "source_partition": 0,
            "source_offset": 7,
        }
        if refused:
            return AdaptationRejected(
                **self._journal(f"rejected/{decision}"), **target, reason=refused
            )
        return AdaptationApplied(
            **self._journal(f"applied/{decision}"),
            **target,
            family="conv1d",
            alpha=-1.0,
            confidence=0.9,
            urgency=0.8,
        )

    def outcome(self, decision: str, *, reward: float = 1.0) -> AdaptationOutcome:
        """How a decision ended."""
        return AdaptationOutcome(
            **self._origin(f"outcome/{decision}"),
            decision_id=decision,
            layer="0",
            seed=1,
            kernel_id="k",
            family="conv1d",
            context="Linear/64x128/conv1d",
            verdict="FOSSILIZED" if reward else "CULLED",
            reward=reward,
            shadow_gap=0.05,
            epoch=self.epoch,
            step=0,
        )

    def checkpoint(self, step: int) -> CheckpointTaken:
        """A snapshot of the state at a step."""
        return CheckpointTaken(
            **self._journal(f"checkpoint/{step}"),
            snapshot_id=f"{self.timeline}-{step}",
            address="a",
            sha256="",
            parent="",
            reason="epoch",
            at_timeline=self.timeline,
            at_sequence=self.sequence,
            at_epoch=self.epoch,
            at_step=step,
            tensors=10,
            size_bytes=1000,
            stored_bytes=400,
            stall_us=2500,
            duration_us=90_000,
            parameters_digest="",
            command_id="",
            source_topic="",
            source_partition=-1,
            source_offset=-1,
        )

    def unstable(self) -> InstabilityDetected:
        """The loss is no number."""
        return InstabilityDetected(
            **self._journal("unstable"),
            layer="0",
            seed=1,
            kernel_id="k",
            metric="training_loss",
            value=1e9,
            threshold=10.0,
            reason="The training loss went beyond its bound.",
        )

    def rolled_back(self, to_epoch: int) -> RunRolledBack:
        """Back to the end of an epoch in a new timeline, where seed 0[0] is FOSSILIZED and the
        other seven are DORMANT.
        """
        left, self.timeline, self.epoch = self.timeline, self.timeline + 1, to_epoch
        seeds = tuple(
            RestoredSeed(
                layer=layer,
                seed=seed,
                stage="FOSSILIZED" if (layer, seed) == ("0", 0) else "DORMANT",
                execution="FOSSILIZED" if (layer, seed) == ("0", 0) else "DORMANT",
                kernel_id="",
                family="",
                decision_id="",
                alpha=0.0,
                alpha_target=0.0,
                stage_step=0,
                stage_epoch=0,
                adapted_epoch=-1,
                errors=0,
            )
            for layer in ("0", "2")
            for seed in range(4)
        )
        return RunRolledBack(
            **self._journal("rolled-back"),
            from_timeline=left,
            from_step=400,
            snapshot_id=f"0-{40 * to_epoch}",
            seeds=seeds,
            adapted_epoch=-1,
            adaptations=0,
            reason="The training loss went beyond its bound.",
            command_id="",
            source_topic="",
            source_partition=-1,
            source_offset=-1,
        )

    def kernel_failed(self, times: int) -> KernelFailed:
        """A kernel that failed so many times in a row."""
        return KernelFailed(
            **self._journal(f"failed/{times}"),
            layer="0",
            seed=1,
            kernel_id="k",
            phase="FORWARD",
            error="no shape",
            consecutive_errors=times,
        )

    def cache(self, *, memory: int, disk: int, store: int, misses: int) -> CacheSampled:
        """Counts of the kernel cache."""
        return CacheSampled(
            **self._origin(f"cache/{memory}/{disk}/{store}/{misses}"),
            hits_memory=memory,
            hits_disk=disk,
            hits_store=store,
            misses=misses,
            evictions=3,
            prefetched=2,
            entries=5,
            bytes=1024,
            limit_entries=128,
            limit_bytes=1 << 20,
            latency_us=8.0,
        )

    def _origin(self, key: str) -> dict[str, Any]:
        return Origin(self.run_id, "trainer", "0" * 32, self.clock).envelope(key)

    def _journal(self, key: str) -> dict[str, Any]:
        fields = {
            **self._origin(f"{key}/{self.sequence}"),
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": 40 * self.epoch,
        }
        self.sequence += 1
        return fields
