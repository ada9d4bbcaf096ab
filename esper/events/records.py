"""Generated from schemas/*.avsc by tools/generate_events.py. Do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from esper.events.envelope import Event, JournalEvent

Command = Literal["GERMINATE", "ADVANCE", "SET_ALPHA", "CULL", "FOSSILISE", "RESET", "TERMINATE"]
"""What a command asks of a seed."""

Verdict = Literal["FOSSILIZED", "CULLED", "RESET"]
"""How an adaptation ended."""

Tap = Literal["LAYER_INPUT", "HOST_CHUNK"]
"""What a kernel reads: the layer's input or the host's own chunk of output."""

Blend = Literal["RESIDUAL", "LERP"]
"""RESIDUAL: y = h + alpha*k. LERP: y = (1-alpha)*h + alpha*k."""

FailurePhase = Literal["LOAD", "FORWARD", "NON_FINITE"]
"""Where a kernel failed."""

Outcome = Literal["FINISHED", "INTERRUPTED"]
"""Whether all steps were done or a person ended the run early."""

Stage = Literal[
    "DORMANT",
    "GERMINATED",
    "TRAINING",
    "BLENDING",
    "SHADOWING",
    "PROBATIONARY",
    "FOSSILIZED",
    "CULLED",
    "EMBARGOED",
    "RESETTING",
    "TERMINATED",
]
"""Lifecycle stage of a seed."""

ExecutionState = Literal["DORMANT", "LOADING", "ACTIVE", "ERROR_RECOVERY", "FOSSILIZED"]
"""What the hot path does with a seed."""

DecisionMode = Literal["LIVE", "LOCKSTEP"]
"""Whether the trainer waits for each answer (LOCKSTEP) or not (LIVE)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedCommand:
    """One command of Tamiyo with its evidence.

    Attributes:
        decision_id: Identity of the decision.
        command: What to do.
        layer: Target layer.
        seed: Target seed.
        kernel_id: Kernel to graft; empty unless GERMINATE.
        family: Blueprint family of that kernel.
        alpha: Target blending weight; negative means what the blueprint says.
        confidence: Probability, 0 to 1, that the adaptation helps.
        urgency: Probability, 0 to 1, that waiting an epoch costs more than acting.
        expected_impact: Expected decrease of the loss, nats.
        evidence: What the decision rests on, as a JSON object.
    """

    decision_id: str
    command: Command
    layer: str
    seed: int
    kernel_id: str
    family: str
    alpha: float
    confidence: float
    urgency: float
    expected_impact: float
    evidence: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "decision_id": self.decision_id,
            "command": self.command,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "alpha": self.alpha,
            "confidence": self.confidence,
            "urgency": self.urgency,
            "expected_impact": self.expected_impact,
            "evidence": self.evidence,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            decision_id=datum["decision_id"],
            command=datum["command"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            alpha=datum["alpha"],
            confidence=datum["confidence"],
            urgency=datum["urgency"],
            expected_impact=datum["expected_impact"],
            evidence=datum["evidence"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedLayer:
    """A layer for which kernels are wanted.

    Attributes:
        name: Qualified name of the module in the host model.
        kind: Class of the host layer.
        in_features: Features that the layer reads.
        out_features: Features that the layer writes.
        chunks: Widths of its seeds' chunks.
        parameter_budget: Largest number of parameters of one kernel.
        geometry: Geometry of a convolution or sequence, as esper.events.geometry writes it; empty for features alone.
    """

    name: str
    kind: str
    in_features: int
    out_features: int
    chunks: tuple[int, ...]
    parameter_budget: int
    geometry: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "name": self.name,
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "chunks": self.chunks,
            "parameter_budget": self.parameter_budget,
            "geometry": self.geometry,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            name=datum["name"],
            kind=datum["kind"],
            in_features=datum["in_features"],
            out_features=datum["out_features"],
            chunks=tuple(datum["chunks"]),
            parameter_budget=datum["parameter_budget"],
            geometry=datum["geometry"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One verification of a kernel.

    Attributes:
        name: What was verified: shape, dynamic_batch, gradient, finite, budget, determinism.
        passed: Whether it held.
        detail: The figure behind it.
    """

    name: str
    passed: bool
    detail: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "name": self.name,
            "passed": self.passed,
            "detail": self.detail,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            name=datum["name"],
            passed=datum["passed"],
            detail=datum["detail"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLabel:
    """A label of a custom metric.

    Attributes:
        name: Name of the label.
        value: Value of the label.
    """

    name: str
    value: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "name": self.name,
            "value": self.value,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            name=datum["name"],
            value=datum["value"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredSeed:
    """One seed as the snapshot has it.

    Attributes:
        layer: Layer of the seed.
        seed: Index of the seed in its layer.
        stage: Lifecycle stage.
        execution: Execution state.
        kernel_id: Kernel in the slot; empty when none.
        family: Blueprint family of the kernel; empty when none.
        decision_id: Decision that germinated it; empty when none.
        alpha: Blending weight at the beginning of the stage.
        alpha_target: Blending weight that it ramps to.
        stage_step: Step at which the stage began.
        stage_epoch: Epoch in which the stage began.
        adapted_epoch: Epoch of its last adaptation; -1 when none.
        errors: Failures in a row.
    """

    layer: str
    seed: int
    stage: Stage
    execution: ExecutionState
    kernel_id: str
    family: str
    decision_id: str
    alpha: float
    alpha_target: float
    stage_step: int
    stage_epoch: int
    adapted_epoch: int
    errors: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "layer": self.layer,
            "seed": self.seed,
            "stage": self.stage,
            "execution": self.execution,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "decision_id": self.decision_id,
            "alpha": self.alpha,
            "alpha_target": self.alpha_target,
            "stage_step": self.stage_step,
            "stage_epoch": self.stage_epoch,
            "adapted_epoch": self.adapted_epoch,
            "errors": self.errors,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            layer=datum["layer"],
            seed=datum["seed"],
            stage=datum["stage"],
            execution=datum["execution"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            decision_id=datum["decision_id"],
            alpha=datum["alpha"],
            alpha_target=datum["alpha_target"],
            stage_step=datum["stage_step"],
            stage_epoch=datum["stage_epoch"],
            adapted_epoch=datum["adapted_epoch"],
            errors=datum["errors"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A decision that a fork leaves out, and what it is known by when it comes again.

    Attributes:
        run_id: Run whose decision it was.
        decision_id: Its identity there.
        command: What it asked.
        layer: Target layer.
        seed: Target seed.
        kernel_id: Kernel that it grafted; empty unless GERMINATE.
        epoch: Epochs completed when it was applied.
    """

    run_id: str
    decision_id: str
    command: Command
    layer: str
    seed: int
    kernel_id: str
    epoch: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "run_id": self.run_id,
            "decision_id": self.decision_id,
            "command": self.command,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "epoch": self.epoch,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            run_id=datum["run_id"],
            decision_id=datum["decision_id"],
            command=datum["command"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            epoch=datum["epoch"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInventory:
    """One seeded layer of the model.

    Attributes:
        name: Qualified name of the module in the host model.
        kind: Class of the host layer, such as Linear.
        in_features: Features that the layer reads.
        out_features: Features that the layer writes.
        parameters: Parameters of the host layer.
        chunks: Width of each seed's chunk of the output, in order; they add up to out_features.
        geometry: Geometry of a convolution or sequence, as esper.events.geometry writes it; empty for features alone.
    """

    name: str
    kind: str
    in_features: int
    out_features: int
    parameters: int
    chunks: tuple[int, ...]
    geometry: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "name": self.name,
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "parameters": self.parameters,
            "chunks": self.chunks,
            "geometry": self.geometry,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            name=datum["name"],
            kind=datum["kind"],
            in_features=datum["in_features"],
            out_features=datum["out_features"],
            parameters=datum["parameters"],
            chunks=tuple(datum["chunks"]),
            geometry=datum["geometry"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedState:
    """One seed at the time of the packet.

    Attributes:
        seed: Index of the seed in its layer.
        chunk_start: First output feature of the seed's chunk.
        chunk_size: Output features of the chunk.
        stage: Lifecycle stage.
        execution: Execution state.
        kernel_id: Kernel in the slot; empty when none.
        family: Blueprint family of that kernel; empty when none.
        decision_id: Decision that germinated it; empty when none.
        alpha: Blending weight now, 0 to 1.
        stage_epoch: Epoch in which the present stage began.
        trained_steps: Shadow-pass optimizer steps that the kernel has had.
        shadow_gap: Host loss minus shadow loss on held-out batches, nats; positive is better; 0 before it is measured.
        shadow_gap_error: Standard error of that gap, nats.
        dependence: Validation loss without the seed minus with it, nats: how much the model leans on it, not its worth.
        health: Health score, 0 to 1.
    """

    seed: int
    chunk_start: int
    chunk_size: int
    stage: Stage
    execution: ExecutionState
    kernel_id: str
    family: str
    decision_id: str
    alpha: float
    stage_epoch: int
    trained_steps: int
    shadow_gap: float
    shadow_gap_error: float
    dependence: float
    health: float

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "seed": self.seed,
            "chunk_start": self.chunk_start,
            "chunk_size": self.chunk_size,
            "stage": self.stage,
            "execution": self.execution,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "decision_id": self.decision_id,
            "alpha": self.alpha,
            "stage_epoch": self.stage_epoch,
            "trained_steps": self.trained_steps,
            "shadow_gap": self.shadow_gap,
            "shadow_gap_error": self.shadow_gap_error,
            "dependence": self.dependence,
            "health": self.health,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            seed=datum["seed"],
            chunk_start=datum["chunk_start"],
            chunk_size=datum["chunk_size"],
            stage=datum["stage"],
            execution=datum["execution"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            decision_id=datum["decision_id"],
            alpha=datum["alpha"],
            stage_epoch=datum["stage_epoch"],
            trained_steps=datum["trained_steps"],
            shadow_gap=datum["shadow_gap"],
            shadow_gap_error=datum["shadow_gap_error"],
            dependence=datum["dependence"],
            health=datum["health"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerState:
    """One seeded layer at the time of the packet.

    Attributes:
        name: Qualified name of the module in the host model.
        kind: Class of the host layer.
        in_features: Features that the layer reads.
        out_features: Features that the layer writes.
        gradient_norm: Euclidean norm of the gradient of the layer's own parameters at the last sampled step.
        activation_variance: Variance over batch and features of the layer's output, mean over the samples of the epoch.
        dead_ratio: Fraction of output features whose variance over the batch is below 1e-8.
        seeds: The layer's seeds in order.
        geometry: Geometry of a convolution or sequence, as esper.events.geometry writes it; empty for features alone.
    """

    name: str
    kind: str
    in_features: int
    out_features: int
    gradient_norm: float
    activation_variance: float
    dead_ratio: float
    seeds: tuple[SeedState, ...]
    geometry: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "name": self.name,
            "kind": self.kind,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "gradient_norm": self.gradient_norm,
            "activation_variance": self.activation_variance,
            "dead_ratio": self.dead_ratio,
            "seeds": [item.to_avro() for item in self.seeds],
            "geometry": self.geometry,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            name=datum["name"],
            kind=datum["kind"],
            in_features=datum["in_features"],
            out_features=datum["out_features"],
            gradient_norm=datum["gradient_norm"],
            activation_variance=datum["activation_variance"],
            dead_ratio=datum["dead_ratio"],
            seeds=tuple(SeedState.from_avro(item) for item in datum["seeds"]),
            geometry=datum["geometry"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A kernel that the trainer could graft at the time of the packet.

    Attributes:
        kernel_id: Content hash of the kernel.
        blueprint_id: Content hash of its blueprint.
        family: Blueprint family.
        in_features: Features that it reads.
        out_features: Features that it writes.
        tap: What it reads.
        blend: How it is blended.
        parameters: Trainable parameters.
        flops: Floating-point operations of one forward for one sample.
        geometry: Geometry of a convolution or sequence, as esper.events.geometry writes it; empty for features alone.
    """

    kernel_id: str
    blueprint_id: str
    family: str
    in_features: int
    out_features: int
    tap: Tap
    blend: Blend
    parameters: int
    flops: int
    geometry: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "kernel_id": self.kernel_id,
            "blueprint_id": self.blueprint_id,
            "family": self.family,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "tap": self.tap,
            "blend": self.blend,
            "parameters": self.parameters,
            "flops": self.flops,
            "geometry": self.geometry,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            kernel_id=datum["kernel_id"],
            blueprint_id=datum["blueprint_id"],
            family=datum["family"],
            in_features=datum["in_features"],
            out_features=datum["out_features"],
            tap=datum["tap"],
            blend=datum["blend"],
            parameters=datum["parameters"],
            flops=datum["flops"],
            geometry=datum["geometry"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationApplied(JournalEvent):
    """A command of Tamiyo, a person or a service was accepted; the transitions that it caused follow in the same frame.

    Attributes:
        command_id: Id of the command.
        decision_id: Decision behind it; the command id for people's commands.
        command: What was asked.
        layer: Target layer.
        seed: Target seed.
        kernel_id: Kernel to graft; empty unless GERMINATE.
        family: Its blueprint family.
        alpha: Target blending weight; negative means what the blueprint says.
        confidence: Probability given with the decision.
        urgency: Probability given with the decision.
        source_topic: Topic of the command.
        source_partition: Partition of the command.
        source_offset: Offset of the command.
    """

    NAME: ClassVar[str] = "AdaptationApplied"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1949437117

    command_id: str
    decision_id: str
    command: Command
    layer: str
    seed: int
    kernel_id: str
    family: str
    alpha: float
    confidence: float
    urgency: float
    source_topic: str
    source_partition: int
    source_offset: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "command_id": self.command_id,
            "decision_id": self.decision_id,
            "command": self.command,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "alpha": self.alpha,
            "confidence": self.confidence,
            "urgency": self.urgency,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            command_id=datum["command_id"],
            decision_id=datum["decision_id"],
            command=datum["command"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            alpha=datum["alpha"],
            confidence=datum["confidence"],
            urgency=datum["urgency"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationOutcome(Event):
    """How a decision of Tamiyo ended, and its reward: what the bandits learn from.

    Attributes:
        decision_id: The decision.
        layer: Layer.
        seed: Seed.
        kernel_id: Kernel.
        family: Blueprint family.
        context: Context of the arm: kind of layer and its size class.
        verdict: How it ended.
        reward: Reward, 0 or 1, drawn from the shadow-loss gap.
        shadow_gap: Host loss minus shadow loss on held-out batches, nats.
        epoch: Epoch in which it ended.
        step: Step at which it ended.
    """

    NAME: ClassVar[str] = "AdaptationOutcome"
    TOPIC: ClassVar[str] = "decision.tamiyo"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 189195621

    decision_id: str
    layer: str
    seed: int
    kernel_id: str
    family: str
    context: str
    verdict: Verdict
    reward: float
    shadow_gap: float
    epoch: int
    step: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "decision_id": self.decision_id,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "context": self.context,
            "verdict": self.verdict,
            "reward": self.reward,
            "shadow_gap": self.shadow_gap,
            "epoch": self.epoch,
            "step": self.step,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            decision_id=datum["decision_id"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            context=datum["context"],
            verdict=datum["verdict"],
            reward=datum["reward"],
            shadow_gap=datum["shadow_gap"],
            epoch=datum["epoch"],
            step=datum["step"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationRejected(JournalEvent):
    """A command was refused; the state is unchanged.

    Attributes:
        command_id: Id of the command.
        decision_id: Decision behind it.
        command: What was asked.
        layer: Target layer.
        seed: Target seed.
        kernel_id: Kernel named.
        reason: Why, in a sentence.
        source_topic: Topic of the command.
        source_partition: Partition of the command.
        source_offset: Offset of the command.
    """

    NAME: ClassVar[str] = "AdaptationRejected"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1059077149

    command_id: str
    decision_id: str
    command: Command
    layer: str
    seed: int
    kernel_id: str
    reason: str
    source_topic: str
    source_partition: int
    source_offset: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "command_id": self.command_id,
            "decision_id": self.decision_id,
            "command": self.command,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "reason": self.reason,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            command_id=datum["command_id"],
            decision_id=datum["decision_id"],
            command=datum["command"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            reason=datum["reason"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecorded(Event):
    """Somebody asked a part to change something: who, what, and how it was answered. The records of one sender form a chain of hashes.

    Attributes:
        chain: Number of the record in its sender's chain, from 0.
        previous: Hash of the record before it in the chain, hexadecimal; empty for the first.
        hash: SHA-256 over the previous hash and the canonical JSON of the other fields, hexadecimal.
        actor: Subject of the token; anonymous without one.
        role: Role of the token: viewer, operator, admin; empty without one.
        action: What was asked, as METHOD and route.
        resource: Path that was asked for.
        status: HTTP status of the answer.
        detail: What was asked for, as JSON without secrets; empty when nothing.
    """

    NAME: ClassVar[str] = "AuditRecorded"
    TOPIC: ClassVar[str] = "audit.events"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 2104897099

    chain: int
    previous: str
    hash: str
    actor: str
    role: str
    action: str
    resource: str
    status: int
    detail: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "chain": self.chain,
            "previous": self.previous,
            "hash": self.hash,
            "actor": self.actor,
            "role": self.role,
            "action": self.action,
            "resource": self.resource,
            "status": self.status,
            "detail": self.detail,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            chain=datum["chain"],
            previous=datum["previous"],
            hash=datum["hash"],
            actor=datum["actor"],
            role=datum["role"],
            action=datum["action"],
            resource=datum["resource"],
            status=datum["status"],
            detail=datum["detail"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintFailed(Event):
    """No configuration of this blueprint could be compiled.

    Attributes:
        report_id: Field report.
        blueprint_id: Blueprint.
        attempts: Configurations tried.
        error: The last error, in a sentence.
    """

    NAME: ClassVar[str] = "BlueprintFailed"
    TOPIC: ClassVar[str] = "innovation.blueprints"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1162896573

    report_id: str
    blueprint_id: str
    attempts: int
    error: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "report_id": self.report_id,
            "blueprint_id": self.blueprint_id,
            "attempts": self.attempts,
            "error": self.error,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            report_id=datum["report_id"],
            blueprint_id=datum["blueprint_id"],
            attempts=datum["attempts"],
            error=datum["error"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintProposed(Event):
    """Karn proposes a blueprint.

    Attributes:
        report_id: Field report that it answers.
        blueprint_id: Content hash of the blueprint.
        family: Blueprint family.
        ir: The blueprint as canonical JSON.
        in_features: Features that it reads.
        out_features: Features that it writes.
        tap: What it reads.
        blend: How it is blended.
        parameters: Trainable parameters.
        flops: Floating-point operations of one forward for one sample.
        geometry: Geometry of a convolution or sequence, as esper.events.geometry writes it; empty for features alone.
    """

    NAME: ClassVar[str] = "BlueprintProposed"
    TOPIC: ClassVar[str] = "innovation.blueprints"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1164581288

    report_id: str
    blueprint_id: str
    family: str
    ir: str
    in_features: int
    out_features: int
    tap: Tap
    blend: Blend
    parameters: int
    flops: int
    geometry: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "report_id": self.report_id,
            "blueprint_id": self.blueprint_id,
            "family": self.family,
            "ir": self.ir,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "tap": self.tap,
            "blend": self.blend,
            "parameters": self.parameters,
            "flops": self.flops,
            "geometry": self.geometry,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            report_id=datum["report_id"],
            blueprint_id=datum["blueprint_id"],
            family=datum["family"],
            ir=datum["ir"],
            in_features=datum["in_features"],
            out_features=datum["out_features"],
            tap=datum["tap"],
            blend=datum["blend"],
            parameters=datum["parameters"],
            flops=datum["flops"],
            geometry=datum["geometry"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSampled(Event):
    """Counts of the kernel cache since its process began.

    Attributes:
        hits_memory: Kernels found in memory (L1).
        hits_disk: Kernels found on the local disk (L2).
        hits_store: Kernels that the store (L3) had.
        misses: Kernels that no tier had.
        evictions: Kernels that had to leave memory.
        prefetched: Kernels fetched before they were asked for.
        entries: Kernels in memory.
        bytes: Bytes in memory.
        limit_entries: Most kernels in memory.
        limit_bytes: Most bytes in memory.
        latency_us: Mean time of a hit in memory, microseconds.
    """

    NAME: ClassVar[str] = "CacheSampled"
    TOPIC: ClassVar[str] = "telemetry.cache"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 891110509

    hits_memory: int
    hits_disk: int
    hits_store: int
    misses: int
    evictions: int
    prefetched: int
    entries: int
    bytes: int
    limit_entries: int
    limit_bytes: int
    latency_us: float

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "hits_memory": self.hits_memory,
            "hits_disk": self.hits_disk,
            "hits_store": self.hits_store,
            "misses": self.misses,
            "evictions": self.evictions,
            "prefetched": self.prefetched,
            "entries": self.entries,
            "bytes": self.bytes,
            "limit_entries": self.limit_entries,
            "limit_bytes": self.limit_bytes,
            "latency_us": self.latency_us,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            hits_memory=datum["hits_memory"],
            hits_disk=datum["hits_disk"],
            hits_store=datum["hits_store"],
            misses=datum["misses"],
            evictions=datum["evictions"],
            prefetched=datum["prefetched"],
            entries=datum["entries"],
            bytes=datum["bytes"],
            limit_entries=datum["limit_entries"],
            limit_bytes=datum["limit_bytes"],
            latency_us=datum["latency_us"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequested(Event):
    """Asks the trainer for a snapshot between two steps.

    Attributes:
        reason: Why, in a sentence.
        expires_at: After this moment the request is void.
    """

    NAME: ClassVar[str] = "CheckpointRequested"
    TOPIC: ClassVar[str] = "control.tolaria.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1774709333

    reason: str
    expires_at: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "reason": self.reason,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            reason=datum["reason"],
            expires_at=datum["expires_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointTaken(JournalEvent):
    """A snapshot of the run is durable, every byte of it.

    Attributes:
        snapshot_id: Name of the snapshot in its run, made of the timeline and the step that it holds.
        address: Key of the manifest in the store.
        sha256: SHA-256 of the manifest, hexadecimal; the manifest names the hash of every chunk.
        parent: Snapshot whose unchanged tensors this one shares; empty for the first.
        reason: Why it was taken: epoch, requested, interrupted, rollback.
        at_timeline: Timeline of the state that it holds.
        at_sequence: Journal events that the state has folded: the next event has this sequence.
        at_epoch: Epochs completed in the state.
        at_step: Optimizer steps completed in the state.
        tensors: Tensors in the snapshot.
        size_bytes: Bytes of the state, uncompressed.
        stored_bytes: Bytes that were new to the store, compressed.
        stall_us: Time that the training thread gave for it, microseconds.
        duration_us: Time until every byte was durable, microseconds.
        parameters_digest: SHA-256 over all parameters and buffers of the state, hexadecimal.
        command_id: Id of the request; empty when the trainer itself decided.
        source_topic: Topic of the request; empty when none.
        source_partition: Partition of the request.
        source_offset: Offset of the request; -1 when none.
    """

    NAME: ClassVar[str] = "CheckpointTaken"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 119972273

    snapshot_id: str
    address: str
    sha256: str
    parent: str
    reason: str
    at_timeline: int
    at_sequence: int
    at_epoch: int
    at_step: int
    tensors: int
    size_bytes: int
    stored_bytes: int
    stall_us: int
    duration_us: int
    parameters_digest: str
    command_id: str
    source_topic: str
    source_partition: int
    source_offset: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "snapshot_id": self.snapshot_id,
            "address": self.address,
            "sha256": self.sha256,
            "parent": self.parent,
            "reason": self.reason,
            "at_timeline": self.at_timeline,
            "at_sequence": self.at_sequence,
            "at_epoch": self.at_epoch,
            "at_step": self.at_step,
            "tensors": self.tensors,
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "stall_us": self.stall_us,
            "duration_us": self.duration_us,
            "parameters_digest": self.parameters_digest,
            "command_id": self.command_id,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            snapshot_id=datum["snapshot_id"],
            address=datum["address"],
            sha256=datum["sha256"],
            parent=datum["parent"],
            reason=datum["reason"],
            at_timeline=datum["at_timeline"],
            at_sequence=datum["at_sequence"],
            at_epoch=datum["at_epoch"],
            at_step=datum["at_step"],
            tensors=datum["tensors"],
            size_bytes=datum["size_bytes"],
            stored_bytes=datum["stored_bytes"],
            stall_us=datum["stall_us"],
            duration_us=datum["duration_us"],
            parameters_digest=datum["parameters_digest"],
            command_id=datum["command_id"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilationFailed(Event):
    """One attempt to compile failed.

    Attributes:
        blueprint_id: Blueprint.
        attempt: Attempt, from 1.
        configuration: How it was compiled.
        error: The error, in a sentence.
        detail: The whole diagnostic.
    """

    NAME: ClassVar[str] = "CompilationFailed"
    TOPIC: ClassVar[str] = "compilation.attempts"
    KEY: ClassVar[str] = "blueprint_id"
    SCHEMA_ID: ClassVar[int] = 1883336576

    blueprint_id: str
    attempt: int
    configuration: str
    error: str
    detail: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "blueprint_id": self.blueprint_id,
            "attempt": self.attempt,
            "configuration": self.configuration,
            "error": self.error,
            "detail": self.detail,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            blueprint_id=datum["blueprint_id"],
            attempt=datum["attempt"],
            configuration=datum["configuration"],
            error=datum["error"],
            detail=datum["detail"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilationStarted(Event):
    """Tezzeret begins to compile a blueprint.

    Attributes:
        blueprint_id: Blueprint.
        attempt: Attempt, from 1.
        configuration: How it is compiled: exported or eager.
    """

    NAME: ClassVar[str] = "CompilationStarted"
    TOPIC: ClassVar[str] = "compilation.attempts"
    KEY: ClassVar[str] = "blueprint_id"
    SCHEMA_ID: ClassVar[int] = 1645176382

    blueprint_id: str
    attempt: int
    configuration: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "blueprint_id": self.blueprint_id,
            "attempt": self.attempt,
            "configuration": self.configuration,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            blueprint_id=datum["blueprint_id"],
            attempt=datum["attempt"],
            configuration=datum["configuration"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered(Event):
    """A message that could not be decoded or applied.

    Attributes:
        source_topic: Topic it came from.
        source_partition: Partition.
        source_offset: Offset.
        error: Why, in a sentence.
        payload: The raw bytes.
        consumer: Who gave it up.
    """

    NAME: ClassVar[str] = "DeadLettered"
    TOPIC: ClassVar[str] = "dead.letters"
    KEY: ClassVar[str] = "source_topic"
    SCHEMA_ID: ClassVar[int] = 829936241

    source_topic: str
    source_partition: int
    source_offset: int
    error: str
    payload: bytes
    consumer: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
            "error": self.error,
            "payload": self.payload,
            "consumer": self.consumer,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
            error=datum["error"],
            payload=datum["payload"],
            consumer=datum["consumer"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnded(JournalEvent):
    """An epoch is over: its figures, and the digests that a replay must reproduce.

    Attributes:
        train_loss: Mean training loss of the epoch, nats.
        train_accuracy: Training accuracy of the epoch, fraction.
        validation_loss: Loss on the held-out split, nats.
        validation_accuracy: Accuracy on the held-out split, fraction.
        test_loss: Loss on the test split, nats.
        test_accuracy: Accuracy on the test split, fraction.
        learning_rate: Learning rate of the host after the epoch.
        parameters_digest: SHA-256 over all parameters and buffers, names sorted.
        state_digest: SHA-256 over the folded state of the run before this event.
        alphas: Blending weight of every seed, in the order of the inventory.
    """

    NAME: ClassVar[str] = "EpochEnded"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1630444569

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float
    learning_rate: float
    parameters_digest: str
    state_digest: str
    alphas: tuple[float, ...]

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            "test_loss": self.test_loss,
            "test_accuracy": self.test_accuracy,
            "learning_rate": self.learning_rate,
            "parameters_digest": self.parameters_digest,
            "state_digest": self.state_digest,
            "alphas": self.alphas,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            train_loss=datum["train_loss"],
            train_accuracy=datum["train_accuracy"],
            validation_loss=datum["validation_loss"],
            validation_accuracy=datum["validation_accuracy"],
            test_loss=datum["test_loss"],
            test_accuracy=datum["test_accuracy"],
            learning_rate=datum["learning_rate"],
            parameters_digest=datum["parameters_digest"],
            state_digest=datum["state_digest"],
            alphas=tuple(datum["alphas"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReviewed(Event):
    """Tamiyo's answer to one packet, with its commands and their evidence, or none.

    Attributes:
        packet_id: Event id of the packet.
        timeline: Timeline of the packet.
        packet: Number of the packet.
        epoch: Epoch of the packet.
        step: Step of the packet.
        effective_step: Step at which the commands take effect in lockstep.
        policy_version: Version of the policy.
        commands: What to do, most important first.
        reason: Why these or none, in a sentence.
        duration_us: Time from packet to answer inside Tamiyo, microseconds.
    """

    NAME: ClassVar[str] = "EpochReviewed"
    TOPIC: ClassVar[str] = "decision.tamiyo"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 366250439

    packet_id: str
    timeline: int
    packet: int
    epoch: int
    step: int
    effective_step: int
    policy_version: str
    commands: tuple[ReviewedCommand, ...]
    reason: str
    duration_us: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "packet_id": self.packet_id,
            "timeline": self.timeline,
            "packet": self.packet,
            "epoch": self.epoch,
            "step": self.step,
            "effective_step": self.effective_step,
            "policy_version": self.policy_version,
            "commands": [item.to_avro() for item in self.commands],
            "reason": self.reason,
            "duration_us": self.duration_us,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            packet_id=datum["packet_id"],
            timeline=datum["timeline"],
            packet=datum["packet"],
            epoch=datum["epoch"],
            step=datum["step"],
            effective_step=datum["effective_step"],
            policy_version=datum["policy_version"],
            commands=tuple(ReviewedCommand.from_avro(item) for item in datum["commands"]),
            reason=datum["reason"],
            duration_us=datum["duration_us"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldReport(Event):
    """Tamiyo asks for kernels for these layers.

    Attributes:
        run_seed: Random seed of the run.
        layers: Layers that want kernels.
        families: Blueprint families wanted; empty means all.
    """

    NAME: ClassVar[str] = "FieldReport"
    TOPIC: ClassVar[str] = "innovation.blueprints"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1009096257

    run_seed: int
    layers: tuple[ReportedLayer, ...]
    families: tuple[str, ...]

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "run_seed": self.run_seed,
            "layers": [item.to_avro() for item in self.layers],
            "families": self.families,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            run_seed=datum["run_seed"],
            layers=tuple(ReportedLayer.from_avro(item) for item in datum["layers"]),
            families=tuple(datum["families"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldReportAnswered(Event):
    """Every blueprint of a field report is a published kernel or has failed.

    Attributes:
        report_id: Field report.
        kernels: Ids of the published kernels, sorted.
        failed: Ids of the blueprints that failed, sorted.
    """

    NAME: ClassVar[str] = "FieldReportAnswered"
    TOPIC: ClassVar[str] = "innovation.blueprints"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1056359392

    report_id: str
    kernels: tuple[str, ...]
    failed: tuple[str, ...]

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "report_id": self.report_id,
            "kernels": self.kernels,
            "failed": self.failed,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            report_id=datum["report_id"],
            kernels=tuple(datum["kernels"]),
            failed=tuple(datum["failed"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstabilityDetected(JournalEvent):
    """Training turned unstable: a rollback follows, or the run ends.

    Attributes:
        layer: Layer at fault; empty when none is known.
        seed: Seed at fault; -1 when none is known.
        kernel_id: Kernel at fault; empty when none is known.
        metric: What was watched, such as kernel_output or training_loss.
        value: Its value.
        threshold: The value that it must not pass.
        reason: What happened, in a sentence.
    """

    NAME: ClassVar[str] = "InstabilityDetected"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1207615890

    layer: str
    seed: int
    kernel_id: str
    metric: str
    value: float
    threshold: float
    reason: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "metric": self.metric,
            "value": self.value,
            "threshold": self.threshold,
            "reason": self.reason,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            metric=datum["metric"],
            value=datum["value"],
            threshold=datum["threshold"],
            reason=datum["reason"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCompiled(Event):
    """A blueprint was built and compiled.

    Attributes:
        kernel_id: Content hash of IR, weights and format.
        blueprint_id: Blueprint.
        attempt: Attempt that succeeded.
        configuration: How it was compiled.
        compile_ms: Time of compilation, milliseconds.
    """

    NAME: ClassVar[str] = "KernelCompiled"
    TOPIC: ClassVar[str] = "compilation.kernels"
    KEY: ClassVar[str] = "kernel_id"
    SCHEMA_ID: ClassVar[int] = 961002018

    kernel_id: str
    blueprint_id: str
    attempt: int
    configuration: str
    compile_ms: float

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "kernel_id": self.kernel_id,
            "blueprint_id": self.blueprint_id,
            "attempt": self.attempt,
            "configuration": self.configuration,
            "compile_ms": self.compile_ms,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            kernel_id=datum["kernel_id"],
            blueprint_id=datum["blueprint_id"],
            attempt=datum["attempt"],
            configuration=datum["configuration"],
            compile_ms=datum["compile_ms"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFailed(JournalEvent):
    """A kernel could not be loaded or failed while it ran.

    Attributes:
        layer: Layer.
        seed: Seed.
        kernel_id: Kernel.
        phase: Where it failed.
        error: What happened, in a sentence.
        consecutive_errors: Errors in a row, with this one.
    """

    NAME: ClassVar[str] = "KernelFailed"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1081103137

    layer: str
    seed: int
    kernel_id: str
    phase: FailurePhase
    error: str
    consecutive_errors: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "phase": self.phase,
            "error": self.error,
            "consecutive_errors": self.consecutive_errors,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            phase=datum["phase"],
            error=datum["error"],
            consecutive_errors=datum["consecutive_errors"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPublished(Event):
    """A kernel is in the store and can be grafted.

    Attributes:
        kernel_id: Content hash of IR, weights and format.
        blueprint_id: Blueprint.
        family: Blueprint family.
        in_features: Features that it reads.
        out_features: Features that it writes.
        tap: What it reads.
        blend: How it is blended.
        parameters: Trainable parameters.
        flops: Floating-point operations of one forward for one sample.
        address: Key of the artefact in the object store.
        sha256: SHA-256 of the artefact.
        size_bytes: Size of the artefact, bytes.
        tags: Tags to query by.
        parents: Kernels that it descends from.
        latency_us: Measured forward time of a batch of 32 on the compiling machine, microseconds.
        geometry: Geometry of a convolution or sequence, as esper.events.geometry writes it; empty for features alone.
    """

    NAME: ClassVar[str] = "KernelPublished"
    TOPIC: ClassVar[str] = "compilation.kernels"
    KEY: ClassVar[str] = "kernel_id"
    SCHEMA_ID: ClassVar[int] = 913520139

    kernel_id: str
    blueprint_id: str
    family: str
    in_features: int
    out_features: int
    tap: Tap
    blend: Blend
    parameters: int
    flops: int
    address: str
    sha256: str
    size_bytes: int
    tags: tuple[str, ...]
    parents: tuple[str, ...]
    latency_us: float
    geometry: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "kernel_id": self.kernel_id,
            "blueprint_id": self.blueprint_id,
            "family": self.family,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "tap": self.tap,
            "blend": self.blend,
            "parameters": self.parameters,
            "flops": self.flops,
            "address": self.address,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "tags": self.tags,
            "parents": self.parents,
            "latency_us": self.latency_us,
            "geometry": self.geometry,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            kernel_id=datum["kernel_id"],
            blueprint_id=datum["blueprint_id"],
            family=datum["family"],
            in_features=datum["in_features"],
            out_features=datum["out_features"],
            tap=datum["tap"],
            blend=datum["blend"],
            parameters=datum["parameters"],
            flops=datum["flops"],
            address=datum["address"],
            sha256=datum["sha256"],
            size_bytes=datum["size_bytes"],
            tags=tuple(datum["tags"]),
            parents=tuple(datum["parents"]),
            latency_us=datum["latency_us"],
            geometry=datum["geometry"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRejected(Event):
    """A built kernel did not pass verification.

    Attributes:
        kernel_id: Kernel.
        blueprint_id: Blueprint.
        checks: What was verified, the failed ones too.
    """

    NAME: ClassVar[str] = "KernelRejected"
    TOPIC: ClassVar[str] = "validation.kernels"
    KEY: ClassVar[str] = "kernel_id"
    SCHEMA_ID: ClassVar[int] = 2057551244

    kernel_id: str
    blueprint_id: str
    checks: tuple[Check, ...]

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "kernel_id": self.kernel_id,
            "blueprint_id": self.blueprint_id,
            "checks": [item.to_avro() for item in self.checks],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            kernel_id=datum["kernel_id"],
            blueprint_id=datum["blueprint_id"],
            checks=tuple(Check.from_avro(item) for item in datum["checks"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelValidated(Event):
    """A kernel passed every check.

    Attributes:
        kernel_id: Kernel.
        blueprint_id: Blueprint.
        checks: What was verified.
    """

    NAME: ClassVar[str] = "KernelValidated"
    TOPIC: ClassVar[str] = "validation.kernels"
    KEY: ClassVar[str] = "kernel_id"
    SCHEMA_ID: ClassVar[int] = 495494206

    kernel_id: str
    blueprint_id: str
    checks: tuple[Check, ...]

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "kernel_id": self.kernel_id,
            "blueprint_id": self.blueprint_id,
            "checks": [item.to_avro() for item in self.checks],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            kernel_id=datum["kernel_id"],
            blueprint_id=datum["blueprint_id"],
            checks=tuple(Check.from_avro(item) for item in datum["checks"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRecorded(Event):
    """A custom metric that somebody declared and sent.

    Attributes:
        name: Name, as Prometheus takes it.
        value: Value.
        unit: Unit; empty for a plain number.
        labels: Labels, sorted by name.
    """

    NAME: ClassVar[str] = "MetricRecorded"
    TOPIC: ClassVar[str] = "telemetry.custom"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 1459575677

    name: str
    value: float
    unit: str
    labels: tuple[MetricLabel, ...]

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "labels": [item.to_avro() for item in self.labels],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            name=datum["name"],
            value=datum["value"],
            unit=datum["unit"],
            labels=tuple(MetricLabel.from_avro(item) for item in datum["labels"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested(Event):
    """Asks the trainer to stand still between two steps.

    Attributes:
        reason: Why, in a sentence.
        expires_at: After this moment the request is void.
    """

    NAME: ClassVar[str] = "PauseRequested"
    TOPIC: ClassVar[str] = "control.tolaria.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1904773702

    reason: str
    expires_at: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "reason": self.reason,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            reason=datum["reason"],
            expires_at=datum["expires_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceDelta(Event):
    """What a live seed changed on the held-out split in one validation.

    Attributes:
        layer: Layer.
        seed: Seed.
        kernel_id: Kernel.
        family: Its blueprint family.
        epoch: Epochs completed.
        step: Optimizer steps completed.
        accuracy_delta: Accuracy with the seed minus without it, fraction.
        loss_delta: Loss without the seed minus with it, nats: dependence, not worth.
        latency_us: Execution time of the kernel, microseconds.
        memory_bytes: Bytes of the kernel's parameters and optimizer state.
    """

    NAME: ClassVar[str] = "PerformanceDelta"
    TOPIC: ClassVar[str] = "telemetry.seed.performance"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 753985469

    layer: str
    seed: int
    kernel_id: str
    family: str
    epoch: int
    step: int
    accuracy_delta: float
    loss_delta: float
    latency_us: float
    memory_bytes: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "epoch": self.epoch,
            "step": self.step,
            "accuracy_delta": self.accuracy_delta,
            "loss_delta": self.loss_delta,
            "latency_us": self.latency_us,
            "memory_bytes": self.memory_bytes,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            epoch=datum["epoch"],
            step=datum["step"],
            accuracy_delta=datum["accuracy_delta"],
            loss_delta=datum["loss_delta"],
            latency_us=datum["latency_us"],
            memory_bytes=datum["memory_bytes"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSampled(Event):
    """Resources of one process.

    Attributes:
        process: Role of the process.
        pid: Process id.
        cpu_percent: CPU use since the last sample, percent of one core.
        rss_bytes: Resident memory, bytes.
        gpu_bytes: Memory on the GPU, bytes; 0 without one.
    """

    NAME: ClassVar[str] = "ResourceSampled"
    TOPIC: ClassVar[str] = "telemetry.resources"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 1572687716

    process: str
    pid: int
    cpu_percent: float
    rss_bytes: int
    gpu_bytes: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "process": self.process,
            "pid": self.pid,
            "cpu_percent": self.cpu_percent,
            "rss_bytes": self.rss_bytes,
            "gpu_bytes": self.gpu_bytes,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            process=datum["process"],
            pid=datum["pid"],
            cpu_percent=datum["cpu_percent"],
            rss_bytes=datum["rss_bytes"],
            gpu_bytes=datum["gpu_bytes"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested(Event):
    """Asks a paused trainer to go on.

    Attributes:
        reason: Why, in a sentence.
        expires_at: After this moment the request is void.
    """

    NAME: ClassVar[str] = "ResumeRequested"
    TOPIC: ClassVar[str] = "control.tolaria.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1612061238

    reason: str
    expires_at: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "reason": self.reason,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            reason=datum["reason"],
            expires_at=datum["expires_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequested(Event):
    """Asks the trainer to go on from an earlier snapshot, in a new timeline.

    Attributes:
        snapshot_id: Snapshot to restore; empty for the latest.
        reason: Why, in a sentence.
        expires_at: After this moment the request is void.
    """

    NAME: ClassVar[str] = "RollbackRequested"
    TOPIC: ClassVar[str] = "control.tolaria.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1149474686

    snapshot_id: str
    reason: str
    expires_at: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "snapshot_id": self.snapshot_id,
            "reason": self.reason,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            snapshot_id=datum["snapshot_id"],
            reason=datum["reason"],
            expires_at=datum["expires_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted(JournalEvent):
    """Last event of a run that ended in order.

    Attributes:
        outcome: How it ended.
        accuracy: Test accuracy at the last epoch, fraction.
        loss: Test loss at the last epoch, nats.
        parameters: Parameters of the model with its fossilised kernels.
        digest: SHA-256 over the final parameters, names sorted.
        model_sha256: SHA-256 of the file with the final model.
    """

    NAME: ClassVar[str] = "RunCompleted"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1959243896

    outcome: Outcome
    accuracy: float
    loss: float
    parameters: int
    digest: str
    model_sha256: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "outcome": self.outcome,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "parameters": self.parameters,
            "digest": self.digest,
            "model_sha256": self.model_sha256,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            outcome=datum["outcome"],
            accuracy=datum["accuracy"],
            loss=datum["loss"],
            parameters=datum["parameters"],
            digest=datum["digest"],
            model_sha256=datum["model_sha256"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(JournalEvent):
    """Last event of a run that could not go on.

    Attributes:
        error: Class of the error.
        reason: What happened and what to do, in a sentence.
    """

    NAME: ClassVar[str] = "RunFailed"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1226173894

    error: str
    reason: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "error": self.error,
            "reason": self.reason,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            error=datum["error"],
            reason=datum["reason"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForked(JournalEvent):
    """The run begins with the state that another run had at a step; always the second event of its journal.

    Attributes:
        parent_run_id: Run that this one was forked from.
        parent_timeline: Timeline of the parent in which the fork stands.
        parent_step: Optimizer steps completed there.
        parent_sequence: Number of the parent's events that the forked state has in it.
        address: Key of the manifest in the object store that holds the state.
        sha256: SHA-256 of the manifest, hexadecimal.
        seeds: Every seed, in the order of the inventory.
        adapted_epoch: Epoch of the last adaptation of any seed; -1 when none.
        adaptations: Adaptations in that epoch.
        changes: Settings that differ from the parent's, as section.key=value.
        without: Decisions of the parent that this run leaves out; empty when it leaves out none.
        reason: Why, in a sentence.
        left_out: Decisions that this run refuses if they come again: those of its own fork, and those that its parent's state refuses.
        parent_packet: Number of the parent's last packet whose answer the state has in it; -1 when there was none.
        offered: Kernels that the foundry had answered the parent's field reports with.
    """

    NAME: ClassVar[str] = "RunForked"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 610609697

    parent_run_id: str
    parent_timeline: int
    parent_step: int
    parent_sequence: int
    address: str
    sha256: str
    seeds: tuple[RestoredSeed, ...]
    adapted_epoch: int
    adaptations: int
    changes: tuple[str, ...]
    without: tuple[str, ...]
    reason: str
    left_out: tuple[LeftOut, ...] = ()
    parent_packet: int = -1
    offered: tuple[str, ...] = ()

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "parent_run_id": self.parent_run_id,
            "parent_timeline": self.parent_timeline,
            "parent_step": self.parent_step,
            "parent_sequence": self.parent_sequence,
            "address": self.address,
            "sha256": self.sha256,
            "seeds": [item.to_avro() for item in self.seeds],
            "adapted_epoch": self.adapted_epoch,
            "adaptations": self.adaptations,
            "changes": self.changes,
            "without": self.without,
            "reason": self.reason,
            "left_out": [item.to_avro() for item in self.left_out],
            "parent_packet": self.parent_packet,
            "offered": self.offered,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            parent_run_id=datum["parent_run_id"],
            parent_timeline=datum["parent_timeline"],
            parent_step=datum["parent_step"],
            parent_sequence=datum["parent_sequence"],
            address=datum["address"],
            sha256=datum["sha256"],
            seeds=tuple(RestoredSeed.from_avro(item) for item in datum["seeds"]),
            adapted_epoch=datum["adapted_epoch"],
            adaptations=datum["adaptations"],
            changes=tuple(datum["changes"]),
            without=tuple(datum["without"]),
            reason=datum["reason"],
            left_out=tuple(LeftOut.from_avro(item) for item in datum["left_out"]),
            parent_packet=datum["parent_packet"],
            offered=tuple(datum["offered"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused(JournalEvent):
    """Training stands still between two steps.

    Attributes:
        reason: Why, in a sentence.
        command_id: Id of the request; empty when the trainer itself decided.
        source_topic: Topic of the request; empty when none.
        source_partition: Partition of the request.
        source_offset: Offset of the request; -1 when none.
    """

    NAME: ClassVar[str] = "RunPaused"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 425615333

    reason: str
    command_id: str
    source_topic: str
    source_partition: int
    source_offset: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "reason": self.reason,
            "command_id": self.command_id,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            reason=datum["reason"],
            command_id=datum["command_id"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequested(Event):
    """Asks for a run to be started, or an interrupted one to be resumed.

    Attributes:
        recipe: Name of a recipe, or path of a recipe file.
        overrides: Changes of the recipe, each section.key=value.
        resume: Whether an interrupted run goes on, instead of a new one.
        reason: Why, in a sentence.
        expires_at: After this moment the request is void.
    """

    NAME: ClassVar[str] = "RunRequested"
    TOPIC: ClassVar[str] = "control.tolaria.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1149752960

    recipe: str
    overrides: tuple[str, ...]
    resume: bool
    reason: str
    expires_at: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "recipe": self.recipe,
            "overrides": self.overrides,
            "resume": self.resume,
            "reason": self.reason,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            recipe=datum["recipe"],
            overrides=tuple(datum["overrides"]),
            resume=datum["resume"],
            reason=datum["reason"],
            expires_at=datum["expires_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(JournalEvent):
    """Training goes on.

    Attributes:
        incarnation: Number of the process that writes the journal.
        reason: Why, in a sentence.
        command_id: Id of the request; empty when the trainer itself decided.
        source_topic: Topic of the request; empty when none.
        source_partition: Partition of the request.
        source_offset: Offset of the request; -1 when none.
        snapshot_id: Snapshot that the state was restored from; empty when nothing was restored.
        restored_step: Step of that snapshot; -1 when nothing was restored.
    """

    NAME: ClassVar[str] = "RunResumed"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 2013154016

    incarnation: int
    reason: str
    command_id: str
    source_topic: str
    source_partition: int
    source_offset: int
    snapshot_id: str = ""
    restored_step: int = -1

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "incarnation": self.incarnation,
            "reason": self.reason,
            "command_id": self.command_id,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
            "snapshot_id": self.snapshot_id,
            "restored_step": self.restored_step,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            incarnation=datum["incarnation"],
            reason=datum["reason"],
            command_id=datum["command_id"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
            snapshot_id=datum["snapshot_id"],
            restored_step=datum["restored_step"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRolledBack(JournalEvent):
    """The run goes on from an earlier state, in a new timeline; the seeds that are not FOSSILIZED there are reset in the events after this one.

    Attributes:
        from_timeline: Timeline that was left.
        from_step: Optimizer steps completed in it.
        snapshot_id: Snapshot that was restored.
        seeds: Every seed, in the order of the inventory.
        adapted_epoch: Epoch of the last adaptation of any seed; -1 when none.
        adaptations: Adaptations in that epoch.
        reason: Why, in a sentence.
        command_id: Id of the request; empty when the trainer itself decided.
        source_topic: Topic of the request; empty when none.
        source_partition: Partition of the request.
        source_offset: Offset of the request; -1 when none.
    """

    NAME: ClassVar[str] = "RunRolledBack"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 867673662

    from_timeline: int
    from_step: int
    snapshot_id: str
    seeds: tuple[RestoredSeed, ...]
    adapted_epoch: int
    adaptations: int
    reason: str
    command_id: str
    source_topic: str
    source_partition: int
    source_offset: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "from_timeline": self.from_timeline,
            "from_step": self.from_step,
            "snapshot_id": self.snapshot_id,
            "seeds": [item.to_avro() for item in self.seeds],
            "adapted_epoch": self.adapted_epoch,
            "adaptations": self.adaptations,
            "reason": self.reason,
            "command_id": self.command_id,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            from_timeline=datum["from_timeline"],
            from_step=datum["from_step"],
            snapshot_id=datum["snapshot_id"],
            seeds=tuple(RestoredSeed.from_avro(item) for item in datum["seeds"]),
            adapted_epoch=datum["adapted_epoch"],
            adaptations=datum["adaptations"],
            reason=datum["reason"],
            command_id=datum["command_id"],
            source_topic=datum["source_topic"],
            source_partition=datum["source_partition"],
            source_offset=datum["source_offset"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(JournalEvent):
    """First event of a run: everything that is not a pure function of code, and the settings that decide the bits.

    Attributes:
        incarnation: Number of the process that writes the journal, from 0.
        recipe: Name of the recipe.
        config: Whole configuration as canonical JSON.
        seed: Random seed of the run.
        decisions: Decision mode.
        total_steps: Optimizer steps that the schedule foresees.
        layers: Seeded layers in the order of the module tree.
        parameters: Parameters of the host model.
        source_sha256: Hash over Esper's source files.
        versions: Versions of Python and of the packages that decide results, as a JSON object.
        threads: Intra-operation threads of torch.
        instruction_set: CPU capability that torch uses, such as AVX2.
        blas: BLAS library.
        onednn: Whether oneDNN is on.
        family: Family of runs whose snapshots share one key, and what is unchanged among them: the first run of a line of forks; empty means this run.
    """

    NAME: ClassVar[str] = "RunStarted"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 413059320

    incarnation: int
    recipe: str
    config: str
    seed: int
    decisions: DecisionMode
    total_steps: int
    layers: tuple[LayerInventory, ...]
    parameters: int
    source_sha256: str
    versions: str
    threads: int
    instruction_set: str
    blas: str
    onednn: bool
    family: str = ""

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "incarnation": self.incarnation,
            "recipe": self.recipe,
            "config": self.config,
            "seed": self.seed,
            "decisions": self.decisions,
            "total_steps": self.total_steps,
            "layers": [item.to_avro() for item in self.layers],
            "parameters": self.parameters,
            "source_sha256": self.source_sha256,
            "versions": self.versions,
            "threads": self.threads,
            "instruction_set": self.instruction_set,
            "blas": self.blas,
            "onednn": self.onednn,
            "family": self.family,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            incarnation=datum["incarnation"],
            recipe=datum["recipe"],
            config=datum["config"],
            seed=datum["seed"],
            decisions=datum["decisions"],
            total_steps=datum["total_steps"],
            layers=tuple(LayerInventory.from_avro(item) for item in datum["layers"]),
            parameters=datum["parameters"],
            source_sha256=datum["source_sha256"],
            versions=datum["versions"],
            threads=datum["threads"],
            instruction_set=datum["instruction_set"],
            blas=datum["blas"],
            onednn=datum["onednn"],
            family=datum["family"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedCommand(Event):
    """A command of a person or a service for one seed.

    Attributes:
        command: What to do.
        layer: Target layer.
        seed: Target seed.
        kernel_id: Kernel to graft; empty unless GERMINATE.
        alpha: Target blending weight; negative means what the blueprint says.
        reason: Why, in a sentence.
        expires_at: After this moment the command is void.
    """

    NAME: ClassVar[str] = "SeedCommand"
    TOPIC: ClassVar[str] = "control.kasmina.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 111626796

    command: Command
    layer: str
    seed: int
    kernel_id: str
    alpha: float
    reason: str
    expires_at: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "command": self.command,
            "layer": self.layer,
            "seed": self.seed,
            "kernel_id": self.kernel_id,
            "alpha": self.alpha,
            "reason": self.reason,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            command=datum["command"],
            layer=datum["layer"],
            seed=datum["seed"],
            kernel_id=datum["kernel_id"],
            alpha=datum["alpha"],
            reason=datum["reason"],
            expires_at=datum["expires_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedHealth(Event):
    """Measured health of one seed.

    Attributes:
        layer: Layer.
        seed: Seed.
        chunk_start: First output feature of the seed's chunk.
        chunk_size: Output features of the chunk.
        epoch: Epochs completed.
        step: Optimizer steps completed.
        stage: Lifecycle stage.
        activation_variance: Variance of the chunk's output over batch, mean over features.
        dead_ratio: Fraction of the chunk's features whose variance over the batch is below 1e-8.
        correlation: Mean absolute correlation between the chunk's features, 0 to 1.
        gradient_norm: Euclidean norm of the gradient of the chunk's host rows, or of the kernel when one is training.
        gradient_variance: Variance of that norm over the window.
        latency_us: Execution time of the seed's kernel at the sampled step, microseconds, saturating at 65535; 0 without a kernel.
        errors: Consecutive errors.
        recovering: Whether the seed is on its fallback.
        health: Health score, 0 to 1, as defined in esper.kasmina.health.
        ready: Whether the gate to the next stage is open.
    """

    NAME: ClassVar[str] = "SeedHealth"
    TOPIC: ClassVar[str] = "telemetry.seed.health"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1309983788

    layer: str
    seed: int
    chunk_start: int
    chunk_size: int
    epoch: int
    step: int
    stage: Stage
    activation_variance: float
    dead_ratio: float
    correlation: float
    gradient_norm: float
    gradient_variance: float
    latency_us: int
    errors: int
    recovering: bool
    health: float
    ready: bool

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "layer": self.layer,
            "seed": self.seed,
            "chunk_start": self.chunk_start,
            "chunk_size": self.chunk_size,
            "epoch": self.epoch,
            "step": self.step,
            "stage": self.stage,
            "activation_variance": self.activation_variance,
            "dead_ratio": self.dead_ratio,
            "correlation": self.correlation,
            "gradient_norm": self.gradient_norm,
            "gradient_variance": self.gradient_variance,
            "latency_us": self.latency_us,
            "errors": self.errors,
            "recovering": self.recovering,
            "health": self.health,
            "ready": self.ready,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            layer=datum["layer"],
            seed=datum["seed"],
            chunk_start=datum["chunk_start"],
            chunk_size=datum["chunk_size"],
            epoch=datum["epoch"],
            step=datum["step"],
            stage=datum["stage"],
            activation_variance=datum["activation_variance"],
            dead_ratio=datum["dead_ratio"],
            correlation=datum["correlation"],
            gradient_norm=datum["gradient_norm"],
            gradient_variance=datum["gradient_variance"],
            latency_us=datum["latency_us"],
            errors=datum["errors"],
            recovering=datum["recovering"],
            health=datum["health"],
            ready=datum["ready"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTransitioned(JournalEvent):
    """A seed went from one lifecycle stage to the next.

    Attributes:
        layer: Layer.
        seed: Seed.
        from_stage: Stage before.
        to_stage: Stage after.
        execution: Execution state after.
        kernel_id: Kernel in the slot after the transition; empty when none.
        family: Its blueprint family.
        decision_id: Decision that germinated the kernel; empty when none.
        alpha: Blending weight after.
        alpha_target: Blending weight that blending ends at.
        reason: Why, in a sentence.
    """

    NAME: ClassVar[str] = "SeedTransitioned"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 660007354

    layer: str
    seed: int
    from_stage: Stage
    to_stage: Stage
    execution: ExecutionState
    kernel_id: str
    family: str
    decision_id: str
    alpha: float
    alpha_target: float
    reason: str

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "layer": self.layer,
            "seed": self.seed,
            "from_stage": self.from_stage,
            "to_stage": self.to_stage,
            "execution": self.execution,
            "kernel_id": self.kernel_id,
            "family": self.family,
            "decision_id": self.decision_id,
            "alpha": self.alpha,
            "alpha_target": self.alpha_target,
            "reason": self.reason,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            layer=datum["layer"],
            seed=datum["seed"],
            from_stage=datum["from_stage"],
            to_stage=datum["to_stage"],
            execution=datum["execution"],
            kernel_id=datum["kernel_id"],
            family=datum["family"],
            decision_id=datum["decision_id"],
            alpha=datum["alpha"],
            alpha_target=datum["alpha_target"],
            reason=datum["reason"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatePacket(Event):
    """State of the whole run at an epoch boundary: what Tamiyo decides from.

    Attributes:
        timeline: Timeline of the run.
        packet: Number of the packet in its timeline: epochs completed.
        epoch: Epochs completed.
        step: Optimizer steps completed.
        total_steps: Optimizer steps that the schedule foresees.
        run_seed: Random seed of the run.
        decisions: Decision mode.
        train_loss: Mean training loss of the epoch, nats; 0 before the first.
        train_accuracy: Training accuracy of the epoch, fraction.
        validation_loss: Loss on the held-out split, nats.
        validation_accuracy: Accuracy on the held-out split, fraction.
        learning_rate: Learning rate of the host now.
        gradient_norm: Euclidean norm of the host's gradient at the last step.
        layers: Seeded layers in the order of the module tree.
        catalogue: Kernels that can be grafted, sorted by kernel id.
        policy: Settings of the policy from the recipe, as a JSON object.
        parent_run_id: Run that this one was forked from; empty for one that was not.
        parent_timeline: Timeline of the parent in which the fork stands.
        parent_packet: Number of the parent's last packet whose answer the fork began with; -1 when there was none.
    """

    NAME: ClassVar[str] = "SystemStatePacket"
    TOPIC: ClassVar[str] = "system.events.epoch"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1129128424

    timeline: int
    packet: int
    epoch: int
    step: int
    total_steps: int
    run_seed: int
    decisions: DecisionMode
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    gradient_norm: float
    layers: tuple[LayerState, ...]
    catalogue: tuple[CatalogueEntry, ...]
    policy: str
    parent_run_id: str = ""
    parent_timeline: int = 0
    parent_packet: int = -1

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "packet": self.packet,
            "epoch": self.epoch,
            "step": self.step,
            "total_steps": self.total_steps,
            "run_seed": self.run_seed,
            "decisions": self.decisions,
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            "layers": [item.to_avro() for item in self.layers],
            "catalogue": [item.to_avro() for item in self.catalogue],
            "policy": self.policy,
            "parent_run_id": self.parent_run_id,
            "parent_timeline": self.parent_timeline,
            "parent_packet": self.parent_packet,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            packet=datum["packet"],
            epoch=datum["epoch"],
            step=datum["step"],
            total_steps=datum["total_steps"],
            run_seed=datum["run_seed"],
            decisions=datum["decisions"],
            train_loss=datum["train_loss"],
            train_accuracy=datum["train_accuracy"],
            validation_loss=datum["validation_loss"],
            validation_accuracy=datum["validation_accuracy"],
            learning_rate=datum["learning_rate"],
            gradient_norm=datum["gradient_norm"],
            layers=tuple(LayerState.from_avro(item) for item in datum["layers"]),
            catalogue=tuple(CatalogueEntry.from_avro(item) for item in datum["catalogue"]),
            policy=datum["policy"],
            parent_run_id=datum["parent_run_id"],
            parent_timeline=datum["parent_timeline"],
            parent_packet=datum["parent_packet"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryLost(JournalEvent):
    """Telemetry that was dropped because the ring was full.

    Attributes:
        topic: Topic of the lost events.
        lost: How many were lost since the last such event.
    """

    NAME: ClassVar[str] = "TelemetryLost"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 547300841

    topic: str
    lost: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "timeline": self.timeline,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "step": self.step,
            "topic": self.topic,
            "lost": self.lost,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            timeline=datum["timeline"],
            sequence=datum["sequence"],
            epoch=datum["epoch"],
            step=datum["step"],
            topic=datum["topic"],
            lost=datum["lost"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep(Event):
    """Figures of one optimizer step.

    Attributes:
        epoch: Epochs completed before the step.
        step: Optimizer steps completed, with this one.
        loss: Training loss of the step, nats.
        accuracy: Training accuracy of the step, fraction.
        gradient_norm: Euclidean norm of the host's gradient before clipping.
        learning_rate: Learning rate of the host.
        samples: Samples in the step.
        duration_us: Time of the step, microseconds.
    """

    NAME: ClassVar[str] = "TrainingStep"
    TOPIC: ClassVar[str] = "telemetry.training.step"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1388467925

    epoch: int
    step: int
    loss: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    samples: int
    duration_us: int

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
            "run_id": self.run_id,
            "sender_id": self.sender_id,
            "trace_id": self.trace_id,
            "causation_id": self.causation_id,
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "samples": self.samples,
            "duration_us": self.duration_us,
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum that fastavro read."""
        return cls(
            event_id=datum["event_id"],
            occurred_at=datum["occurred_at"],
            run_id=datum["run_id"],
            sender_id=datum["sender_id"],
            trace_id=datum["trace_id"],
            causation_id=datum["causation_id"],
            epoch=datum["epoch"],
            step=datum["step"],
            loss=datum["loss"],
            accuracy=datum["accuracy"],
            gradient_norm=datum["gradient_norm"],
            learning_rate=datum["learning_rate"],
            samples=datum["samples"],
            duration_us=datum["duration_us"],
        )


RECORDS: tuple[type[Event], ...] = (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    AuditRecorded,
    BlueprintFailed,
    BlueprintProposed,
    CacheSampled,
    CheckpointRequested,
    CheckpointTaken,
    CompilationFailed,
    CompilationStarted,
    DeadLettered,
    EpochEnded,
    EpochReviewed,
    FieldReport,
    FieldReportAnswered,
    InstabilityDetected,
    KernelCompiled,
    KernelFailed,
    KernelPublished,
    KernelRejected,
    KernelValidated,
    MetricRecorded,
    PauseRequested,
    PerformanceDelta,
    ResourceSampled,
    ResumeRequested,
    RollbackRequested,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunRequested,
    RunResumed,
    RunRolledBack,
    RunStarted,
    SeedCommand,
    SeedHealth,
    SeedTransitioned,
    SystemStatePacket,
    TelemetryLost,
    TrainingStep,
)
"""Every record type, sorted by name."""
