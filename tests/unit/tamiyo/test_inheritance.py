"""A fork is decided on as its parent was: Tamiyo folds what it was told of the parent, and what it
answered then.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from esper.clock import SystemClock
from esper.events import decode
from esper.events.records import EpochReviewed, SystemStatePacket
from esper.oona.bus.memory import MemoryBus
from esper_processors.tamiyo.inheritance import PacketHistory, inherited, read_dialogues
from esper_processors.tamiyo.row import Row, encode
from esper_processors.tamiyo.row import decode as row_of
from tests.unit.tamiyo.world import Family, World

WORTH = {
    "first": (Family("conv1d", 0.4), Family("mlp", 0.0), Family("gate", 0.06)),
    "second": (Family("mlp", 0.02), Family("gate", 0.0)),
}


def world(**changed: object) -> World:
    """Two layers with five arms."""
    return World(
        {"first": 40, "second": 100},
        WORTH,
        run_seed=5,
        policy={"first_epoch": 2, "every_epochs": 1},
        **changed,  # type: ignore[arg-type]
    )


def commands(review: EpochReviewed) -> list[tuple[object, ...]]:
    """What a review asks, without the ids that are made from the run's."""
    return [
        (one.command, one.layer, one.seed, one.kernel_id, one.confidence, one.urgency)
        for one in review.commands
    ]


@pytest.mark.parametrize("at", [1, 9, 24])
@pytest.mark.parametrize("mode", ["LOCKSTEP", "LIVE"])
def test_a_fork_is_decided_on_like_its_parent(at: int, mode: str) -> None:
    """Forked at an epoch, with trials on the way that carry the parent's ids: every later answer
    asks the same, and the rows agree.
    """
    parent, packets, answers = (
        world(decisions=mode),
        list[SystemStatePacket](),
        dict[str, EpochReviewed](),
    )
    for _ in range(at):
        packets.append(parent.packet())
        answers[packets[-1].event_id] = parent.turn()
    packets.insert(1, packets[0])  # one that was sent twice
    row = inherited([PacketHistory(packets, answers)])
    assert row.state == parent.row.state
    fork = copy.deepcopy(parent)
    fork.run_id, fork.row = "fork", row_of(encode(row))
    for _ in range(40):
        assert commands(fork.turn()) == commands(parent.turn())
    assert sum(len(review.commands) for review in fork.answers) > 10
    stages = [[(seed.stage, seed.kernel_id) for seed in seeds] for seeds in fork.seeds.values()]
    assert stages == [
        [(seed.stage, seed.kernel_id) for seed in seeds] for seeds in parent.seeds.values()
    ]


def test_without_its_inheritance_a_fork_is_decided_on_otherwise() -> None:
    """What the parent's trials taught makes the difference."""
    parent = world()
    for _ in range(24):
        parent.turn()
    fork = copy.deepcopy(parent)
    fork.run_id, fork.row = "fork", Row()
    assert [commands(fork.turn()) for _ in range(40)] != [
        commands(parent.turn()) for _ in range(40)
    ]


def test_dialogues_are_read_back_to_the_first_ancestor() -> None:
    """From Kafka: the parent's up to the fork and not beyond, the grandparent's before it.

    A timeline that was left belongs to it, later ones do not.
    """
    bus, clock = MemoryBus(clock=SystemClock()), SystemClock()
    grandparent, parent = world(run_id="grandparent"), world(run_id="parent")
    with bus.producer(sender_id="trainer") as producer:
        for _ in range(6):
            producer.send(grandparent.packet())
            for message in grandparent.ask().messages:
                if isinstance(event := decode(message.value), EpochReviewed):
                    producer.send(event)
            grandparent.epoch += 1
        for epoch, timeline in ((3, 0), (4, 0), (5, 0), (4, 1), (5, 1), (6, 1), (5, 2)):
            parent.epoch, parent.timeline = epoch, timeline
            producer.send(
                replace(
                    parent.packet(), parent_run_id="grandparent", parent_timeline=0, parent_packet=2
                )
            )
    own = replace(
        world(run_id="fork").packet(), parent_run_id="parent", parent_timeline=1, parent_packet=5
    )
    first, second = read_dialogues(bus, own, clock=clock)
    assert [(one.run_id, one.packet) for one in first.packets] == [
        ("grandparent", packet) for packet in (0, 1, 2)
    ]
    assert set(first.answers) >= {one.event_id for one in first.packets}
    assert [(one.timeline, one.packet) for one in second.packets] == [
        (0, 3),
        (0, 4),
        (0, 5),
        (1, 4),
        (1, 5),
    ]
    row = inherited([first, second])
    assert (row.state.timeline, row.state.packet) == (0, 5)
    assert read_dialogues(bus, replace(own, parent_run_id="nobody"), clock=clock)[0].packets == []
