"""Journal events and frames for tests."""

from __future__ import annotations

from esper.clock import ManualClock
from esper.events.codec import encode
from esper.events.envelope import Origin
from esper.events.records import TelemetryLost
from esper.oona.frames import Frame


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


def frame(run_id: str, first: int, events: int = 1, *, writer: str = "trainer", incarnation: int = 1) -> Frame:
    """A frame of `events` events."""
    return Frame(
        first_sequence=first,
        events=tuple(encode(lost(run_id, sequence, writer=writer)) for sequence in range(first, first + events)),
        incarnation=incarnation,
        command_id=f"command-{first}",
        command_position=("decision.tamiyo", 2, first) if first % 2 else None,
    )
