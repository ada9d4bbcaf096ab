"""`python -m tests.integration.processors.held_worker`: a worker of Faust whose one agent writes
down the pauses of run RUN, and is held up by each until the file `gate` is there.

HOLD says by what: `disk` raises as a full disk does, `busy` waits in the middle. `gate`, `begun`
and `taken` are files in the folder FILES.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import faust

from esper.clock import Clock
from esper.config import Settings
from esper.errors import StorageFullError
from esper.events import Event
from esper.events.records import PauseRequested
from esper.oona.bus.port import Received
from esper.oona.inbound import dead_letters
from esper_processors import streams
from esper_processors.consumers import Consumers


def build(settings: Settings, clock: Clock) -> faust.App:
    """The worker of one agent."""
    files, hold, run = Path(os.environ["FILES"]), os.environ["HOLD"], os.environ["RUN"]
    app = streams.build(settings, part=f"held-{hold}", clock=clock)
    consumers = Consumers(
        app, streams.FramedSender(app, dead_letters.TOPIC), part="held", clock=clock
    )

    async def write(event: Event, _: Received) -> None:
        if event.run_id != run:
            return
        _note(files / "begun", event)
        while not (files / "gate").exists():
            if hold == "disk":
                raise StorageFullError("The disk is full.")
            await asyncio.sleep(0.05)
        _note(files / "taken", event)

    consumers.agent("held", [PauseRequested.TOPIC], write)
    return app


def _note(path: Path, event: Event) -> None:
    with path.open("a") as file:
        file.write(f"{event.event_id}\n")


if __name__ == "__main__":
    streams.run(build)
