"""Generated from schemas/*.avsc by tools/generate_events.py. Do not edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from struct import Struct
from typing import Any, ClassVar, Literal, Self

from esper.events.avro import (
    NAMED,
    OPTIONS,
    no_branch,
    read_array,
    read_boolean,
    read_bytes,
    read_double,
    read_doubles,
    read_enum,
    read_long,
    read_utf8,
    write_data,
    write_doubles,
)
from esper.events.envelope import (
    Event,
    JournalEvent,
    Record,
    SignedEvent,
    read_seal,
    read_sender,
    write_envelope,
)
from esper.events.ranges import NAMES, TEXTS, Bound, require

_new, _set = object.__new__, object.__setattr__
_unpack_3 = Struct("<3d").unpack
_unpack_4 = Struct("<4d").unpack
_unpack_5 = Struct("<5d").unpack
_unpack_7 = Struct("<7d").unpack

Command = Literal["GERMINATE", "ADVANCE", "SET_ALPHA", "CULL", "FOSSILISE", "RESET", "TERMINATE"]
"""What a command asks of a seed."""

_COMMAND = {
    "type": "enum",
    "name": "Command",
    "symbols": ["GERMINATE", "ADVANCE", "SET_ALPHA", "CULL", "FOSSILISE", "RESET", "TERMINATE"],
}

Verdict = Literal["FOSSILIZED", "CULLED", "RESET"]
"""How an adaptation ended."""

_VERDICT = {
    "type": "enum",
    "name": "Verdict",
    "symbols": ["FOSSILIZED", "CULLED", "RESET"],
}

AlertSeverity = Literal["WARNING", "CRITICAL"]
"""How bad a condition is."""

_ALERTSEVERITY = {
    "type": "enum",
    "name": "AlertSeverity",
    "symbols": ["WARNING", "CRITICAL"],
}

AlertEnd = Literal["CLEARED", "RUN_ENDED", "FORGOTTEN"]
"""Why an alert is over."""

_ALERTEND = {
    "type": "enum",
    "name": "AlertEnd",
    "symbols": ["CLEARED", "RUN_ENDED", "FORGOTTEN"],
}

Tap = Literal["LAYER_INPUT", "HOST_CHUNK"]
"""What a kernel reads: the layer's input or the host's own chunk of output."""

_TAP = {
    "type": "enum",
    "name": "Tap",
    "symbols": ["LAYER_INPUT", "HOST_CHUNK"],
}

Blend = Literal["RESIDUAL", "LERP"]
"""RESIDUAL: y = h + alpha*k. LERP: y = (1-alpha)*h + alpha*k."""

_BLEND = {
    "type": "enum",
    "name": "Blend",
    "symbols": ["RESIDUAL", "LERP"],
}

SnapshotKind = Literal["FULL", "INCREMENTAL"]
"""Whether a snapshot has a parent, whose unchanged chunks it shares (INCREMENTAL), or begins a line (FULL)."""

_SNAPSHOTKIND = {
    "type": "enum",
    "name": "SnapshotKind",
    "symbols": ["FULL", "INCREMENTAL"],
}

CounterfactualMode = Literal["OPEN", "CLOSED"]
"""What happens after the decision."""

_COUNTERFACTUALMODE = {
    "type": "enum",
    "name": "CounterfactualMode",
    "symbols": ["OPEN", "CLOSED"],
}

FailurePhase = Literal["LOAD", "FORWARD", "NON_FINITE"]
"""Where a kernel failed."""

_FAILUREPHASE = {
    "type": "enum",
    "name": "FailurePhase",
    "symbols": ["LOAD", "FORWARD", "NON_FINITE"],
}

Annotation = Literal["TAGGED", "NOTED", "RENAMED", "BASELINE"]
"""What is said of a run."""

_ANNOTATION = {
    "type": "enum",
    "name": "Annotation",
    "symbols": ["TAGGED", "NOTED", "RENAMED", "BASELINE"],
}

Outcome = Literal["FINISHED", "INTERRUPTED"]
"""Whether all steps were done or a person ended the run early."""

_OUTCOME = {
    "type": "enum",
    "name": "Outcome",
    "symbols": ["FINISHED", "INTERRUPTED"],
}

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

_STAGE = {
    "type": "enum",
    "name": "Stage",
    "symbols": [
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
    ],
}

ExecutionState = Literal["DORMANT", "LOADING", "ACTIVE", "ERROR_RECOVERY", "FOSSILIZED"]
"""What the hot path does with a seed."""

_EXECUTIONSTATE = {
    "type": "enum",
    "name": "ExecutionState",
    "symbols": ["DORMANT", "LOADING", "ACTIVE", "ERROR_RECOVERY", "FOSSILIZED"],
}

DecisionMode = Literal["LIVE", "LOCKSTEP"]
"""Whether the trainer waits for each answer (LOCKSTEP) or not (LIVE)."""

_DECISIONMODE = {
    "type": "enum",
    "name": "DecisionMode",
    "symbols": ["LIVE", "LOCKSTEP"],
}


@dataclass(frozen=True, kw_only=True)
class ReviewedCommand(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("decision_id", most=200),
        Bound("layer", most=4096),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("family", most=4096),
        Bound("alpha", minimum=-1, maximum=1, finite=True),
        Bound("confidence", minimum=0, maximum=1, finite=True),
        Bound("urgency", minimum=0, maximum=1, finite=True),
        Bound("evidence", format="json"),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.seed) >> 31
            or len(self.decision_id) > 200
            or len(self.layer) + len(self.kernel_id) + len(self.family) > 4096
            or not -1.0 <= self.alpha <= 1.0
            or not 0.0 <= self.confidence <= 1.0
            or not 0.0 <= self.urgency <= 1.0
            or self.evidence not in TEXTS["json"]
        )


@dataclass(frozen=True, kw_only=True)
class ReportedLayer(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("name", most=4096),
        Bound("kind", most=4096),
        Bound("in_features", minimum=0, maximum=2147483647),
        Bound("out_features", minimum=0, maximum=2147483647),
        Bound("chunks", minimum=0, maximum=2147483647, most=65536),
        Bound("parameter_budget", minimum=0, maximum=9007199254740991),
        Bound("geometry", format="geometry"),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.in_features | self.out_features) >> 31
            or (self.parameter_budget) >> 53
            or len(self.name) + len(self.kind) > 4096
            or len(self.chunks) > 65536
            or any(not 0 <= one <= 2147483647 for one in self.chunks)
            or self.geometry not in TEXTS["geometry"]
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["chunks"] = tuple(datum["chunks"])
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
class Check(Record):
    """One verification of a kernel.

    Attributes:
        name: What was verified: shape, dynamic_batch, gradient, finite, budget, determinism.
        passed: Whether it held.
        detail: The figure behind it.
    """

    name: str
    passed: bool
    detail: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (Bound("name", most=4096),)

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(len(self.name) > 4096)


@dataclass(frozen=True, kw_only=True)
class MetricLabel(Record):
    """A label of a custom metric.

    Attributes:
        name: Name of the label.
        value: Value of the label.
    """

    name: str
    value: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = ()

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return False


@dataclass(frozen=True, kw_only=True)
class RestoredSeed(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("layer", most=4096),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("family", most=4096),
        Bound("decision_id", most=200),
        Bound("alpha", minimum=-1, maximum=1, finite=True),
        Bound("alpha_target", minimum=0, maximum=1, finite=True),
        Bound("stage_step", minimum=0, maximum=9007199254740991),
        Bound("stage_epoch", minimum=0, maximum=2147483647),
        Bound("adapted_epoch", minimum=-1, maximum=2147483647),
        Bound("errors", minimum=0, maximum=2147483647),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.seed | self.stage_epoch | (self.adapted_epoch + 1) | self.errors) >> 31
            or (self.stage_step) >> 53
            or len(self.layer) + len(self.kernel_id) + len(self.family) > 4096
            or len(self.decision_id) > 200
            or not -1.0 <= self.alpha <= 1.0
            or not 0.0 <= self.alpha_target <= 1.0
        )


@dataclass(frozen=True, kw_only=True)
class LeftOut(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("run_id", format="name"),
        Bound("decision_id", most=200),
        Bound("layer", most=4096),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("epoch", minimum=0, maximum=2147483647),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.seed | self.epoch) >> 31
            or len(self.decision_id) > 200
            or len(self.layer) + len(self.kernel_id) > 4096
            or self.run_id not in NAMES
        )


@dataclass(frozen=True, kw_only=True)
class LayerInventory(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("name", most=4096),
        Bound("kind", most=4096),
        Bound("in_features", minimum=0, maximum=2147483647),
        Bound("out_features", minimum=0, maximum=2147483647),
        Bound("parameters", minimum=0, maximum=9007199254740991),
        Bound("chunks", minimum=0, maximum=2147483647, most=65536),
        Bound("geometry", format="geometry"),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.in_features | self.out_features) >> 31
            or (self.parameters) >> 53
            or len(self.name) + len(self.kind) > 4096
            or len(self.chunks) > 65536
            or any(not 0 <= one <= 2147483647 for one in self.chunks)
            or self.geometry not in TEXTS["geometry"]
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["chunks"] = tuple(datum["chunks"])
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
class SeedState(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("chunk_start", minimum=0, maximum=2147483647),
        Bound("chunk_size", minimum=0, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("family", most=4096),
        Bound("decision_id", most=200),
        Bound("alpha", minimum=-1, maximum=1, finite=True),
        Bound("stage_epoch", minimum=0, maximum=2147483647),
        Bound("trained_steps", minimum=0, maximum=9007199254740991),
        Bound("health", minimum=0, maximum=1.001),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.seed | self.chunk_start | self.chunk_size | self.stage_epoch) >> 31
            or (self.trained_steps) >> 53
            or len(self.kernel_id) + len(self.family) > 4096
            or len(self.decision_id) > 200
            or not -1.0 <= self.alpha <= 1.0
            or self.health < 0.0
            or self.health > 1.001
        )


@dataclass(frozen=True, kw_only=True)
class LayerState(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("name", most=4096),
        Bound("kind", most=4096),
        Bound("in_features", minimum=0, maximum=2147483647),
        Bound("out_features", minimum=0, maximum=2147483647),
        Bound("seeds", most=65536),
        Bound("geometry", format="geometry"),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.in_features | self.out_features) >> 31
            or len(self.name) + len(self.kind) > 4096
            or len(self.seeds) > 65536
            or any(one.unsound() for one in self.seeds)
            or self.geometry not in TEXTS["geometry"]
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "seeds": [item.to_avro() for item in self.seeds],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["seeds"] = tuple(map(SeedState.from_avro, datum["seeds"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry(Record):
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("kernel_id", most=4096),
        Bound("blueprint_id", most=4096),
        Bound("family", most=4096),
        Bound("in_features", minimum=0, maximum=2147483647),
        Bound("out_features", minimum=0, maximum=2147483647),
        Bound("parameters", minimum=0, maximum=9007199254740991),
        Bound("flops", minimum=0, maximum=9007199254740991),
        Bound("geometry", format="geometry"),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.in_features | self.out_features) >> 31
            or (self.parameters | self.flops) >> 53
            or len(self.kernel_id) + len(self.blueprint_id) + len(self.family) > 4096
            or self.geometry not in TEXTS["geometry"]
        )


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 267800763
    MAX_BYTES: ClassVar[int] = 65536

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("alpha", minimum=-1, maximum=1, finite=True),
        Bound("confidence", minimum=0, maximum=1, finite=True),
        Bound("urgency", minimum=0, maximum=1, finite=True),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step | (self.source_offset + 1)) >> 53
            or (self.timeline | self.epoch | self.seed | (self.source_partition + 1)) >> 31
            or self.run_id not in NAMES
            or not -1.0 <= self.alpha <= 1.0
            or not 0.0 <= self.confidence <= 1.0
            or not 0.0 <= self.urgency <= 1.0
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "command_id": read_utf8(stream),
            "decision_id": read_utf8(stream),
            "command": read_enum(stream, _COMMAND, None),
            "layer": read_utf8(stream),
            "seed": (seed := read_long(stream)),
            "kernel_id": read_utf8(stream),
            "family": read_utf8(stream),
            "alpha": (alpha := (numbers := _unpack_3(stream.read(24)))[0]),
            "confidence": (confidence := numbers[1]),
            "urgency": (urgency := numbers[2]),
            "source_topic": read_utf8(stream),
            "source_partition": (source_partition := read_long(stream)),
            "source_offset": (source_offset := read_long(stream)),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (occurred_at | sequence | step | (source_offset + 1)) >> 53
            or (timeline | epoch | seed | (source_partition + 1)) >> 31
            or run_id not in NAMES
            or not -1.0 <= alpha <= 1.0
            or not 0.0 <= confidence <= 1.0
            or not 0.0 <= urgency <= 1.0
        ):
            require("AdaptationApplied", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.command_id, "string", NAMED, "command_id", OPTIONS)
        write_data(out, self.decision_id, "string", NAMED, "decision_id", OPTIONS)
        write_data(out, self.command, _COMMAND, NAMED, "command", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.family, "string", NAMED, "family", OPTIONS)
        write_data(out, self.alpha, "double", NAMED, "alpha", OPTIONS)
        write_data(out, self.confidence, "double", NAMED, "confidence", OPTIONS)
        write_data(out, self.urgency, "double", NAMED, "urgency", OPTIONS)
        write_data(out, self.source_topic, "string", NAMED, "source_topic", OPTIONS)
        write_data(out, self.source_partition, "int", NAMED, "source_partition", OPTIONS)
        write_data(out, self.source_offset, "long", NAMED, "source_offset", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class AdaptationOutcome(SignedEvent):
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
    SCHEMA_ID: ClassVar[int] = 1209062406
    MAX_BYTES: ClassVar[int] = 65536

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("reward", minimum=0, maximum=1, finite=True),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.step) >> 53
            or (self.seed | self.epoch) >> 31
            or self.run_id not in NAMES
            or not 0.0 <= self.reward <= 1.0
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "decision_id": read_utf8(stream),
            "layer": read_utf8(stream),
            "seed": (seed := read_long(stream)),
            "kernel_id": read_utf8(stream),
            "family": read_utf8(stream),
            "context": read_utf8(stream),
            "verdict": read_enum(stream, _VERDICT, None),
            "reward": (reward := read_double(stream)),
            "shadow_gap": read_double(stream),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "signer": read_utf8(stream),
            "signature": read_utf8(stream),
        }
        if (
            (occurred_at | step) >> 53
            or (seed | epoch) >> 31
            or run_id not in NAMES
            or not 0.0 <= reward <= 1.0
        ):
            require("AdaptationOutcome", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.decision_id, "string", NAMED, "decision_id", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.family, "string", NAMED, "family", OPTIONS)
        write_data(out, self.context, "string", NAMED, "context", OPTIONS)
        write_data(out, self.verdict, _VERDICT, NAMED, "verdict", OPTIONS)
        write_data(out, self.reward, "double", NAMED, "reward", OPTIONS)
        write_data(out, self.shadow_gap, "double", NAMED, "shadow_gap", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 1441701254

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("command_id", most=200),
        Bound("decision_id", most=200),
        Bound("layer", most=4096),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("source_topic", most=4096),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step | (self.source_offset + 1)) >> 53
            or (self.timeline | self.epoch | self.seed | (self.source_partition + 1)) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.command_id)
            + len(self.decision_id)
            > 200
            or len(self.layer)
            + len(self.kernel_id)
            + len(self.source_topic)
            + len(self.signer)
            + len(self.previous)
            + len(self.signature)
            > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "command_id": (command_id := read_utf8(stream)),
            "decision_id": (decision_id := read_utf8(stream)),
            "command": read_enum(stream, _COMMAND, None),
            "layer": (layer := read_utf8(stream)),
            "seed": (seed := read_long(stream)),
            "kernel_id": (kernel_id := read_utf8(stream)),
            "reason": read_utf8(stream),
            "source_topic": (source_topic := read_utf8(stream)),
            "source_partition": (source_partition := read_long(stream)),
            "source_offset": (source_offset := read_long(stream)),
            "signer": (signer := (seal := read_seal(stream))[0]),
            "previous": (previous := seal[1]),
            "signature": (signature := seal[2]),
        }
        if (
            (occurred_at | sequence | step | (source_offset + 1)) >> 53
            or (timeline | epoch | seed | (source_partition + 1)) >> 31
            or len(event_id)
            + len(sender_id)
            + len(trace_id)
            + len(causation_id or "")
            + len(command_id)
            + len(decision_id)
            > 200
            or len(layer)
            + len(kernel_id)
            + len(source_topic)
            + len(signer)
            + len(previous)
            + len(signature)
            > 4096
            or run_id not in NAMES
        ):
            require("AdaptationRejected", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.command_id, "string", NAMED, "command_id", OPTIONS)
        write_data(out, self.decision_id, "string", NAMED, "decision_id", OPTIONS)
        write_data(out, self.command, _COMMAND, NAMED, "command", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.source_topic, "string", NAMED, "source_topic", OPTIONS)
        write_data(out, self.source_partition, "int", NAMED, "source_partition", OPTIONS)
        write_data(out, self.source_offset, "long", NAMED, "source_offset", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class AlertRaised(Event):
    """An alert that people should hear of. It comes again with the same alert_id where the condition becomes worse.

    Attributes:
        alert_id: The alert: the same in all events about it, made from the hash of run, detector, layer, seed and time of the first anomaly.
        detector: Which condition: a detector of esper.anomalies, or consumer_lag or disk_space of the stack itself.
        layer: Layer that it is about; empty where none is meant.
        seed: Seed of that layer, by its index; -1 where none is meant.
        severity: The worst that it has been.
        epoch: Epochs completed then; -1 where unknown.
        step: Optimizer steps completed then; -1 where unknown.
        raised_at: Time of its first anomaly, microseconds since 1970-01-01 UTC.
        count: Anomalies that it stands for so far.
        value: What was measured; NaN or infinite where that was.
        expected: What is usual, or the limit.
        sentence: What happened, for people.
        evidence: Ids of the first events that caused it, the oldest first.
    """

    NAME: ClassVar[str] = "AlertRaised"
    TOPIC: ClassVar[str] = "observability.alerts"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 261078990
    MAX_BYTES: ClassVar[int] = 65536

    alert_id: str
    detector: str
    layer: str
    seed: int
    severity: AlertSeverity
    epoch: int
    step: int
    raised_at: int
    count: int
    value: float
    expected: float
    sentence: str
    evidence: tuple[str, ...] = ()

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("detector", most=200),
        Bound("layer", most=4096),
        Bound("seed", minimum=-1, maximum=2147483647),
        Bound("epoch", minimum=-1, maximum=2147483647),
        Bound("step", minimum=-1, maximum=9007199254740991),
        Bound("raised_at", minimum=0, maximum=9007199254740991),
        Bound("count", minimum=1, maximum=9007199254740991),
        Bound("sentence", most=8192),
        Bound("evidence", most=16),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | (self.step + 1) | self.raised_at) >> 53
            or ((self.seed + 1) | (self.epoch + 1)) >> 31
            or len(self.detector) > 200
            or len(self.layer) > 4096
            or len(self.sentence) > 8192
            or len(self.evidence) > 16
            or self.run_id not in NAMES
            or not 1 <= self.count <= 9007199254740991
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["evidence"] = tuple(datum["evidence"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "alert_id": read_utf8(stream),
            "detector": (detector := read_utf8(stream)),
            "layer": (layer := read_utf8(stream)),
            "seed": (seed := read_long(stream)),
            "severity": read_enum(stream, _ALERTSEVERITY, None),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "raised_at": (raised_at := read_long(stream)),
            "count": (count := read_long(stream)),
            "value": read_double(stream),
            "expected": read_double(stream),
            "sentence": (sentence := read_utf8(stream)),
            "evidence": (
                evidence := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
        }
        if (
            (occurred_at | (step + 1) | raised_at) >> 53
            or ((seed + 1) | (epoch + 1)) >> 31
            or len(detector) > 200
            or len(layer) > 4096
            or len(sentence) > 8192
            or len(evidence) > 16
            or run_id not in NAMES
            or not 1 <= count <= 9007199254740991
        ):
            require("AlertRaised", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.alert_id, "string", NAMED, "alert_id", OPTIONS)
        write_data(out, self.detector, "string", NAMED, "detector", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.severity, _ALERTSEVERITY, NAMED, "severity", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.raised_at, "long", NAMED, "raised_at", OPTIONS)
        write_data(out, self.count, "long", NAMED, "count", OPTIONS)
        write_data(out, self.value, "double", NAMED, "value", OPTIONS)
        write_data(out, self.expected, "double", NAMED, "expected", OPTIONS)
        write_data(out, self.sentence, "string", NAMED, "sentence", OPTIONS)
        write_data(
            out, self.evidence, {"type": "array", "items": "string"}, NAMED, "evidence", OPTIONS
        )


@dataclass(frozen=True, kw_only=True)
class AlertResolved(Event):
    """An alert that was raised is over.

    Attributes:
        alert_id: The alert: the same in all events about it, made from the hash of run, detector, layer, seed and time of the first anomaly.
        detector: Which condition: a detector of esper.anomalies, or consumer_lag or disk_space of the stack itself.
        layer: Layer that it is about; empty where none is meant.
        seed: Seed of that layer, by its index; -1 where none is meant.
        severity: The worst that it was.
        epoch: Epochs completed then; -1 where unknown.
        step: Optimizer steps completed then; -1 where unknown.
        raised_at: Time of its first anomaly, microseconds since 1970-01-01 UTC.
        resolved_at: When it was over, by the event that showed it, microseconds since 1970-01-01 UTC.
        held_us: How long it held, microseconds.
        why: CLEARED: the condition no longer holds; RUN_ENDED: the run is over; FORGOTTEN: Nissa keeps no more runs than so many, and heard nothing of this one for longest.
        count: Anomalies that it stands for so far.
        sentence: What happened, for people.
        evidence: Ids of the first events that caused it, the oldest first.
    """

    NAME: ClassVar[str] = "AlertResolved"
    TOPIC: ClassVar[str] = "observability.alerts"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 818250904
    MAX_BYTES: ClassVar[int] = 65536

    alert_id: str
    detector: str
    layer: str
    seed: int
    severity: AlertSeverity
    epoch: int
    step: int
    raised_at: int
    resolved_at: int
    held_us: int
    why: AlertEnd
    count: int
    sentence: str
    evidence: tuple[str, ...] = ()

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("detector", most=200),
        Bound("layer", most=4096),
        Bound("seed", minimum=-1, maximum=2147483647),
        Bound("epoch", minimum=-1, maximum=2147483647),
        Bound("step", minimum=-1, maximum=9007199254740991),
        Bound("raised_at", minimum=0, maximum=9007199254740991),
        Bound("resolved_at", minimum=0, maximum=9007199254740991),
        Bound("held_us", minimum=0, maximum=9007199254740991),
        Bound("count", minimum=1, maximum=9007199254740991),
        Bound("sentence", most=8192),
        Bound("evidence", most=16),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | (self.step + 1) | self.raised_at | self.resolved_at | self.held_us)
            >> 53
            or ((self.seed + 1) | (self.epoch + 1)) >> 31
            or len(self.detector) > 200
            or len(self.layer) > 4096
            or len(self.sentence) > 8192
            or len(self.evidence) > 16
            or self.run_id not in NAMES
            or not 1 <= self.count <= 9007199254740991
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["evidence"] = tuple(datum["evidence"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "alert_id": read_utf8(stream),
            "detector": (detector := read_utf8(stream)),
            "layer": (layer := read_utf8(stream)),
            "seed": (seed := read_long(stream)),
            "severity": read_enum(stream, _ALERTSEVERITY, None),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "raised_at": (raised_at := read_long(stream)),
            "resolved_at": (resolved_at := read_long(stream)),
            "held_us": (held_us := read_long(stream)),
            "why": read_enum(stream, _ALERTEND, None),
            "count": (count := read_long(stream)),
            "sentence": (sentence := read_utf8(stream)),
            "evidence": (
                evidence := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
        }
        if (
            (occurred_at | (step + 1) | raised_at | resolved_at | held_us) >> 53
            or ((seed + 1) | (epoch + 1)) >> 31
            or len(detector) > 200
            or len(layer) > 4096
            or len(sentence) > 8192
            or len(evidence) > 16
            or run_id not in NAMES
            or not 1 <= count <= 9007199254740991
        ):
            require("AlertResolved", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.alert_id, "string", NAMED, "alert_id", OPTIONS)
        write_data(out, self.detector, "string", NAMED, "detector", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.severity, _ALERTSEVERITY, NAMED, "severity", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.raised_at, "long", NAMED, "raised_at", OPTIONS)
        write_data(out, self.resolved_at, "long", NAMED, "resolved_at", OPTIONS)
        write_data(out, self.held_us, "long", NAMED, "held_us", OPTIONS)
        write_data(out, self.why, _ALERTEND, NAMED, "why", OPTIONS)
        write_data(out, self.count, "long", NAMED, "count", OPTIONS)
        write_data(out, self.sentence, "string", NAMED, "sentence", OPTIONS)
        write_data(
            out, self.evidence, {"type": "array", "items": "string"}, NAMED, "evidence", OPTIONS
        )


@dataclass(frozen=True, kw_only=True)
class AnomalyDetected(Event):
    """A condition began to hold or became worse, as a detector of Nissa found; also where a silence or the limit of an hour withholds the alert.

    Attributes:
        detector: Which condition: a detector of esper.anomalies, or consumer_lag or disk_space of the stack itself.
        layer: Layer that it is about; empty where none is meant.
        seed: Seed of that layer, by its index; -1 where none is meant.
        severity: How bad it is: CRITICAL means that the run is lost unless somebody acts.
        epoch: Epochs completed then; -1 where unknown.
        step: Optimizer steps completed then; -1 where unknown.
        detected_at: Time of the event that showed it, or when nothing had come for too long, microseconds since 1970-01-01 UTC.
        value: What was measured; NaN or infinite where that was.
        expected: What is usual, or the limit.
        sentence: What happened, for people.
        evidence: Ids of the first events that caused it, the oldest first.
    """

    NAME: ClassVar[str] = "AnomalyDetected"
    TOPIC: ClassVar[str] = "observability.alerts"
    KEY: ClassVar[str] = "sender_id"
    SCHEMA_ID: ClassVar[int] = 1283263205
    MAX_BYTES: ClassVar[int] = 65536

    detector: str
    layer: str
    seed: int
    severity: AlertSeverity
    epoch: int
    step: int
    detected_at: int
    value: float
    expected: float
    sentence: str
    evidence: tuple[str, ...] = ()

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("detector", most=200),
        Bound("layer", most=4096),
        Bound("seed", minimum=-1, maximum=2147483647),
        Bound("epoch", minimum=-1, maximum=2147483647),
        Bound("step", minimum=-1, maximum=9007199254740991),
        Bound("detected_at", minimum=0, maximum=9007199254740991),
        Bound("sentence", most=8192),
        Bound("evidence", most=16),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | (self.step + 1) | self.detected_at) >> 53
            or ((self.seed + 1) | (self.epoch + 1)) >> 31
            or len(self.detector) > 200
            or len(self.layer) > 4096
            or len(self.sentence) > 8192
            or len(self.evidence) > 16
            or self.run_id not in NAMES
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["evidence"] = tuple(datum["evidence"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "detector": (detector := read_utf8(stream)),
            "layer": (layer := read_utf8(stream)),
            "seed": (seed := read_long(stream)),
            "severity": read_enum(stream, _ALERTSEVERITY, None),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "detected_at": (detected_at := read_long(stream)),
            "value": read_double(stream),
            "expected": read_double(stream),
            "sentence": (sentence := read_utf8(stream)),
            "evidence": (
                evidence := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
        }
        if (
            (occurred_at | (step + 1) | detected_at) >> 53
            or ((seed + 1) | (epoch + 1)) >> 31
            or len(detector) > 200
            or len(layer) > 4096
            or len(sentence) > 8192
            or len(evidence) > 16
            or run_id not in NAMES
        ):
            require("AnomalyDetected", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.detector, "string", NAMED, "detector", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.severity, _ALERTSEVERITY, NAMED, "severity", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.detected_at, "long", NAMED, "detected_at", OPTIONS)
        write_data(out, self.value, "double", NAMED, "value", OPTIONS)
        write_data(out, self.expected, "double", NAMED, "expected", OPTIONS)
        write_data(out, self.sentence, "string", NAMED, "sentence", OPTIONS)
        write_data(
            out, self.evidence, {"type": "array", "items": "string"}, NAMED, "evidence", OPTIONS
        )


@dataclass(frozen=True, kw_only=True)
class AuditRecorded(SignedEvent):
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
    SCHEMA_ID: ClassVar[int] = 605968841

    chain: int
    previous: str
    hash: str
    actor: str
    role: str
    action: str
    resource: str
    status: int
    detail: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("chain", minimum=0, maximum=9007199254740991),
        Bound("previous", most=4096),
        Bound("status", minimum=0, maximum=2147483647),
        Bound("signer", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.chain) >> 53
            or (self.status) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.previous) + len(self.signer) + len(self.signature) > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "chain": (chain := read_long(stream)),
            "previous": (previous := read_utf8(stream)),
            "hash": read_utf8(stream),
            "actor": read_utf8(stream),
            "role": read_utf8(stream),
            "action": read_utf8(stream),
            "resource": read_utf8(stream),
            "status": (status := read_long(stream)),
            "detail": read_utf8(stream),
            "signer": (signer := read_utf8(stream)),
            "signature": (signature := read_utf8(stream)),
        }
        if (
            (occurred_at | chain) >> 53
            or (status) >> 31
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(previous) + len(signer) + len(signature) > 4096
            or run_id not in NAMES
        ):
            require("AuditRecorded", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.chain, "long", NAMED, "chain", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.hash, "string", NAMED, "hash", OPTIONS)
        write_data(out, self.actor, "string", NAMED, "actor", OPTIONS)
        write_data(out, self.role, "string", NAMED, "role", OPTIONS)
        write_data(out, self.action, "string", NAMED, "action", OPTIONS)
        write_data(out, self.resource, "string", NAMED, "resource", OPTIONS)
        write_data(out, self.status, "int", NAMED, "status", OPTIONS)
        write_data(out, self.detail, "string", NAMED, "detail", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("report_id", most=200),
        Bound("blueprint_id", most=4096),
        Bound("attempts", minimum=0, maximum=2147483647),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or (self.attempts) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.report_id)
            > 200
            or len(self.blueprint_id) > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "report_id": (report_id := read_utf8(stream)),
            "blueprint_id": (blueprint_id := read_utf8(stream)),
            "attempts": (attempts := read_long(stream)),
            "error": read_utf8(stream),
        }
        if (
            (occurred_at) >> 53
            or (attempts) >> 31
            or len(event_id)
            + len(sender_id)
            + len(trace_id)
            + len(causation_id or "")
            + len(report_id)
            > 200
            or len(blueprint_id) > 4096
            or run_id not in NAMES
        ):
            require("BlueprintFailed", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.report_id, "string", NAMED, "report_id", OPTIONS)
        write_data(out, self.blueprint_id, "string", NAMED, "blueprint_id", OPTIONS)
        write_data(out, self.attempts, "int", NAMED, "attempts", OPTIONS)
        write_data(out, self.error, "string", NAMED, "error", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("report_id", most=200),
        Bound("blueprint_id", most=4096),
        Bound("family", most=4096),
        Bound("ir", format="json"),
        Bound("in_features", minimum=0, maximum=2147483647),
        Bound("out_features", minimum=0, maximum=2147483647),
        Bound("parameters", minimum=0, maximum=9007199254740991),
        Bound("flops", minimum=0, maximum=9007199254740991),
        Bound("geometry", format="geometry"),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.parameters | self.flops) >> 53
            or (self.in_features | self.out_features) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.report_id)
            > 200
            or len(self.blueprint_id) + len(self.family) > 4096
            or self.run_id not in NAMES
            or self.ir not in TEXTS["json"]
            or self.geometry not in TEXTS["geometry"]
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "report_id": (report_id := read_utf8(stream)),
            "blueprint_id": (blueprint_id := read_utf8(stream)),
            "family": (family := read_utf8(stream)),
            "ir": (ir := read_utf8(stream)),
            "in_features": (in_features := read_long(stream)),
            "out_features": (out_features := read_long(stream)),
            "tap": read_enum(stream, _TAP, None),
            "blend": read_enum(stream, _BLEND, None),
            "parameters": (parameters := read_long(stream)),
            "flops": (flops := read_long(stream)),
            "geometry": (geometry := read_utf8(stream)),
        }
        if (
            (occurred_at | parameters | flops) >> 53
            or (in_features | out_features) >> 31
            or len(event_id)
            + len(sender_id)
            + len(trace_id)
            + len(causation_id or "")
            + len(report_id)
            > 200
            or len(blueprint_id) + len(family) > 4096
            or run_id not in NAMES
            or ir not in TEXTS["json"]
            or geometry not in TEXTS["geometry"]
        ):
            require("BlueprintProposed", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.report_id, "string", NAMED, "report_id", OPTIONS)
        write_data(out, self.blueprint_id, "string", NAMED, "blueprint_id", OPTIONS)
        write_data(out, self.family, "string", NAMED, "family", OPTIONS)
        write_data(out, self.ir, "string", NAMED, "ir", OPTIONS)
        write_data(out, self.in_features, "int", NAMED, "in_features", OPTIONS)
        write_data(out, self.out_features, "int", NAMED, "out_features", OPTIONS)
        write_data(out, self.tap, _TAP, NAMED, "tap", OPTIONS)
        write_data(out, self.blend, _BLEND, NAMED, "blend", OPTIONS)
        write_data(out, self.parameters, "long", NAMED, "parameters", OPTIONS)
        write_data(out, self.flops, "long", NAMED, "flops", OPTIONS)
        write_data(out, self.geometry, "string", NAMED, "geometry", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 16384

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("hits_memory", minimum=0, maximum=9007199254740991),
        Bound("hits_disk", minimum=0, maximum=9007199254740991),
        Bound("hits_store", minimum=0, maximum=9007199254740991),
        Bound("misses", minimum=0, maximum=9007199254740991),
        Bound("evictions", minimum=0, maximum=9007199254740991),
        Bound("prefetched", minimum=0, maximum=9007199254740991),
        Bound("entries", minimum=0, maximum=2147483647),
        Bound("bytes", minimum=0, maximum=9007199254740991),
        Bound("limit_entries", minimum=0, maximum=2147483647),
        Bound("limit_bytes", minimum=0, maximum=9007199254740991),
        Bound("latency_us", minimum=0, finite=True),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (
                self.occurred_at
                | self.hits_memory
                | self.hits_disk
                | self.hits_store
                | self.misses
                | self.evictions
                | self.prefetched
                | self.bytes
                | self.limit_bytes
            )
            >> 53
            or (self.entries | self.limit_entries) >> 31
            or self.run_id not in NAMES
            or not 0.0 <= self.latency_us <= 1.7976931348623157e308
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "hits_memory": (hits_memory := read_long(stream)),
            "hits_disk": (hits_disk := read_long(stream)),
            "hits_store": (hits_store := read_long(stream)),
            "misses": (misses := read_long(stream)),
            "evictions": (evictions := read_long(stream)),
            "prefetched": (prefetched := read_long(stream)),
            "entries": (entries := read_long(stream)),
            "bytes": (bytes := read_long(stream)),
            "limit_entries": (limit_entries := read_long(stream)),
            "limit_bytes": (limit_bytes := read_long(stream)),
            "latency_us": (latency_us := read_double(stream)),
        }
        if (
            (
                occurred_at
                | hits_memory
                | hits_disk
                | hits_store
                | misses
                | evictions
                | prefetched
                | bytes
                | limit_bytes
            )
            >> 53
            or (entries | limit_entries) >> 31
            or run_id not in NAMES
            or not 0.0 <= latency_us <= 1.7976931348623157e308
        ):
            require("CacheSampled", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.hits_memory, "long", NAMED, "hits_memory", OPTIONS)
        write_data(out, self.hits_disk, "long", NAMED, "hits_disk", OPTIONS)
        write_data(out, self.hits_store, "long", NAMED, "hits_store", OPTIONS)
        write_data(out, self.misses, "long", NAMED, "misses", OPTIONS)
        write_data(out, self.evictions, "long", NAMED, "evictions", OPTIONS)
        write_data(out, self.prefetched, "long", NAMED, "prefetched", OPTIONS)
        write_data(out, self.entries, "int", NAMED, "entries", OPTIONS)
        write_data(out, self.bytes, "long", NAMED, "bytes", OPTIONS)
        write_data(out, self.limit_entries, "int", NAMED, "limit_entries", OPTIONS)
        write_data(out, self.limit_bytes, "long", NAMED, "limit_bytes", OPTIONS)
        write_data(out, self.latency_us, "double", NAMED, "latency_us", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    reason: str
    expires_at: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("expires_at", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool((self.occurred_at | self.expires_at) >> 53 or self.run_id not in NAMES)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "reason": read_utf8(stream),
            "expires_at": (expires_at := read_long(stream)),
        }
        if (occurred_at | expires_at) >> 53 or run_id not in NAMES:
            require("CheckpointRequested", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.expires_at, "long", NAMED, "expires_at", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
        kind: Whether it shares what is unchanged with a parent.
    """

    NAME: ClassVar[str] = "CheckpointTaken"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 634799178
    MAX_BYTES: ClassVar[int] = 65536

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
    kind: SnapshotKind = "FULL"

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("at_timeline", minimum=0, maximum=2147483647),
        Bound("at_sequence", minimum=-1, maximum=9007199254740991),
        Bound("at_epoch", minimum=0, maximum=2147483647),
        Bound("at_step", minimum=0, maximum=9007199254740991),
        Bound("tensors", minimum=0, maximum=2147483647),
        Bound("size_bytes", minimum=0, maximum=9007199254740991),
        Bound("stored_bytes", minimum=0, maximum=9007199254740991),
        Bound("stall_us", minimum=0, maximum=9007199254740991),
        Bound("duration_us", minimum=0, maximum=9007199254740991),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (
                self.occurred_at
                | self.sequence
                | self.step
                | (self.at_sequence + 1)
                | self.at_step
                | self.size_bytes
                | self.stored_bytes
                | self.stall_us
                | self.duration_us
                | (self.source_offset + 1)
            )
            >> 53
            or (
                self.timeline
                | self.epoch
                | self.at_timeline
                | self.at_epoch
                | self.tensors
                | (self.source_partition + 1)
            )
            >> 31
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "snapshot_id": read_utf8(stream),
            "address": read_utf8(stream),
            "sha256": read_utf8(stream),
            "parent": read_utf8(stream),
            "reason": read_utf8(stream),
            "at_timeline": (at_timeline := read_long(stream)),
            "at_sequence": (at_sequence := read_long(stream)),
            "at_epoch": (at_epoch := read_long(stream)),
            "at_step": (at_step := read_long(stream)),
            "tensors": (tensors := read_long(stream)),
            "size_bytes": (size_bytes := read_long(stream)),
            "stored_bytes": (stored_bytes := read_long(stream)),
            "stall_us": (stall_us := read_long(stream)),
            "duration_us": (duration_us := read_long(stream)),
            "parameters_digest": read_utf8(stream),
            "command_id": read_utf8(stream),
            "source_topic": read_utf8(stream),
            "source_partition": (source_partition := read_long(stream)),
            "source_offset": (source_offset := read_long(stream)),
            "kind": read_enum(stream, _SNAPSHOTKIND, None),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (
                occurred_at
                | sequence
                | step
                | (at_sequence + 1)
                | at_step
                | size_bytes
                | stored_bytes
                | stall_us
                | duration_us
                | (source_offset + 1)
            )
            >> 53
            or (timeline | epoch | at_timeline | at_epoch | tensors | (source_partition + 1)) >> 31
            or run_id not in NAMES
        ):
            require("CheckpointTaken", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.snapshot_id, "string", NAMED, "snapshot_id", OPTIONS)
        write_data(out, self.address, "string", NAMED, "address", OPTIONS)
        write_data(out, self.sha256, "string", NAMED, "sha256", OPTIONS)
        write_data(out, self.parent, "string", NAMED, "parent", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.at_timeline, "int", NAMED, "at_timeline", OPTIONS)
        write_data(out, self.at_sequence, "long", NAMED, "at_sequence", OPTIONS)
        write_data(out, self.at_epoch, "int", NAMED, "at_epoch", OPTIONS)
        write_data(out, self.at_step, "long", NAMED, "at_step", OPTIONS)
        write_data(out, self.tensors, "int", NAMED, "tensors", OPTIONS)
        write_data(out, self.size_bytes, "long", NAMED, "size_bytes", OPTIONS)
        write_data(out, self.stored_bytes, "long", NAMED, "stored_bytes", OPTIONS)
        write_data(out, self.stall_us, "long", NAMED, "stall_us", OPTIONS)
        write_data(out, self.duration_us, "long", NAMED, "duration_us", OPTIONS)
        write_data(out, self.parameters_digest, "string", NAMED, "parameters_digest", OPTIONS)
        write_data(out, self.command_id, "string", NAMED, "command_id", OPTIONS)
        write_data(out, self.source_topic, "string", NAMED, "source_topic", OPTIONS)
        write_data(out, self.source_partition, "int", NAMED, "source_partition", OPTIONS)
        write_data(out, self.source_offset, "long", NAMED, "source_offset", OPTIONS)
        write_data(out, self.kind, _SNAPSHOTKIND, NAMED, "kind", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("blueprint_id", most=4096),
        Bound("attempt", minimum=0, maximum=2147483647),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or (self.attempt) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.blueprint_id) > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "blueprint_id": (blueprint_id := read_utf8(stream)),
            "attempt": (attempt := read_long(stream)),
            "configuration": read_utf8(stream),
            "error": read_utf8(stream),
            "detail": read_utf8(stream),
        }
        if (
            (occurred_at) >> 53
            or (attempt) >> 31
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(blueprint_id) > 4096
            or run_id not in NAMES
        ):
            require("CompilationFailed", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.blueprint_id, "string", NAMED, "blueprint_id", OPTIONS)
        write_data(out, self.attempt, "int", NAMED, "attempt", OPTIONS)
        write_data(out, self.configuration, "string", NAMED, "configuration", OPTIONS)
        write_data(out, self.error, "string", NAMED, "error", OPTIONS)
        write_data(out, self.detail, "string", NAMED, "detail", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    blueprint_id: str
    attempt: int
    configuration: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("attempt", minimum=0, maximum=2147483647),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool((self.occurred_at) >> 53 or (self.attempt) >> 31 or self.run_id not in NAMES)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "blueprint_id": read_utf8(stream),
            "attempt": (attempt := read_long(stream)),
            "configuration": read_utf8(stream),
        }
        if (occurred_at) >> 53 or (attempt) >> 31 or run_id not in NAMES:
            require("CompilationStarted", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.blueprint_id, "string", NAMED, "blueprint_id", OPTIONS)
        write_data(out, self.attempt, "int", NAMED, "attempt", OPTIONS)
        write_data(out, self.configuration, "string", NAMED, "configuration", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class CounterfactualMeasured(SignedEvent):
    """What a decision of a run was worth: the run with it and without it, from the same state (`esper whatif`). Its journal and its training do not change.

    Attributes:
        decision_id: Decision that is left out on one side.
        mode: OPEN: later decisions as in the record, in both branches; CLOSED: Tamiyo decides anew, and the branches are runs.
        orders: Pairs of branches; all but the first have other batch orders after the decision.
        until_epoch: Epochs of the run, counted from its first, after which the branches end.
        score_name: Which metric the score is.
        higher_is_better: Whether more of the score is better.
        score_effect: Mean difference of the score at the end, with the decision minus without it.
        score_low: Lower end of its 95 % interval; null for a single pair.
        score_high: Upper end; null for a single pair.
        loss_effect: Mean difference of the held-out loss at the end, with the decision minus without it.
        loss_low: Lower end of its 95 % interval; null for a single pair.
        loss_high: Upper end; null for a single pair.
        with_runs: CLOSED: runs that took the decision, a batch order each.
        without_runs: CLOSED: runs that did not, in the same orders.
        proven: Whether the branch with the decision, in the run's own batch order, ended each epoch with the parameters of the record.
        seconds: How long all branches took.
        actor: Who asked for it, as the operating system names them.
    """

    NAME: ClassVar[str] = "CounterfactualMeasured"
    TOPIC: ClassVar[str] = "control.runs"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 628818020
    MAX_BYTES: ClassVar[int] = 65536

    decision_id: str
    mode: CounterfactualMode
    orders: int
    until_epoch: int
    score_name: str
    higher_is_better: bool
    score_effect: float
    score_low: float | None = None
    score_high: float | None = None
    loss_effect: float
    loss_low: float | None = None
    loss_high: float | None = None
    with_runs: tuple[str, ...] = ()
    without_runs: tuple[str, ...] = ()
    proven: bool
    seconds: float
    actor: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("orders", minimum=1, maximum=2147483647),
        Bound("until_epoch", minimum=1, maximum=2147483647),
        Bound("score_name", most=200),
        Bound("with_runs", format="name", most=256),
        Bound("without_runs", format="name", most=256),
        Bound("seconds", minimum=0),
        Bound("actor", most=200),
        Bound("signer", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.score_name) + len(self.actor) > 200
            or len(self.with_runs) + len(self.without_runs) > 256
            or len(self.signer) + len(self.signature) > 4096
            or self.run_id not in NAMES
            or not 1 <= self.orders <= 2147483647
            or not 1 <= self.until_epoch <= 2147483647
            or any(one not in NAMES for one in self.with_runs)
            or any(one not in NAMES for one in self.without_runs)
            or self.seconds < 0.0
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["with_runs"] = tuple(datum["with_runs"])
        datum["without_runs"] = tuple(datum["without_runs"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "decision_id": read_utf8(stream),
            "mode": read_enum(stream, _COUNTERFACTUALMODE, None),
            "orders": (orders := read_long(stream)),
            "until_epoch": (until_epoch := read_long(stream)),
            "score_name": (score_name := read_utf8(stream)),
            "higher_is_better": read_boolean(stream),
            "score_effect": read_double(stream),
            "score_low": None
            if not (branch := read_long(stream))
            else read_double(stream)
            if branch == 1
            else no_branch(branch),
            "score_high": None
            if not (branch := read_long(stream))
            else read_double(stream)
            if branch == 1
            else no_branch(branch),
            "loss_effect": read_double(stream),
            "loss_low": None
            if not (branch := read_long(stream))
            else read_double(stream)
            if branch == 1
            else no_branch(branch),
            "loss_high": None
            if not (branch := read_long(stream))
            else read_double(stream)
            if branch == 1
            else no_branch(branch),
            "with_runs": (
                with_runs := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "without_runs": (
                without_runs := tuple(
                    read_array(stream, {"type": "array", "items": "string"}, NAMED)
                )
            ),
            "proven": read_boolean(stream),
            "seconds": (seconds := read_double(stream)),
            "actor": (actor := read_utf8(stream)),
            "signer": (signer := read_utf8(stream)),
            "signature": (signature := read_utf8(stream)),
        }
        if (
            (occurred_at) >> 53
            or len(score_name) + len(actor) > 200
            or len(with_runs) + len(without_runs) > 256
            or len(signer) + len(signature) > 4096
            or run_id not in NAMES
            or not 1 <= orders <= 2147483647
            or not 1 <= until_epoch <= 2147483647
            or any(one not in NAMES for one in with_runs)
            or any(one not in NAMES for one in without_runs)
            or seconds < 0.0
        ):
            require("CounterfactualMeasured", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.decision_id, "string", NAMED, "decision_id", OPTIONS)
        write_data(out, self.mode, _COUNTERFACTUALMODE, NAMED, "mode", OPTIONS)
        write_data(out, self.orders, "int", NAMED, "orders", OPTIONS)
        write_data(out, self.until_epoch, "int", NAMED, "until_epoch", OPTIONS)
        write_data(out, self.score_name, "string", NAMED, "score_name", OPTIONS)
        write_data(out, self.higher_is_better, "boolean", NAMED, "higher_is_better", OPTIONS)
        write_data(out, self.score_effect, "double", NAMED, "score_effect", OPTIONS)
        write_data(out, self.score_low, ["null", "double"], NAMED, "score_low", OPTIONS)
        write_data(out, self.score_high, ["null", "double"], NAMED, "score_high", OPTIONS)
        write_data(out, self.loss_effect, "double", NAMED, "loss_effect", OPTIONS)
        write_data(out, self.loss_low, ["null", "double"], NAMED, "loss_low", OPTIONS)
        write_data(out, self.loss_high, ["null", "double"], NAMED, "loss_high", OPTIONS)
        write_data(
            out, self.with_runs, {"type": "array", "items": "string"}, NAMED, "with_runs", OPTIONS
        )
        write_data(
            out,
            self.without_runs,
            {"type": "array", "items": "string"},
            NAMED,
            "without_runs",
            OPTIONS,
        )
        write_data(out, self.proven, "boolean", NAMED, "proven", OPTIONS)
        write_data(out, self.seconds, "double", NAMED, "seconds", OPTIONS)
        write_data(out, self.actor, "string", NAMED, "actor", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("source_topic", most=4096),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
        Bound("consumer", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | (self.source_offset + 1)) >> 53
            or (self.source_partition + 1) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.source_topic) + len(self.consumer) > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "source_topic": (source_topic := read_utf8(stream)),
            "source_partition": (source_partition := read_long(stream)),
            "source_offset": (source_offset := read_long(stream)),
            "error": read_utf8(stream),
            "payload": read_bytes(stream),
            "consumer": (consumer := read_utf8(stream)),
        }
        if (
            (occurred_at | (source_offset + 1)) >> 53
            or (source_partition + 1) >> 31
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(source_topic) + len(consumer) > 4096
            or run_id not in NAMES
        ):
            require("DeadLettered", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.source_topic, "string", NAMED, "source_topic", OPTIONS)
        write_data(out, self.source_partition, "int", NAMED, "source_partition", OPTIONS)
        write_data(out, self.source_offset, "long", NAMED, "source_offset", OPTIONS)
        write_data(out, self.error, "string", NAMED, "error", OPTIONS)
        write_data(out, self.payload, "bytes", NAMED, "payload", OPTIONS)
        write_data(out, self.consumer, "string", NAMED, "consumer", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
        metrics: Metrics of the task on the held-out split, by name.
        test_metrics: Metrics of the task on the test split, by name.
        score: Score on the held-out split: the metric, or the loss, by which runs are compared.
        test_score: Score on the test split.
        score_name: Which metric the score is; empty in events from before there were tasks, whose score is the accuracy.
        higher_is_better: Whether more of the score is better.
    """

    NAME: ClassVar[str] = "EpochEnded"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1562410280

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
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    test_metrics: dict[str, float] = field(default_factory=dict, hash=False)
    score: float = 0.0
    test_score: float = 0.0
    score_name: str = ""
    higher_is_better: bool = True

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("train_accuracy", minimum=0, maximum=1),
        Bound("validation_accuracy", minimum=0, maximum=1),
        Bound("test_accuracy", minimum=0, maximum=1),
        Bound("alphas", minimum=0, maximum=1, finite=True, most=65536),
        Bound("metrics", most=200),
        Bound("test_metrics", most=200),
        Bound("score_name", most=200),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step) >> 53
            or (self.timeline | self.epoch) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.metrics)
            + len(self.test_metrics)
            + len(self.score_name)
            > 200
            or len(self.alphas) > 65536
            or len(self.signer) + len(self.previous) + len(self.signature) > 4096
            or self.run_id not in NAMES
            or self.train_accuracy < 0.0
            or self.train_accuracy > 1.0
            or self.validation_accuracy < 0.0
            or self.validation_accuracy > 1.0
            or self.test_accuracy < 0.0
            or self.test_accuracy > 1.0
            or any(not 0.0 <= one <= 1.0 for one in self.alphas)
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["alphas"] = tuple(datum["alphas"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "train_loss": (numbers := _unpack_7(stream.read(56)))[0],
            "train_accuracy": (train_accuracy := numbers[1]),
            "validation_loss": numbers[2],
            "validation_accuracy": (validation_accuracy := numbers[3]),
            "test_loss": numbers[4],
            "test_accuracy": (test_accuracy := numbers[5]),
            "learning_rate": numbers[6],
            "parameters_digest": read_utf8(stream),
            "state_digest": read_utf8(stream),
            "alphas": (
                alphas := tuple(read_array(stream, {"type": "array", "items": "double"}, NAMED))
            ),
            "metrics": (
                metrics := read_doubles(stream, length) if (length := read_long(stream)) else {}
            ),
            "test_metrics": (
                test_metrics := read_doubles(stream, length)
                if (length := read_long(stream))
                else {}
            ),
            "score": read_double(stream),
            "test_score": read_double(stream),
            "score_name": (score_name := read_utf8(stream)),
            "higher_is_better": read_boolean(stream),
            "signer": (signer := (seal := read_seal(stream))[0]),
            "previous": (previous := seal[1]),
            "signature": (signature := seal[2]),
        }
        if (
            (occurred_at | sequence | step) >> 53
            or (timeline | epoch) >> 31
            or len(event_id)
            + len(sender_id)
            + len(trace_id)
            + len(causation_id or "")
            + len(metrics)
            + len(test_metrics)
            + len(score_name)
            > 200
            or len(alphas) > 65536
            or len(signer) + len(previous) + len(signature) > 4096
            or run_id not in NAMES
            or train_accuracy < 0.0
            or train_accuracy > 1.0
            or validation_accuracy < 0.0
            or validation_accuracy > 1.0
            or test_accuracy < 0.0
            or test_accuracy > 1.0
            or any(not 0.0 <= one <= 1.0 for one in alphas)
        ):
            require("EpochEnded", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.train_loss, "double", NAMED, "train_loss", OPTIONS)
        write_data(out, self.train_accuracy, "double", NAMED, "train_accuracy", OPTIONS)
        write_data(out, self.validation_loss, "double", NAMED, "validation_loss", OPTIONS)
        write_data(out, self.validation_accuracy, "double", NAMED, "validation_accuracy", OPTIONS)
        write_data(out, self.test_loss, "double", NAMED, "test_loss", OPTIONS)
        write_data(out, self.test_accuracy, "double", NAMED, "test_accuracy", OPTIONS)
        write_data(out, self.learning_rate, "double", NAMED, "learning_rate", OPTIONS)
        write_data(out, self.parameters_digest, "string", NAMED, "parameters_digest", OPTIONS)
        write_data(out, self.state_digest, "string", NAMED, "state_digest", OPTIONS)
        write_data(out, self.alphas, {"type": "array", "items": "double"}, NAMED, "alphas", OPTIONS)
        write_doubles(out, self.metrics) if self.metrics else out.append(0)
        write_doubles(out, self.test_metrics) if self.test_metrics else out.append(0)
        write_data(out, self.score, "double", NAMED, "score", OPTIONS)
        write_data(out, self.test_score, "double", NAMED, "test_score", OPTIONS)
        write_data(out, self.score_name, "string", NAMED, "score_name", OPTIONS)
        write_data(out, self.higher_is_better, "boolean", NAMED, "higher_is_better", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class EpochReviewed(SignedEvent):
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
        rollback_id: RollbackRequested that goes with this answer because training is unstable; empty when none.
    """

    NAME: ClassVar[str] = "EpochReviewed"
    TOPIC: ClassVar[str] = "decision.tamiyo"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 915126124

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
    rollback_id: str = ""

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("packet_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("packet", minimum=0, maximum=2147483647),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("effective_step", minimum=0, maximum=9007199254740991),
        Bound("policy_version", most=4096),
        Bound("commands", most=65536),
        Bound("duration_us", minimum=0, maximum=9007199254740991),
        Bound("rollback_id", most=200),
        Bound("signer", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.step | self.effective_step | self.duration_us) >> 53
            or (self.timeline | self.packet | self.epoch) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.packet_id)
            + len(self.rollback_id)
            > 200
            or len(self.policy_version) + len(self.signer) + len(self.signature) > 4096
            or len(self.commands) > 65536
            or self.run_id not in NAMES
            or any(one.unsound() for one in self.commands)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "commands": [item.to_avro() for item in self.commands],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["commands"] = tuple(map(ReviewedCommand.from_avro, datum["commands"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("run_seed", minimum=-9223372036854775808, maximum=9223372036854775807),
        Bound("layers", most=65536),
        Bound("families", most=65536),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.layers) + len(self.families) > 65536
            or self.run_id not in NAMES
            or not -9223372036854775808 <= self.run_seed <= 9223372036854775807
            or any(one.unsound() for one in self.layers)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "layers": [item.to_avro() for item in self.layers],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["layers"] = tuple(map(ReportedLayer.from_avro, datum["layers"]))
        datum["families"] = tuple(datum["families"])
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("report_id", most=200),
        Bound("kernels", most=65536),
        Bound("failed", most=65536),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.report_id)
            > 200
            or len(self.kernels) + len(self.failed) > 65536
            or self.run_id not in NAMES
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["kernels"] = tuple(datum["kernels"])
        datum["failed"] = tuple(datum["failed"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "report_id": (report_id := read_utf8(stream)),
            "kernels": (
                kernels := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "failed": (
                failed := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
        }
        if (
            (occurred_at) >> 53
            or len(event_id)
            + len(sender_id)
            + len(trace_id)
            + len(causation_id or "")
            + len(report_id)
            > 200
            or len(kernels) + len(failed) > 65536
            or run_id not in NAMES
        ):
            require("FieldReportAnswered", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.report_id, "string", NAMED, "report_id", OPTIONS)
        write_data(
            out, self.kernels, {"type": "array", "items": "string"}, NAMED, "kernels", OPTIONS
        )
        write_data(out, self.failed, {"type": "array", "items": "string"}, NAMED, "failed", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 377979878

    layer: str
    seed: int
    kernel_id: str
    metric: str
    value: float
    threshold: float
    reason: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("layer", most=4096),
        Bound("seed", minimum=-1, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("metric", most=4096),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step) >> 53
            or (self.timeline | self.epoch | (self.seed + 1)) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.layer)
            + len(self.kernel_id)
            + len(self.metric)
            + len(self.signer)
            + len(self.previous)
            + len(self.signature)
            > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "layer": (layer := read_utf8(stream)),
            "seed": (seed := read_long(stream)),
            "kernel_id": (kernel_id := read_utf8(stream)),
            "metric": (metric := read_utf8(stream)),
            "value": read_double(stream),
            "threshold": read_double(stream),
            "reason": read_utf8(stream),
            "signer": (signer := (seal := read_seal(stream))[0]),
            "previous": (previous := seal[1]),
            "signature": (signature := seal[2]),
        }
        if (
            (occurred_at | sequence | step) >> 53
            or (timeline | epoch | (seed + 1)) >> 31
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(layer)
            + len(kernel_id)
            + len(metric)
            + len(signer)
            + len(previous)
            + len(signature)
            > 4096
            or run_id not in NAMES
        ):
            require("InstabilityDetected", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.metric, "string", NAMED, "metric", OPTIONS)
        write_data(out, self.value, "double", NAMED, "value", OPTIONS)
        write_data(out, self.threshold, "double", NAMED, "threshold", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    kernel_id: str
    blueprint_id: str
    attempt: int
    configuration: str
    compile_ms: float

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("attempt", minimum=0, maximum=2147483647),
        Bound("compile_ms", minimum=0, finite=True),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or (self.attempt) >> 31
            or self.run_id not in NAMES
            or not 0.0 <= self.compile_ms <= 1.7976931348623157e308
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "kernel_id": read_utf8(stream),
            "blueprint_id": read_utf8(stream),
            "attempt": (attempt := read_long(stream)),
            "configuration": read_utf8(stream),
            "compile_ms": (compile_ms := read_double(stream)),
        }
        if (
            (occurred_at) >> 53
            or (attempt) >> 31
            or run_id not in NAMES
            or not 0.0 <= compile_ms <= 1.7976931348623157e308
        ):
            require("KernelCompiled", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.blueprint_id, "string", NAMED, "blueprint_id", OPTIONS)
        write_data(out, self.attempt, "int", NAMED, "attempt", OPTIONS)
        write_data(out, self.configuration, "string", NAMED, "configuration", OPTIONS)
        write_data(out, self.compile_ms, "double", NAMED, "compile_ms", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 1034737528

    layer: str
    seed: int
    kernel_id: str
    phase: FailurePhase
    error: str
    consecutive_errors: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("layer", most=4096),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("kernel_id", most=4096),
        Bound("consecutive_errors", minimum=0, maximum=2147483647),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step) >> 53
            or (self.timeline | self.epoch | self.seed | self.consecutive_errors) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.layer)
            + len(self.kernel_id)
            + len(self.signer)
            + len(self.previous)
            + len(self.signature)
            > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "layer": (layer := read_utf8(stream)),
            "seed": (seed := read_long(stream)),
            "kernel_id": (kernel_id := read_utf8(stream)),
            "phase": read_enum(stream, _FAILUREPHASE, None),
            "error": read_utf8(stream),
            "consecutive_errors": (consecutive_errors := read_long(stream)),
            "signer": (signer := (seal := read_seal(stream))[0]),
            "previous": (previous := seal[1]),
            "signature": (signature := seal[2]),
        }
        if (
            (occurred_at | sequence | step) >> 53
            or (timeline | epoch | seed | consecutive_errors) >> 31
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(layer) + len(kernel_id) + len(signer) + len(previous) + len(signature) > 4096
            or run_id not in NAMES
        ):
            require("KernelFailed", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.phase, _FAILUREPHASE, NAMED, "phase", OPTIONS)
        write_data(out, self.error, "string", NAMED, "error", OPTIONS)
        write_data(out, self.consecutive_errors, "int", NAMED, "consecutive_errors", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
        alpha_target: Blending weight that it ramps to, by its blueprint; 0 where it was published before that was said.
    """

    NAME: ClassVar[str] = "KernelPublished"
    TOPIC: ClassVar[str] = "compilation.kernels"
    KEY: ClassVar[str] = "kernel_id"
    SCHEMA_ID: ClassVar[int] = 119546183
    MAX_BYTES: ClassVar[int] = 65536

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
    alpha_target: float = 0.0

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("in_features", minimum=0, maximum=2147483647),
        Bound("out_features", minimum=0, maximum=2147483647),
        Bound("parameters", minimum=0, maximum=9007199254740991),
        Bound("flops", minimum=0, maximum=9007199254740991),
        Bound("size_bytes", minimum=0, maximum=9007199254740991),
        Bound("tags", most=65536),
        Bound("parents", most=65536),
        Bound("latency_us", minimum=0, finite=True),
        Bound("geometry", format="geometry"),
        Bound("alpha_target", minimum=0, maximum=1, finite=True),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.parameters | self.flops | self.size_bytes) >> 53
            or (self.in_features | self.out_features) >> 31
            or len(self.tags) + len(self.parents) > 65536
            or self.run_id not in NAMES
            or not 0.0 <= self.latency_us <= 1.7976931348623157e308
            or self.geometry not in TEXTS["geometry"]
            or not 0.0 <= self.alpha_target <= 1.0
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["tags"] = tuple(datum["tags"])
        datum["parents"] = tuple(datum["parents"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "kernel_id": read_utf8(stream),
            "blueprint_id": read_utf8(stream),
            "family": read_utf8(stream),
            "in_features": (in_features := read_long(stream)),
            "out_features": (out_features := read_long(stream)),
            "tap": read_enum(stream, _TAP, None),
            "blend": read_enum(stream, _BLEND, None),
            "parameters": (parameters := read_long(stream)),
            "flops": (flops := read_long(stream)),
            "address": read_utf8(stream),
            "sha256": read_utf8(stream),
            "size_bytes": (size_bytes := read_long(stream)),
            "tags": (
                tags := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "parents": (
                parents := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "latency_us": (latency_us := read_double(stream)),
            "geometry": (geometry := read_utf8(stream)),
            "alpha_target": (alpha_target := read_double(stream)),
        }
        if (
            (occurred_at | parameters | flops | size_bytes) >> 53
            or (in_features | out_features) >> 31
            or len(tags) + len(parents) > 65536
            or run_id not in NAMES
            or not 0.0 <= latency_us <= 1.7976931348623157e308
            or geometry not in TEXTS["geometry"]
            or not 0.0 <= alpha_target <= 1.0
        ):
            require("KernelPublished", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.blueprint_id, "string", NAMED, "blueprint_id", OPTIONS)
        write_data(out, self.family, "string", NAMED, "family", OPTIONS)
        write_data(out, self.in_features, "int", NAMED, "in_features", OPTIONS)
        write_data(out, self.out_features, "int", NAMED, "out_features", OPTIONS)
        write_data(out, self.tap, _TAP, NAMED, "tap", OPTIONS)
        write_data(out, self.blend, _BLEND, NAMED, "blend", OPTIONS)
        write_data(out, self.parameters, "long", NAMED, "parameters", OPTIONS)
        write_data(out, self.flops, "long", NAMED, "flops", OPTIONS)
        write_data(out, self.address, "string", NAMED, "address", OPTIONS)
        write_data(out, self.sha256, "string", NAMED, "sha256", OPTIONS)
        write_data(out, self.size_bytes, "long", NAMED, "size_bytes", OPTIONS)
        write_data(out, self.tags, {"type": "array", "items": "string"}, NAMED, "tags", OPTIONS)
        write_data(
            out, self.parents, {"type": "array", "items": "string"}, NAMED, "parents", OPTIONS
        )
        write_data(out, self.latency_us, "double", NAMED, "latency_us", OPTIONS)
        write_data(out, self.geometry, "string", NAMED, "geometry", OPTIONS)
        write_data(out, self.alpha_target, "double", NAMED, "alpha_target", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("kernel_id", most=4096),
        Bound("blueprint_id", most=4096),
        Bound("checks", most=65536),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.kernel_id) + len(self.blueprint_id) > 4096
            or len(self.checks) > 65536
            or self.run_id not in NAMES
            or any(one.unsound() for one in self.checks)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "checks": [item.to_avro() for item in self.checks],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["checks"] = tuple(map(Check.from_avro, datum["checks"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("kernel_id", most=4096),
        Bound("blueprint_id", most=4096),
        Bound("checks", most=65536),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.kernel_id) + len(self.blueprint_id) > 4096
            or len(self.checks) > 65536
            or self.run_id not in NAMES
            or any(one.unsound() for one in self.checks)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "checks": [item.to_avro() for item in self.checks],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["checks"] = tuple(map(Check.from_avro, datum["checks"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    name: str
    value: float
    unit: str
    labels: tuple[MetricLabel, ...]

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("value", finite=True),
        Bound("labels", most=65536),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.labels) > 65536
            or self.run_id not in NAMES
            or not -1.7976931348623157e308 <= self.value <= 1.7976931348623157e308
            or any(one.unsound() for one in self.labels)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "labels": [item.to_avro() for item in self.labels],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["labels"] = tuple(map(MetricLabel.from_avro, datum["labels"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    reason: str
    expires_at: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("expires_at", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool((self.occurred_at | self.expires_at) >> 53 or self.run_id not in NAMES)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "reason": read_utf8(stream),
            "expires_at": (expires_at := read_long(stream)),
        }
        if (occurred_at | expires_at) >> 53 or run_id not in NAMES:
            require("PauseRequested", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.expires_at, "long", NAMED, "expires_at", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 16384

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("latency_us", minimum=0, finite=True),
        Bound("memory_bytes", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.step | self.memory_bytes) >> 53
            or (self.seed | self.epoch) >> 31
            or self.run_id not in NAMES
            or not 0.0 <= self.latency_us <= 1.7976931348623157e308
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "layer": read_utf8(stream),
            "seed": (seed := read_long(stream)),
            "kernel_id": read_utf8(stream),
            "family": read_utf8(stream),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "accuracy_delta": (numbers := _unpack_3(stream.read(24)))[0],
            "loss_delta": numbers[1],
            "latency_us": (latency_us := numbers[2]),
            "memory_bytes": (memory_bytes := read_long(stream)),
        }
        if (
            (occurred_at | step | memory_bytes) >> 53
            or (seed | epoch) >> 31
            or run_id not in NAMES
            or not 0.0 <= latency_us <= 1.7976931348623157e308
        ):
            require("PerformanceDelta", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.family, "string", NAMED, "family", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.accuracy_delta, "double", NAMED, "accuracy_delta", OPTIONS)
        write_data(out, self.loss_delta, "double", NAMED, "loss_delta", OPTIONS)
        write_data(out, self.latency_us, "double", NAMED, "latency_us", OPTIONS)
        write_data(out, self.memory_bytes, "long", NAMED, "memory_bytes", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 16384

    process: str
    pid: int
    cpu_percent: float
    rss_bytes: int
    gpu_bytes: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("pid", minimum=0, maximum=2147483647),
        Bound("cpu_percent", minimum=0, finite=True),
        Bound("rss_bytes", minimum=0, maximum=9007199254740991),
        Bound("gpu_bytes", minimum=-1, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.rss_bytes | (self.gpu_bytes + 1)) >> 53
            or (self.pid) >> 31
            or self.run_id not in NAMES
            or not 0.0 <= self.cpu_percent <= 1.7976931348623157e308
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "process": read_utf8(stream),
            "pid": (pid := read_long(stream)),
            "cpu_percent": (cpu_percent := read_double(stream)),
            "rss_bytes": (rss_bytes := read_long(stream)),
            "gpu_bytes": (gpu_bytes := read_long(stream)),
        }
        if (
            (occurred_at | rss_bytes | (gpu_bytes + 1)) >> 53
            or (pid) >> 31
            or run_id not in NAMES
            or not 0.0 <= cpu_percent <= 1.7976931348623157e308
        ):
            require("ResourceSampled", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.process, "string", NAMED, "process", OPTIONS)
        write_data(out, self.pid, "int", NAMED, "pid", OPTIONS)
        write_data(out, self.cpu_percent, "double", NAMED, "cpu_percent", OPTIONS)
        write_data(out, self.rss_bytes, "long", NAMED, "rss_bytes", OPTIONS)
        write_data(out, self.gpu_bytes, "long", NAMED, "gpu_bytes", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    reason: str
    expires_at: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("expires_at", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool((self.occurred_at | self.expires_at) >> 53 or self.run_id not in NAMES)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "reason": read_utf8(stream),
            "expires_at": (expires_at := read_long(stream)),
        }
        if (occurred_at | expires_at) >> 53 or run_id not in NAMES:
            require("ResumeRequested", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.expires_at, "long", NAMED, "expires_at", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class RollbackRequested(Event):
    """Asks the trainer to go on from an earlier snapshot, in a new timeline.

    Attributes:
        snapshot_id: Snapshot to restore; empty for the latest.
        reason: Why, in a sentence.
        expires_at: After this moment the request is void.
        at_most_epoch: Go back to a snapshot of at most so many epochs completed; -1 for any.
    """

    NAME: ClassVar[str] = "RollbackRequested"
    TOPIC: ClassVar[str] = "control.tolaria.commands"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 2021153682
    MAX_BYTES: ClassVar[int] = 65536

    snapshot_id: str
    reason: str
    expires_at: int
    at_most_epoch: int = -1

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("expires_at", minimum=0, maximum=9007199254740991),
        Bound("at_most_epoch", minimum=-1, maximum=2147483647),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.expires_at) >> 53
            or (self.at_most_epoch + 1) >> 31
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "snapshot_id": read_utf8(stream),
            "reason": read_utf8(stream),
            "expires_at": (expires_at := read_long(stream)),
            "at_most_epoch": (at_most_epoch := read_long(stream)),
        }
        if (occurred_at | expires_at) >> 53 or (at_most_epoch + 1) >> 31 or run_id not in NAMES:
            require("RollbackRequested", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.snapshot_id, "string", NAMED, "snapshot_id", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.expires_at, "long", NAMED, "expires_at", OPTIONS)
        write_data(out, self.at_most_epoch, "int", NAMED, "at_most_epoch", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class RunAnnotated(SignedEvent):
    """An operator says something about a run, for people: its journal and its training do not change.

    Attributes:
        change: What is said; fields of other kinds are empty.
        added: TAGGED: tags that the run gets.
        removed: TAGGED: tags that it loses.
        text: NOTED: the note; RENAMED: the name that is shown beside the id; empty takes it away.
        on: BASELINE: whether the run is now what others of its recipe are compared with.
        actor: Who asked for it, as the operating system names them.
    """

    NAME: ClassVar[str] = "RunAnnotated"
    TOPIC: ClassVar[str] = "control.runs"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1951287179
    MAX_BYTES: ClassVar[int] = 65536

    change: Annotation
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    text: str = ""
    on: bool = False
    actor: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("added", format="name", most=64),
        Bound("removed", format="name", most=64),
        Bound("text", most=2000),
        Bound("actor", most=200),
        Bound("signer", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at) >> 53
            or len(self.added) + len(self.removed) > 64
            or len(self.text) > 2000
            or len(self.actor) > 200
            or len(self.signer) + len(self.signature) > 4096
            or self.run_id not in NAMES
            or any(one not in NAMES for one in self.added)
            or any(one not in NAMES for one in self.removed)
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["added"] = tuple(datum["added"])
        datum["removed"] = tuple(datum["removed"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "change": read_enum(stream, _ANNOTATION, None),
            "added": (
                added := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "removed": (
                removed := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "text": (text := read_utf8(stream)),
            "on": read_boolean(stream),
            "actor": (actor := read_utf8(stream)),
            "signer": (signer := read_utf8(stream)),
            "signature": (signature := read_utf8(stream)),
        }
        if (
            (occurred_at) >> 53
            or len(added) + len(removed) > 64
            or len(text) > 2000
            or len(actor) > 200
            or len(signer) + len(signature) > 4096
            or run_id not in NAMES
            or any(one not in NAMES for one in added)
            or any(one not in NAMES for one in removed)
        ):
            require("RunAnnotated", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.change, _ANNOTATION, NAMED, "change", OPTIONS)
        write_data(out, self.added, {"type": "array", "items": "string"}, NAMED, "added", OPTIONS)
        write_data(
            out, self.removed, {"type": "array", "items": "string"}, NAMED, "removed", OPTIONS
        )
        write_data(out, self.text, "string", NAMED, "text", OPTIONS)
        write_data(out, self.on, "boolean", NAMED, "on", OPTIONS)
        write_data(out, self.actor, "string", NAMED, "actor", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class RunCompleted(JournalEvent):
    """Last event of a run that ended in order.

    Attributes:
        outcome: How it ended.
        accuracy: Test accuracy at the last epoch, fraction.
        loss: Test loss at the last epoch, nats.
        parameters: Parameters of the model with its fossilised kernels.
        digest: SHA-256 over the final parameters, names sorted.
        model_sha256: SHA-256 of the file with the final model.
        metrics: Metrics of the task on the test split at the last epoch, by name.
        score: Score on the test split: the metric, or the loss, by which runs are compared.
        score_name: Which metric the score is; empty in events from before there were tasks, whose score is the accuracy.
        higher_is_better: Whether more of the score is better.
    """

    NAME: ClassVar[str] = "RunCompleted"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1862964936
    MAX_BYTES: ClassVar[int] = 65536

    outcome: Outcome
    accuracy: float
    loss: float
    parameters: int
    digest: str
    model_sha256: str
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    score: float = 0.0
    score_name: str = ""
    higher_is_better: bool = True

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("accuracy", minimum=0, maximum=1),
        Bound("parameters", minimum=0, maximum=9007199254740991),
        Bound("metrics", most=200),
        Bound("score_name", most=200),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step | self.parameters) >> 53
            or (self.timeline | self.epoch) >> 31
            or len(self.metrics) + len(self.score_name) > 200
            or self.run_id not in NAMES
            or self.accuracy < 0.0
            or self.accuracy > 1.0
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "outcome": read_enum(stream, _OUTCOME, None),
            "accuracy": (accuracy := read_double(stream)),
            "loss": read_double(stream),
            "parameters": (parameters := read_long(stream)),
            "digest": read_utf8(stream),
            "model_sha256": read_utf8(stream),
            "metrics": (
                metrics := read_doubles(stream, length) if (length := read_long(stream)) else {}
            ),
            "score": read_double(stream),
            "score_name": (score_name := read_utf8(stream)),
            "higher_is_better": read_boolean(stream),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (occurred_at | sequence | step | parameters) >> 53
            or (timeline | epoch) >> 31
            or len(metrics) + len(score_name) > 200
            or run_id not in NAMES
            or accuracy < 0.0
            or accuracy > 1.0
        ):
            require("RunCompleted", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.outcome, _OUTCOME, NAMED, "outcome", OPTIONS)
        write_data(out, self.accuracy, "double", NAMED, "accuracy", OPTIONS)
        write_data(out, self.loss, "double", NAMED, "loss", OPTIONS)
        write_data(out, self.parameters, "long", NAMED, "parameters", OPTIONS)
        write_data(out, self.digest, "string", NAMED, "digest", OPTIONS)
        write_data(out, self.model_sha256, "string", NAMED, "model_sha256", OPTIONS)
        write_doubles(out, self.metrics) if self.metrics else out.append(0)
        write_data(out, self.score, "double", NAMED, "score", OPTIONS)
        write_data(out, self.score_name, "string", NAMED, "score_name", OPTIONS)
        write_data(out, self.higher_is_better, "boolean", NAMED, "higher_is_better", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class RunDeleted(SignedEvent):
    """An operator has had a run deleted: its snapshots no longer count for `esper gc`, and its files are removed. The journal stays.

    Attributes:
        snapshots: Snapshots in the store that only this run had, when it was asked for.
        files: Files of the run on the machine where it was asked for.
        file_bytes: Size of these files, bytes.
        actor: Who asked for it, as the operating system names them.
    """

    NAME: ClassVar[str] = "RunDeleted"
    TOPIC: ClassVar[str] = "control.runs"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 221295352
    MAX_BYTES: ClassVar[int] = 65536

    snapshots: int
    files: int
    file_bytes: int
    actor: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("snapshots", minimum=0, maximum=9007199254740991),
        Bound("files", minimum=0, maximum=9007199254740991),
        Bound("file_bytes", minimum=0, maximum=9007199254740991),
        Bound("actor", most=200),
        Bound("signer", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.snapshots | self.files | self.file_bytes) >> 53
            or len(self.actor) > 200
            or len(self.signer) + len(self.signature) > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "snapshots": (snapshots := read_long(stream)),
            "files": (files := read_long(stream)),
            "file_bytes": (file_bytes := read_long(stream)),
            "actor": (actor := read_utf8(stream)),
            "signer": (signer := read_utf8(stream)),
            "signature": (signature := read_utf8(stream)),
        }
        if (
            (occurred_at | snapshots | files | file_bytes) >> 53
            or len(actor) > 200
            or len(signer) + len(signature) > 4096
            or run_id not in NAMES
        ):
            require("RunDeleted", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.snapshots, "long", NAMED, "snapshots", OPTIONS)
        write_data(out, self.files, "long", NAMED, "files", OPTIONS)
        write_data(out, self.file_bytes, "long", NAMED, "file_bytes", OPTIONS)
        write_data(out, self.actor, "string", NAMED, "actor", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class RunFailed(JournalEvent):
    """Last event of a run that could not go on.

    Attributes:
        error: Class of the error.
        reason: What happened and what to do, in a sentence.
    """

    NAME: ClassVar[str] = "RunFailed"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1835524310

    error: str
    reason: str

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step) >> 53
            or (self.timeline | self.epoch) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.signer) + len(self.previous) + len(self.signature) > 4096
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "error": read_utf8(stream),
            "reason": read_utf8(stream),
            "signer": (signer := (seal := read_seal(stream))[0]),
            "previous": (previous := seal[1]),
            "signature": (signature := seal[2]),
        }
        if (
            (occurred_at | sequence | step) >> 53
            or (timeline | epoch) >> 31
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(signer) + len(previous) + len(signature) > 4096
            or run_id not in NAMES
        ):
            require("RunFailed", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.error, "string", NAMED, "error", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 956979834

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("parent_run_id", format="name"),
        Bound("parent_timeline", minimum=0, maximum=2147483647),
        Bound("parent_step", minimum=0, maximum=9007199254740991),
        Bound("parent_sequence", minimum=-1, maximum=9007199254740991),
        Bound("address", most=4096),
        Bound("sha256", most=4096),
        Bound("seeds", most=65536),
        Bound("adapted_epoch", minimum=-1, maximum=2147483647),
        Bound("adaptations", minimum=0, maximum=2147483647),
        Bound("changes", most=65536),
        Bound("without", most=65536),
        Bound("left_out", most=65536),
        Bound("parent_packet", minimum=-1, maximum=2147483647),
        Bound("offered", most=65536),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (
                self.occurred_at
                | self.sequence
                | self.step
                | self.parent_step
                | (self.parent_sequence + 1)
            )
            >> 53
            or (
                self.timeline
                | self.epoch
                | self.parent_timeline
                | (self.adapted_epoch + 1)
                | self.adaptations
                | (self.parent_packet + 1)
            )
            >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.address)
            + len(self.sha256)
            + len(self.signer)
            + len(self.previous)
            + len(self.signature)
            > 4096
            or len(self.seeds)
            + len(self.changes)
            + len(self.without)
            + len(self.left_out)
            + len(self.offered)
            > 65536
            or self.run_id not in NAMES
            or self.parent_run_id not in NAMES
            or any(one.unsound() for one in self.seeds)
            or any(one.unsound() for one in self.left_out)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "seeds": [item.to_avro() for item in self.seeds],
            "left_out": [item.to_avro() for item in self.left_out],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["seeds"] = tuple(map(RestoredSeed.from_avro, datum["seeds"]))
        datum["changes"] = tuple(datum["changes"])
        datum["without"] = tuple(datum["without"])
        datum["left_out"] = tuple(map(LeftOut.from_avro, datum["left_out"]))
        datum["offered"] = tuple(datum["offered"])
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 1437942488
    MAX_BYTES: ClassVar[int] = 131072

    reason: str
    command_id: str
    source_topic: str
    source_partition: int
    source_offset: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step | (self.source_offset + 1)) >> 53
            or (self.timeline | self.epoch | (self.source_partition + 1)) >> 31
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "reason": read_utf8(stream),
            "command_id": read_utf8(stream),
            "source_topic": read_utf8(stream),
            "source_partition": (source_partition := read_long(stream)),
            "source_offset": (source_offset := read_long(stream)),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (occurred_at | sequence | step | (source_offset + 1)) >> 53
            or (timeline | epoch | (source_partition + 1)) >> 31
            or run_id not in NAMES
        ):
            require("RunPaused", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.command_id, "string", NAMED, "command_id", OPTIONS)
        write_data(out, self.source_topic, "string", NAMED, "source_topic", OPTIONS)
        write_data(out, self.source_partition, "int", NAMED, "source_partition", OPTIONS)
        write_data(out, self.source_offset, "long", NAMED, "source_offset", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("overrides", most=65536),
        Bound("expires_at", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.expires_at) >> 53
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.overrides) > 65536
            or self.run_id not in NAMES
        )

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["overrides"] = tuple(datum["overrides"])
        return super().from_avro(datum)

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": (
                causation_id := None
                if not (branch := read_long(stream))
                else read_utf8(stream)
                if branch == 1
                else no_branch(branch)
            ),
            "recipe": read_utf8(stream),
            "overrides": (
                overrides := tuple(read_array(stream, {"type": "array", "items": "string"}, NAMED))
            ),
            "resume": read_boolean(stream),
            "reason": read_utf8(stream),
            "expires_at": (expires_at := read_long(stream)),
        }
        if (
            (occurred_at | expires_at) >> 53
            or len(event_id) + len(sender_id) + len(trace_id) + len(causation_id or "") > 200
            or len(overrides) > 65536
            or run_id not in NAMES
        ):
            require("RunRequested", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.recipe, "string", NAMED, "recipe", OPTIONS)
        write_data(
            out, self.overrides, {"type": "array", "items": "string"}, NAMED, "overrides", OPTIONS
        )
        write_data(out, self.resume, "boolean", NAMED, "resume", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.expires_at, "long", NAMED, "expires_at", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 1302754486
    MAX_BYTES: ClassVar[int] = 131072

    incarnation: int
    reason: str
    command_id: str
    source_topic: str
    source_partition: int
    source_offset: int
    snapshot_id: str = ""
    restored_step: int = -1

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("incarnation", minimum=0, maximum=2147483647),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
        Bound("restored_step", minimum=-1, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (
                self.occurred_at
                | self.sequence
                | self.step
                | (self.source_offset + 1)
                | (self.restored_step + 1)
            )
            >> 53
            or (self.timeline | self.epoch | self.incarnation | (self.source_partition + 1)) >> 31
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "incarnation": (incarnation := read_long(stream)),
            "reason": read_utf8(stream),
            "command_id": read_utf8(stream),
            "source_topic": read_utf8(stream),
            "source_partition": (source_partition := read_long(stream)),
            "source_offset": (source_offset := read_long(stream)),
            "snapshot_id": read_utf8(stream),
            "restored_step": (restored_step := read_long(stream)),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (occurred_at | sequence | step | (source_offset + 1) | (restored_step + 1)) >> 53
            or (timeline | epoch | incarnation | (source_partition + 1)) >> 31
            or run_id not in NAMES
        ):
            require("RunResumed", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.incarnation, "int", NAMED, "incarnation", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.command_id, "string", NAMED, "command_id", OPTIONS)
        write_data(out, self.source_topic, "string", NAMED, "source_topic", OPTIONS)
        write_data(out, self.source_partition, "int", NAMED, "source_partition", OPTIONS)
        write_data(out, self.source_offset, "long", NAMED, "source_offset", OPTIONS)
        write_data(out, self.snapshot_id, "string", NAMED, "snapshot_id", OPTIONS)
        write_data(out, self.restored_step, "long", NAMED, "restored_step", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 1119415504

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("from_timeline", minimum=0, maximum=2147483647),
        Bound("from_step", minimum=0, maximum=9007199254740991),
        Bound("snapshot_id", most=4096),
        Bound("seeds", most=65536),
        Bound("adapted_epoch", minimum=-1, maximum=2147483647),
        Bound("adaptations", minimum=0, maximum=2147483647),
        Bound("command_id", most=200),
        Bound("source_topic", most=4096),
        Bound("source_partition", minimum=-1, maximum=2147483647),
        Bound("source_offset", minimum=-1, maximum=9007199254740991),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (
                self.occurred_at
                | self.sequence
                | self.step
                | self.from_step
                | (self.source_offset + 1)
            )
            >> 53
            or (
                self.timeline
                | self.epoch
                | self.from_timeline
                | (self.adapted_epoch + 1)
                | self.adaptations
                | (self.source_partition + 1)
            )
            >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.command_id)
            > 200
            or len(self.snapshot_id)
            + len(self.source_topic)
            + len(self.signer)
            + len(self.previous)
            + len(self.signature)
            > 4096
            or len(self.seeds) > 65536
            or self.run_id not in NAMES
            or any(one.unsound() for one in self.seeds)
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "seeds": [item.to_avro() for item in self.seeds],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["seeds"] = tuple(map(RestoredSeed.from_avro, datum["seeds"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 484294718

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("incarnation", minimum=0, maximum=2147483647),
        Bound("config", format="json"),
        Bound("seed", minimum=-9223372036854775808, maximum=9223372036854775807),
        Bound("total_steps", minimum=0, maximum=9007199254740991),
        Bound("layers", most=65536),
        Bound("parameters", minimum=0, maximum=9007199254740991),
        Bound("versions", format="json"),
        Bound("threads", minimum=0, maximum=2147483647),
        Bound("family", format="name"),
        Bound("signer", most=4096),
        Bound("previous", most=4096),
        Bound("signature", most=4096),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step | self.total_steps | self.parameters)
            >> 53
            or (self.timeline | self.epoch | self.incarnation | self.threads) >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            > 200
            or len(self.layers) > 65536
            or len(self.signer) + len(self.previous) + len(self.signature) > 4096
            or self.run_id not in NAMES
            or self.config not in TEXTS["json"]
            or not -9223372036854775808 <= self.seed <= 9223372036854775807
            or any(one.unsound() for one in self.layers)
            or self.versions not in TEXTS["json"]
            or self.family not in NAMES
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "layers": [item.to_avro() for item in self.layers],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["layers"] = tuple(map(LayerInventory.from_avro, datum["layers"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
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
    MAX_BYTES: ClassVar[int] = 65536

    command: Command
    layer: str
    seed: int
    kernel_id: str
    alpha: float
    reason: str
    expires_at: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("alpha", minimum=-1, maximum=1, finite=True),
        Bound("expires_at", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.expires_at) >> 53
            or (self.seed) >> 31
            or self.run_id not in NAMES
            or not -1.0 <= self.alpha <= 1.0
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "command": read_enum(stream, _COMMAND, None),
            "layer": read_utf8(stream),
            "seed": (seed := read_long(stream)),
            "kernel_id": read_utf8(stream),
            "alpha": (alpha := read_double(stream)),
            "reason": read_utf8(stream),
            "expires_at": (expires_at := read_long(stream)),
        }
        if (
            (occurred_at | expires_at) >> 53
            or (seed) >> 31
            or run_id not in NAMES
            or not -1.0 <= alpha <= 1.0
        ):
            require("SeedCommand", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.command, _COMMAND, NAMED, "command", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.alpha, "double", NAMED, "alpha", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.expires_at, "long", NAMED, "expires_at", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
        health: Health score, 0 to 1, as defined in esper.kasmina.seeded.health.
        ready: Whether the gate to the next stage is open.
    """

    NAME: ClassVar[str] = "SeedHealth"
    TOPIC: ClassVar[str] = "telemetry.seed.health"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 1309983788
    MAX_BYTES: ClassVar[int] = 16384

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("chunk_start", minimum=0, maximum=2147483647),
        Bound("chunk_size", minimum=0, maximum=2147483647),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("latency_us", minimum=0, maximum=2147483647),
        Bound("errors", minimum=0, maximum=2147483647),
        Bound("health", minimum=0, maximum=1.001),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.step) >> 53
            or (
                self.seed
                | self.chunk_start
                | self.chunk_size
                | self.epoch
                | self.latency_us
                | self.errors
            )
            >> 31
            or self.run_id not in NAMES
            or self.health < 0.0
            or self.health > 1.001
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "layer": read_utf8(stream),
            "seed": (seed := read_long(stream)),
            "chunk_start": (chunk_start := read_long(stream)),
            "chunk_size": (chunk_size := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "stage": read_enum(stream, _STAGE, None),
            "activation_variance": (numbers := _unpack_5(stream.read(40)))[0],
            "dead_ratio": numbers[1],
            "correlation": numbers[2],
            "gradient_norm": numbers[3],
            "gradient_variance": numbers[4],
            "latency_us": (latency_us := read_long(stream)),
            "errors": (errors := read_long(stream)),
            "recovering": read_boolean(stream),
            "health": (health := read_double(stream)),
            "ready": read_boolean(stream),
        }
        if (
            (occurred_at | step) >> 53
            or (seed | chunk_start | chunk_size | epoch | latency_us | errors) >> 31
            or run_id not in NAMES
            or health < 0.0
            or health > 1.001
        ):
            require("SeedHealth", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.chunk_start, "int", NAMED, "chunk_start", OPTIONS)
        write_data(out, self.chunk_size, "int", NAMED, "chunk_size", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.stage, _STAGE, NAMED, "stage", OPTIONS)
        write_data(out, self.activation_variance, "double", NAMED, "activation_variance", OPTIONS)
        write_data(out, self.dead_ratio, "double", NAMED, "dead_ratio", OPTIONS)
        write_data(out, self.correlation, "double", NAMED, "correlation", OPTIONS)
        write_data(out, self.gradient_norm, "double", NAMED, "gradient_norm", OPTIONS)
        write_data(out, self.gradient_variance, "double", NAMED, "gradient_variance", OPTIONS)
        write_data(out, self.latency_us, "int", NAMED, "latency_us", OPTIONS)
        write_data(out, self.errors, "int", NAMED, "errors", OPTIONS)
        write_data(out, self.recovering, "boolean", NAMED, "recovering", OPTIONS)
        write_data(out, self.health, "double", NAMED, "health", OPTIONS)
        write_data(out, self.ready, "boolean", NAMED, "ready", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
    SCHEMA_ID: ClassVar[int] = 1723259617
    MAX_BYTES: ClassVar[int] = 65536

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

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("seed", minimum=0, maximum=2147483647),
        Bound("alpha", minimum=-1, maximum=1, finite=True),
        Bound("alpha_target", minimum=0, maximum=1, finite=True),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step) >> 53
            or (self.timeline | self.epoch | self.seed) >> 31
            or self.run_id not in NAMES
            or not -1.0 <= self.alpha <= 1.0
            or not 0.0 <= self.alpha_target <= 1.0
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "layer": read_utf8(stream),
            "seed": (seed := read_long(stream)),
            "from_stage": read_enum(stream, _STAGE, None),
            "to_stage": read_enum(stream, _STAGE, None),
            "execution": read_enum(stream, _EXECUTIONSTATE, None),
            "kernel_id": read_utf8(stream),
            "family": read_utf8(stream),
            "decision_id": read_utf8(stream),
            "alpha": (alpha := read_double(stream)),
            "alpha_target": (alpha_target := read_double(stream)),
            "reason": read_utf8(stream),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (occurred_at | sequence | step) >> 53
            or (timeline | epoch | seed) >> 31
            or run_id not in NAMES
            or not -1.0 <= alpha <= 1.0
            or not 0.0 <= alpha_target <= 1.0
        ):
            require("SeedTransitioned", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.layer, "string", NAMED, "layer", OPTIONS)
        write_data(out, self.seed, "int", NAMED, "seed", OPTIONS)
        write_data(out, self.from_stage, _STAGE, NAMED, "from_stage", OPTIONS)
        write_data(out, self.to_stage, _STAGE, NAMED, "to_stage", OPTIONS)
        write_data(out, self.execution, _EXECUTIONSTATE, NAMED, "execution", OPTIONS)
        write_data(out, self.kernel_id, "string", NAMED, "kernel_id", OPTIONS)
        write_data(out, self.family, "string", NAMED, "family", OPTIONS)
        write_data(out, self.decision_id, "string", NAMED, "decision_id", OPTIONS)
        write_data(out, self.alpha, "double", NAMED, "alpha", OPTIONS)
        write_data(out, self.alpha_target, "double", NAMED, "alpha_target", OPTIONS)
        write_data(out, self.reason, "string", NAMED, "reason", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
        gate_z: Standard errors by which the shadow-loss gap of a kernel has to be above zero at its gate.
        per_epoch: Adaptations that the trainer accepts in one epoch at most.
        metrics: Metrics of the task on the held-out split, by name.
        score: Score on the held-out split: the metric, or the loss, by which runs are compared.
        score_name: Which metric the score is; empty in events from before there were tasks, whose score is the accuracy.
        higher_is_better: Whether more of the score is better.
    """

    NAME: ClassVar[str] = "SystemStatePacket"
    TOPIC: ClassVar[str] = "system.events.epoch"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 2144874548

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
    gate_z: float = 2.0
    per_epoch: int = 3
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    score: float = 0.0
    score_name: str = ""
    higher_is_better: bool = True

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("event_id", most=200),
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("sender_id", most=200),
        Bound("trace_id", most=200),
        Bound("causation_id", most=200),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("packet", minimum=0, maximum=2147483647),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("total_steps", minimum=0, maximum=9007199254740991),
        Bound("run_seed", minimum=-9223372036854775808, maximum=9223372036854775807),
        Bound("train_accuracy", minimum=0, maximum=1),
        Bound("validation_accuracy", minimum=0, maximum=1),
        Bound("layers", most=65536),
        Bound("catalogue", most=65536),
        Bound("policy", format="json"),
        Bound("parent_run_id", format="name"),
        Bound("parent_timeline", minimum=0, maximum=2147483647),
        Bound("parent_packet", minimum=-1, maximum=2147483647),
        Bound("gate_z", minimum=0),
        Bound("per_epoch", minimum=1, maximum=2147483647),
        Bound("metrics", most=200),
        Bound("score_name", most=200),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.step | self.total_steps) >> 53
            or (
                self.timeline
                | self.packet
                | self.epoch
                | self.parent_timeline
                | (self.parent_packet + 1)
            )
            >> 31
            or len(self.event_id)
            + len(self.sender_id)
            + len(self.trace_id)
            + len(self.causation_id or "")
            + len(self.metrics)
            + len(self.score_name)
            > 200
            or len(self.layers) + len(self.catalogue) > 65536
            or self.run_id not in NAMES
            or not -9223372036854775808 <= self.run_seed <= 9223372036854775807
            or self.train_accuracy < 0.0
            or self.train_accuracy > 1.0
            or self.validation_accuracy < 0.0
            or self.validation_accuracy > 1.0
            or any(one.unsound() for one in self.layers)
            or any(one.unsound() for one in self.catalogue)
            or self.policy not in TEXTS["json"]
            or self.parent_run_id not in NAMES
            or self.gate_z < 0.0
            or not 1 <= self.per_epoch <= 2147483647
        )

    def to_avro(self) -> dict[str, Any]:
        """The datum that fastavro writes."""
        return {
            **super().to_avro(),
            "layers": [item.to_avro() for item in self.layers],
            "catalogue": [item.to_avro() for item in self.catalogue],
        }

    @classmethod
    def from_avro(cls, datum: dict[str, Any]) -> Self:
        """The record of a datum, which it takes over."""
        datum["layers"] = tuple(map(LayerState.from_avro, datum["layers"]))
        datum["catalogue"] = tuple(map(CatalogueEntry.from_avro, datum["catalogue"]))
        return super().from_avro(datum)


@dataclass(frozen=True, kw_only=True)
class TelemetryLost(JournalEvent):
    """Telemetry that was dropped because the ring was full.

    Attributes:
        topic: Topic of the lost events.
        lost: How many were lost since the last such event.
    """

    NAME: ClassVar[str] = "TelemetryLost"
    TOPIC: ClassVar[str] = "system.events.run"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 401336268
    MAX_BYTES: ClassVar[int] = 65536

    topic: str
    lost: int

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("timeline", minimum=0, maximum=2147483647),
        Bound("sequence", minimum=0, maximum=9007199254740991),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("lost", minimum=0, maximum=9007199254740991),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.sequence | self.step | self.lost) >> 53
            or (self.timeline | self.epoch) >> 31
            or self.run_id not in NAMES
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "timeline": (timeline := read_long(stream)),
            "sequence": (sequence := read_long(stream)),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "topic": read_utf8(stream),
            "lost": (lost := read_long(stream)),
            "signer": (seal := read_seal(stream))[0],
            "previous": seal[1],
            "signature": seal[2],
        }
        if (
            (occurred_at | sequence | step | lost) >> 53
            or (timeline | epoch) >> 31
            or run_id not in NAMES
        ):
            require("TelemetryLost", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.timeline, "int", NAMED, "timeline", OPTIONS)
        write_data(out, self.sequence, "long", NAMED, "sequence", OPTIONS)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.topic, "string", NAMED, "topic", OPTIONS)
        write_data(out, self.lost, "long", NAMED, "lost", OPTIONS)
        write_data(out, self.signer, "string", NAMED, "signer", OPTIONS)
        write_data(out, self.previous, "string", NAMED, "previous", OPTIONS)
        write_data(out, self.signature, "string", NAMED, "signature", OPTIONS)


@dataclass(frozen=True, kw_only=True)
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
        metrics: Metrics of the task in the step, by name, but for accuracy, which has a field.
    """

    NAME: ClassVar[str] = "TrainingStep"
    TOPIC: ClassVar[str] = "telemetry.training.step"
    KEY: ClassVar[str] = "run_id"
    SCHEMA_ID: ClassVar[int] = 707097190
    MAX_BYTES: ClassVar[int] = 16384

    epoch: int
    step: int
    loss: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    samples: int
    duration_us: int
    metrics: dict[str, float] = field(default_factory=dict, hash=False)

    BOUNDS: ClassVar[tuple[Bound, ...]] = (
        Bound("occurred_at", minimum=0, maximum=9007199254740991),
        Bound("run_id", format="name"),
        Bound("epoch", minimum=0, maximum=2147483647),
        Bound("step", minimum=0, maximum=9007199254740991),
        Bound("accuracy", minimum=0, maximum=1),
        Bound("samples", minimum=0, maximum=2147483647),
        Bound("duration_us", minimum=0, maximum=9007199254740991),
        Bound("metrics", most=200),
    )

    def unsound(self) -> bool:
        """Whether a field may be outside its bounds."""
        return bool(
            (self.occurred_at | self.step | self.duration_us) >> 53
            or (self.epoch | self.samples) >> 31
            or len(self.metrics) > 200
            or self.run_id not in NAMES
            or self.accuracy < 0.0
            or self.accuracy > 1.0
        )

    @classmethod
    def read(cls, stream: BytesIO) -> Self:
        """The record whose datum comes next in the stream; raises PoisonError where a field is outside its bounds."""
        event_id, occurred_at = read_utf8(stream), read_long(stream)
        run_id, sender_id, trace_id = read_sender(stream)
        datum = {
            "event_id": event_id,
            "occurred_at": occurred_at,
            "run_id": run_id,
            "sender_id": sender_id,
            "trace_id": trace_id,
            "causation_id": None
            if not (branch := read_long(stream))
            else read_utf8(stream)
            if branch == 1
            else no_branch(branch),
            "epoch": (epoch := read_long(stream)),
            "step": (step := read_long(stream)),
            "loss": (numbers := _unpack_4(stream.read(32)))[0],
            "accuracy": (accuracy := numbers[1]),
            "gradient_norm": numbers[2],
            "learning_rate": numbers[3],
            "samples": (samples := read_long(stream)),
            "duration_us": (duration_us := read_long(stream)),
            "metrics": (
                metrics := read_doubles(stream, length) if (length := read_long(stream)) else {}
            ),
        }
        if (
            (occurred_at | step | duration_us) >> 53
            or (epoch | samples) >> 31
            or len(metrics) > 200
            or run_id not in NAMES
            or accuracy < 0.0
            or accuracy > 1.0
        ):
            require("TrainingStep", cls.BOUNDS, datum)
        record = _new(cls)
        _set(record, "__dict__", datum)
        return record

    def write(self, out: bytearray) -> None:
        """Append the datum."""
        write_envelope(out, self)
        write_data(out, self.epoch, "int", NAMED, "epoch", OPTIONS)
        write_data(out, self.step, "long", NAMED, "step", OPTIONS)
        write_data(out, self.loss, "double", NAMED, "loss", OPTIONS)
        write_data(out, self.accuracy, "double", NAMED, "accuracy", OPTIONS)
        write_data(out, self.gradient_norm, "double", NAMED, "gradient_norm", OPTIONS)
        write_data(out, self.learning_rate, "double", NAMED, "learning_rate", OPTIONS)
        write_data(out, self.samples, "int", NAMED, "samples", OPTIONS)
        write_data(out, self.duration_us, "long", NAMED, "duration_us", OPTIONS)
        write_doubles(out, self.metrics) if self.metrics else out.append(0)


RECORDS: tuple[type[Event], ...] = (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    AlertRaised,
    AlertResolved,
    AnomalyDetected,
    AuditRecorded,
    BlueprintFailed,
    BlueprintProposed,
    CacheSampled,
    CheckpointRequested,
    CheckpointTaken,
    CompilationFailed,
    CompilationStarted,
    CounterfactualMeasured,
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
    RunAnnotated,
    RunCompleted,
    RunDeleted,
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
