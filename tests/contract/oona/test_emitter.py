"""Telemetry: nothing lost while the broker is up, nothing blocked while it is away, and what is
lost is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from esper.clock import SystemClock
from esper.events.codec import decode
from esper.events.records import TrainingStep
from esper.oona.bus.emitter import Emitter, TelemetryRing
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Bus
from tests.contract.oona.worlds import World
from tests.unit.oona.samples import pause, training_step

PATIENCE_S = 20.0
TOPIC = TrainingStep.TOPIC
_numbers = count()


@pytest.fixture
def run() -> str:
    """A run id that no other test uses."""
    return f"emitter-{next(_numbers)}"


@pytest.fixture
def emitter(bus: Bus) -> Iterator[Emitter]:
    """A running emitter."""
    made = Emitter(bus.producer(sender_id="trainer"), clock=SystemClock())
    made.start()
    yield made
    made.stop()


def test_nothing_is_lost_while_the_broker_is_up(bus: Bus, emitter: Emitter, run: str) -> None:
    """Every emitted event is in its topic, in order, and counted as delivered."""
    with bus.reader([TOPIC], start="end") as reader:
        for step in range(5_000):
            emitter.emit(training_step(run, step))
        assert emitter.flush(PATIENCE_S) == 0
        assert emitter.delivered() == {TOPIC: 5_000}
        assert emitter.lost() == {}
        steps: list[int] = []
        while len(steps) < 5_000 and (received := reader.poll(5_000, PATIENCE_S)):
            for one in received:
                event = decode(one.value)
                assert isinstance(event, TrainingStep)
                steps.append(event.step)
    assert steps == list(range(5_000))


def test_without_a_broker_the_oldest_go_and_are_counted(world: World, run: str) -> None:
    """Training goes on: the newest events stay, each lost one is counted under its topic, and
    closing counts the rest.
    """
    producer = world.without_broker().producer(sender_id="trainer", queue_messages=50)
    emitter = Emitter(producer, clock=SystemClock(), capacity=100)
    emitter.start()
    for step in range(1_000):
        emitter.emit(training_step(run, step))  # comes back, although nobody takes what it is given
    assert emitter.flush(0.5) <= 200
    emitter.stop()
    assert emitter.lost() == {TOPIC: 1_000}
    assert emitter.lost() == {}
    assert emitter.delivered() == {}


def test_after_an_outage_what_is_left_goes_out(run: str) -> None:
    """What the queue and the ring hold when the broker comes back is delivered: lost and delivered
    add up to emitted.
    """
    bus = MemoryBus()
    emitter = Emitter(
        bus.producer(sender_id="trainer", queue_messages=50), clock=SystemClock(), capacity=100
    )
    emitter.start()
    bus.set_online(False)
    for step in range(1_000):
        emitter.emit(training_step(run, step))
    bus.set_online(True)
    assert emitter.flush(PATIENCE_S) == 0
    lost = emitter.lost().get(TOPIC, 0)
    assert lost > 0
    assert emitter.delivered() == {TOPIC: 1_000 - lost}
    emitter.stop()


def test_an_event_that_cannot_be_encoded_stops_nothing(
    bus: Bus, emitter: Emitter, run: str
) -> None:
    """A wrong value is lost, counted and remembered as `error`; the events after it go out."""
    wrong = training_step(run, 0)
    object.__setattr__(wrong, "loss", "not a number")
    emitter.emit(wrong)
    emitter.emit(training_step(run, 1))
    assert emitter.flush(PATIENCE_S) == 0
    assert emitter.delivered() == {TOPIC: 1}
    assert emitter.lost() == {TOPIC: 1}
    assert emitter.error is not None


def test_the_ring_pushes_out_the_oldest(run: str) -> None:
    """A full ring keeps the newest and counts what went, by topic, once."""
    ring = TelemetryRing(3)
    ring.put(pause(run, 0))
    for step in range(5):
        ring.put(training_step(run, step))
    assert len(ring) == 3
    assert ring.lost() == {"control.tolaria.commands": 1, TOPIC: 2}
    assert ring.lost() == {}
    assert [getattr(event, "step", None) for event in ring.take(10)] == [2, 3, 4]
