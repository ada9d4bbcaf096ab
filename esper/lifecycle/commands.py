"""What can be asked of a run: imperative, one handler each in `decide`."""

from __future__ import annotations

from dataclasses import dataclass, field

from esper.events.records import (
    Command,
    FailurePhase,
    LayerInventory,
    LeftOut,
    Outcome,
    SnapshotKind,
    Stage,
)
from esper.lifecycle.state import RunState


@dataclass(frozen=True, slots=True)
class Source:
    """Where a command was read: topic, partition, offset, and the id that makes it one command
    however often it comes.
    """

    command_id: str
    topic: str = ""
    partition: int = 0
    offset: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Begin a run. The fields are those of RunStarted."""

    incarnation: int
    recipe: str
    config: str
    seed: int
    decisions: str
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Begin a run with the state that another had: `forked` is that state, with the step at which
    it stood, `address` and `sha256` its manifest.

    `without` are the decisions that are to be refused when they come again, beside those that
    `forked` refuses; `parent_packet` and `offered` as in RunForked.
    """

    start: StartRun
    forked: RunState
    address: str
    sha256: str
    changes: tuple[str, ...]
    without: tuple[LeftOut, ...]
    reason: str
    parent_packet: int = -1
    offered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapt:
    """A command of Tamiyo, a person or a service for one seed.

    `alpha_target` is the weight that blending ends at, by the kernel's blueprint or by the command.
    `trusted` commands come from people and services: confidence and urgency are theirs to judge.
    """

    source: Source
    decision_id: str
    command: Command
    layer: str
    seed: int
    kernel_id: str = ""
    family: str = ""
    alpha: float = -1.0
    alpha_target: float = 0.0
    confidence: float = 1.0
    urgency: float = 1.0
    trusted: bool = False
    refusal: str = ""
    causation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The trainer's own gate moves a seed to its next stage."""

    layer: str
    seed: int
    to_stage: Stage
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailure:
    """A kernel failed, for the `consecutive`th time in a row."""

    layer: str
    seed: int
    phase: FailurePhase
    error: str
    consecutive: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EndEpoch:
    """An epoch is over. `step` is the number of optimizer steps completed."""

    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float
    learning_rate: float
    parameters_digest: str
    alphas: tuple[float, ...]
    metrics: dict[str, float] = field(default_factory=dict)
    test_metrics: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    test_score: float = 0.0
    score_name: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Stand still between two steps."""

    reason: str
    source: Source = Source("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Go on; with a snapshot when the process is a new one."""

    reason: str
    source: Source = Source("")
    incarnation: int
    snapshot_id: str = ""
    restored_step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCheckpoint:
    """A snapshot is durable. The fields are those of CheckpointTaken."""

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
    kind: SnapshotKind = "FULL"
    source: Source = Source("")


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Go on from the state that a snapshot holds, in a new timeline."""

    snapshot_id: str
    restored: RunState
    reason: str
    source: Source = Source("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """End the run in order."""

    outcome: Outcome
    accuracy: float
    loss: float
    parameters: int
    digest: str
    model_sha256: str
    metrics: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    score_name: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """End the run because it cannot go on."""

    error: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLost:
    """Telemetry was dropped."""

    topic: str
    lost: int


RunCommand = (
    StartRun
    | Fork
    | Adapt
    | Move
    | ReportFailure
    | EndEpoch
    | Pause
    | Resume
    | RecordCheckpoint
    | RollBack
    | Complete
    | Fail
    | CountLost
)
