"""What passwords and rights cost: `python -m tests.integration.stack.measure_access [ROUNDS]`
prints both brokers' figures, measured in turns.

Start: from the command to topics that can be used, on new folders; with an AOT cache where there is
one. Then, on two brokers that stand side by side: events a second through one producer, and the
time from sending one message to having it read.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.codec import Message
from esper.oona.admin import topic_creation
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.stack.embedded.securing import secure
from esper.stack.processes.ports import PortClaims
from tests.securedbroker import node_at, started

CLOCK = SystemClock()
EVENTS = 50_000
TRIPS = 200
TOPIC = "telemetry.training.step"
BODY = bytes(200)


@contextmanager
def up(home: Path, *, secured: bool) -> Iterator[tuple[Access, Access, float]]:
    """A broker with topics: a writer's access, a reader's, and the seconds that it took."""
    settings = Settings(home=home)
    with PortClaims() as claims:
        node = node_at(home, claims, secured=secured)
        began = CLOCK.monotonic()
        with started(node):
            if secured:
                secure(node, settings.kafka_keys_dir)
            topic_creation.ensure(node.admin, settings.kafka)
            seconds = CLOCK.monotonic() - began
            if secured:
                yield (
                    *(
                        Access.of(settings, principal, bootstrap=node.bootstrap)
                        for principal in ("trainer", "nissa")
                    ),
                    seconds,
                )  # type: ignore[misc]
            else:
                yield Access.plain(node.bootstrap), Access.plain(node.bootstrap), seconds


def rate(writer: Access) -> float:
    """Events a second until the broker has them all."""
    with KafkaBus(writer).producer(sender_id="measure", queue_messages=EVENTS + 1) as producer:
        producer.send_message(Message(TOPIC, b"k", BODY, ()))
        producer.flush(30)
        began = CLOCK.monotonic()
        for _ in range(EVENTS):
            producer.send_message(Message(TOPIC, b"k", BODY, ()))
        assert producer.flush(60) == 0
        return EVENTS / (CLOCK.monotonic() - began)


def trips(writer: Access, other: Access) -> list[float]:
    """Milliseconds from sending to having read, one message after the other."""
    found = []
    with (
        KafkaBus(writer).producer(sender_id="measure") as producer,
        KafkaBus(other).reader([TOPIC], start="end") as reader,
    ):
        for number in range(TRIPS + 20):
            began = CLOCK.monotonic()
            producer.send_message(Message(TOPIC, b"k", BODY, ()))
            producer.poll()
            while not reader.poll(10, 1.0):
                pass
            if number >= 20:
                found.append(1e3 * (CLOCK.monotonic() - began))
    return found


def main(rounds: int) -> None:
    """Print a line for each broker."""
    starts: dict[bool, list[float]] = {False: [], True: []}
    rates: dict[bool, list[float]] = {False: [], True: []}
    waits: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            for secured in (False, True):
                with up(Path(scratch) / f"{turn}-{secured}", secured=secured) as (_, _, seconds):
                    starts[secured].append(seconds)
        with ExitStack() as stack:
            both = {
                secured: stack.enter_context(up(Path(scratch) / f"side-{secured}", secured=secured))
                for secured in (False, True)
            }
            for _ in range(rounds):
                for secured, (writer, other, _) in both.items():
                    rates[secured].append(rate(writer))
                    waits[secured] += trips(writer, other)
    for secured in (False, True):
        p99 = statistics.quantiles(waits[secured], n=100)[98]
        sys.stdout.write(
            f"{'secured' if secured else 'plain  '}: start "
            f"{statistics.median(starts[secured]):.2f} s, "
            f"{statistics.median(rates[secured]):,.0f} events/s, trip "
            f"{statistics.median(waits[secured]):.2f} ms, p99 {p99:.2f} ms\n"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
