"""Journal events and frames for tests."""

from __future__ import annotations

from esper.clock import ManualClock
from esper.events.codec import encode
from esper.events.envelope import Origin
from esper.events.records import KernelPublished, PauseRequested, TelemetryLost, TrainingStep
from esper.oona.durable.frames import Frame


def lost(run_id: str, sequence: int, *, writer: str = "trainer") -> TelemetryLost:
    """A journal event; its id depends on the run, the sequence and the writer."""
    origin = Origin(run_id, writer, "0" * 32, ManualClock())
    return TelemetryLost(
        **origin.envelope(f"{writer}/{sequence}"),
        timeline=0,
        sequence=sequence,
        epoch=0,
        step=sequence,
        topic="telemetry.training.step",
        lost=1,
    )


def frame(
    run_id: str, first: int, events: int = 1, *, writer: str = "trainer", incarnation: int = 1
) -> Frame:
    """A frame of `events` events."""
    return Frame(
        first_sequence=first,
        events=tuple(
            encode(lost(run_id, sequence, writer=writer))
            for sequence in range(first, first + events)
        ),
        incarnation=incarnation,
        command_id=f"command-{first}",
        command_position=("decision.tamiyo", 2, first) if first % 2 else None,
    )


def training_step(run_id: str, step: int) -> TrainingStep:
    """A telemetry event."""
    origin = Origin(run_id, "trainer", "0" * 32, ManualClock())
    return TrainingStep(
        **origin.envelope(f"step/{step}"),
        epoch=0,
        step=step,
        loss=0.5,
        accuracy=0.5,
        gradient_norm=1.0,
        learning_rate=0.1,
        samples=8,
        duration_us=100,
    )


def pause(run_id: str, number: int, *, expires_at: int = 2**52) -> PauseRequested:
    """A command of a person."""
    origin = Origin(run_id, "person", "0" * 32, ManualClock())
    return PauseRequested(
        **origin.envelope(f"pause/{number}"), reason=f"reason {number}", expires_at=expires_at
    )


def published(kernel_id: str, run_id: str = "") -> KernelPublished:
    """A kernel that the foundry has published."""
    origin = Origin(run_id, "foundry", "0" * 32, ManualClock())
    return KernelPublished(
        **origin.envelope(f"kernel/{kernel_id}"),
        kernel_id=kernel_id,
        blueprint_id="b",
        family="linear",
        in_features=1,
        out_features=1,
        tap="HOST_CHUNK",
        blend="RESIDUAL",
        parameters=1,
        flops=1,
        address="a",
        sha256="s",
        size_bytes=1,
        tags=(),
        parents=(),
        latency_us=1,
    )
