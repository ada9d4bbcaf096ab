"""Generated from schemas/topics.toml by tools/generate_events.py. Do not edit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One Kafka topic with the principals that write and that read it.

    `retention_ms` is -1 for topics that are kept forever.
    """

    name: str
    key: str
    partitions: int
    retention_ms: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    records: tuple[str, ...]


TOPICS: dict[str, Topic] = {
    "system.events.run": Topic(
        "system.events.run",
        "run_id",
        4,
        -1,
        ("trainer",),
        ("trainer", "tamiyo", "nissa", "history", "tolaria"),
        (
            "RunStarted",
            "RunForked",
            "SeedTransitioned",
            "AdaptationApplied",
            "AdaptationRejected",
            "KernelFailed",
            "EpochEnded",
            "CheckpointTaken",
            "InstabilityDetected",
            "RunRolledBack",
            "RunPaused",
            "RunResumed",
            "RunCompleted",
            "RunFailed",
            "TelemetryLost",
        ),
    ),
    "system.events.epoch": Topic(
        "system.events.epoch",
        "run_id",
        4,
        2592000000,
        ("trainer",),
        ("tamiyo", "nissa", "history"),
        ("SystemStatePacket",),
    ),
    "telemetry.seed.health": Topic(
        "telemetry.seed.health",
        "run_id",
        4,
        604800000,
        ("trainer",),
        ("nissa", "history"),
        ("SeedHealth",),
    ),
    "telemetry.seed.performance": Topic(
        "telemetry.seed.performance",
        "run_id",
        4,
        604800000,
        ("trainer",),
        ("tamiyo", "nissa", "history"),
        ("PerformanceDelta",),
    ),
    "telemetry.training.step": Topic(
        "telemetry.training.step",
        "run_id",
        4,
        604800000,
        ("trainer",),
        ("nissa", "history"),
        ("TrainingStep",),
    ),
    "telemetry.resources": Topic(
        "telemetry.resources",
        "sender_id",
        4,
        604800000,
        ("trainer", "nissa"),
        ("nissa", "history"),
        ("ResourceSampled",),
    ),
    "telemetry.cache": Topic(
        "telemetry.cache",
        "sender_id",
        4,
        604800000,
        ("trainer",),
        ("nissa", "history"),
        ("CacheSampled",),
    ),
    "telemetry.custom": Topic(
        "telemetry.custom",
        "sender_id",
        4,
        604800000,
        ("nissa",),
        ("nissa", "history"),
        ("MetricRecorded",),
    ),
    "observability.alerts": Topic(
        "observability.alerts",
        "sender_id",
        4,
        2592000000,
        ("nissa",),
        ("nissa", "history"),
        ("AnomalyDetected", "AlertRaised", "AlertResolved"),
    ),
    "control.kasmina.commands": Topic(
        "control.kasmina.commands",
        "run_id",
        4,
        604800000,
        ("tamiyo", "operator"),
        ("trainer", "tamiyo", "history"),
        ("SeedCommand",),
    ),
    "control.tolaria.commands": Topic(
        "control.tolaria.commands",
        "run_id",
        4,
        604800000,
        ("tolaria", "tamiyo", "operator"),
        ("trainer", "tolaria", "history"),
        (
            "RunRequested",
            "PauseRequested",
            "ResumeRequested",
            "CheckpointRequested",
            "RollbackRequested",
        ),
    ),
    "control.runs": Topic(
        "control.runs",
        "run_id",
        4,
        -1,
        ("operator",),
        ("trainer", "tolaria", "history"),
        ("RunAnnotated", "RunDeleted", "CounterfactualMeasured"),
    ),
    "decision.tamiyo": Topic(
        "decision.tamiyo",
        "run_id",
        4,
        -1,
        ("tamiyo",),
        ("trainer", "tamiyo", "nissa", "foundry", "history"),
        ("EpochReviewed", "AdaptationOutcome"),
    ),
    "innovation.blueprints": Topic(
        "innovation.blueprints",
        "run_id",
        4,
        -1,
        ("tamiyo", "foundry"),
        ("foundry", "trainer", "history"),
        ("FieldReport", "BlueprintProposed", "BlueprintFailed", "FieldReportAnswered"),
    ),
    "compilation.attempts": Topic(
        "compilation.attempts",
        "blueprint_id",
        4,
        2592000000,
        ("foundry",),
        ("nissa", "history"),
        ("CompilationStarted", "CompilationFailed"),
    ),
    "compilation.kernels": Topic(
        "compilation.kernels",
        "kernel_id",
        4,
        -1,
        ("foundry",),
        ("trainer", "nissa", "foundry", "history"),
        ("KernelCompiled", "KernelPublished"),
    ),
    "validation.kernels": Topic(
        "validation.kernels",
        "kernel_id",
        4,
        -1,
        ("foundry",),
        ("history",),
        ("KernelValidated", "KernelRejected"),
    ),
    "audit.events": Topic(
        "audit.events",
        "sender_id",
        4,
        -1,
        ("tolaria", "tamiyo", "nissa", "foundry", "operator"),
        ("tolaria", "tamiyo", "nissa", "foundry", "history"),
        ("AuditRecorded",),
    ),
    "dead.letters": Topic(
        "dead.letters",
        "source_topic",
        4,
        2592000000,
        ("trainer", "tamiyo", "nissa", "foundry", "history", "tolaria"),
        ("history",),
        ("DeadLettered",),
    ),
}
