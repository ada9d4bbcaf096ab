"""A small trainer: resumes, appends frames to its outbox, drains to Kafka, and says each event id
once it was promised.

    python -m tests.chaos.oona.writer FOLDER BOOTSTRAP INCARNATION EVENTS

prints one line for each durable event: its sequence and its event id. At EVENTS in all it waits
until Kafka has everything and ends with 0.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from esper.clock import SystemClock
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.drain import Drain
from esper.oona.durable.frames import event_id_of
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.start import start
from tests.unit.oona.samples import frame
from tests.waiting import PATIENCE_S


def main(folder: Path, bootstrap: str, incarnation: int, events: int) -> int:
    """Write until `events` are there; the log of the drain goes to the standard error output."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    clock = SystemClock()
    bus = KafkaBus(bootstrap)
    outbox = Outbox.open(folder, clock=clock)
    started = start(outbox, bus, clock=clock)
    if started.quarantined or started.elsewhere:
        sys.stderr.write(f"{started}\n")
        return 3
    drain = Drain(outbox, bus, clock=clock)
    drain.start()
    while outbox.next_sequence < events:
        first = outbox.next_sequence
        one = frame(
            outbox.run_id,
            first,
            1 + first % 3,
            writer=f"incarnation {incarnation}",
            incarnation=incarnation,
        )
        outbox.append(one)
        for number, event in enumerate(one.events):
            sys.stdout.write(f"{first + number} {event_id_of(event.headers)}\n")
        sys.stdout.flush()
        drain.notify()
        clock.sleep(0.002)
    done = drain.wait_empty(PATIENCE_S)
    drain.stop()
    outbox.close()
    return 0 if done and not drain.fenced else 4


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
