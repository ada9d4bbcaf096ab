"""`kill -9` of each process of a stack."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from esper import stack
from esper.clock import SystemClock
from esper.config import KafkaSettings, Settings
from esper.identity import Identity
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from tests.stackfixtures import (
    access,
    bring_up,
    eventually,
    family,
    now,
    part,
    pid_of,
    survivors,
    tiny_stack,
)
from tests.waiting import PATIENCE_S

MESSAGES = 300
BACK_S = 15.0  # in all; measured 2 to 4 s on two idle cores


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack with a broker of its own, that the tests of this module kill and bring up again."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    with tiny_stack(settings):
        yield settings


@pytest.fixture
def shared(tmp_path: Path, broker: str) -> Settings:
    """A home whose stack uses the shared broker."""
    return Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))


def produce(producer: Producer, topic: str, numbers: range) -> None:
    """Have each number acknowledged."""
    failed: list[object] = []
    for number in numbers:
        producer.produce(
            topic,
            str(number).encode(),
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    assert producer.flush(60) == 0
    assert failed == []


def consume(cluster: Access, topic: str) -> list[int]:
    """All numbers of partition 0.

    Its leader is elected a moment after the broker answers, which clients wait for.
    """
    consumer = Consumer(
        {**cluster.librdkafka(), "group.id": "nobody", "log_level": 0, "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    ends: list[int] = []

    def led() -> bool:
        try:
            ends.append(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=5)[1])
        except KafkaException:
            return False
        return True

    assert eventually(led)
    found: list[int] = []
    clock = SystemClock()
    deadline = clock.monotonic() + 30
    while len(found) < ends[0] and clock.monotonic() < deadline:
        found += [
            int(message.value() or b"-1")
            for message in consumer.consume(500, 1.0)
            if message.error() is None
        ]
    consumer.close()
    return found


def create(cluster: Access, topic: str) -> None:
    """A topic of one partition."""
    KafkaBus(cluster).create_topics({topic: (1, {})}, replication=1)


def test_a_killed_broker_is_back_on_its_port_with_its_messages_while_a_producer_goes_on(
    embedded: Settings,
) -> None:
    """The same producer, before and after: every number once, in order.

    The other parts are not touched.
    """
    endpoints = bring_up(embedded)
    create(access(embedded, "esper"), "killed.broker")
    producer = Producer(
        {**access(embedded, "esper").librdkafka(), "enable.idempotence": True, "log_level": 0}
    )
    produce(producer, "killed.broker", range(MESSAGES))
    stack.wait_ready(embedded, ["nissa"], PATIENCE_S)
    broker, nissa, restarts = (
        pid_of(embedded, "broker"),
        pid_of(embedded, "nissa"),
        part(embedded, "broker").restarts,
    )
    os.kill(broker, signal.SIGKILL)
    assert eventually(lambda: part(embedded, "broker").restarts == restarts + 1)
    stack.wait_ready(embedded, ["broker"], PATIENCE_S)
    assert part(embedded, "broker").port == int(endpoints.bootstrap.rpartition(":")[2])
    assert pid_of(embedded, "broker") != broker
    produce(producer, "killed.broker", range(MESSAGES, 2 * MESSAGES))
    assert consume(access(embedded, "esper"), "killed.broker") == list(range(2 * MESSAGES))
    assert pid_of(embedded, "nissa") == nissa


def test_a_killed_supervisor_takes_every_process_with_it_and_the_next_up_finds_everything(
    embedded: Settings,
) -> None:
    """Broker, parts and the parts' children are gone within a second.

    Then the same ports, the same messages.
    """
    endpoints = bring_up(embedded)
    stack.wait_ready(embedded, ["broker", "nissa"], PATIENCE_S)
    create(access(embedded, "esper"), "killed.supervisor")
    produce(
        Producer(
            {**access(embedded, "esper").librdkafka(), "enable.idempotence": True, "log_level": 0}
        ),
        "killed.supervisor",
        range(MESSAGES),
    )
    supervisor = now(embedded).supervisor.pid
    members = family(supervisor)
    assert len(members) >= 5  # supervisor, leash, broker, part, the part's child
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: not survivors(members))
    assert stack.running(embedded) is None
    assert bring_up(embedded) == endpoints
    assert consume(access(embedded, "esper"), "killed.supervisor") == list(range(MESSAGES))


def test_a_killed_part_is_back_at_once_and_its_children_are_gone(shared: Settings) -> None:
    """The first restart waits for nothing; a second soon after it does not wait long."""
    with tiny_stack(shared):
        for kills in (1, 2):
            members = family(pid_of(shared, "nissa"))
            assert len(members) == 2
            os.kill(members[0].pid, signal.SIGKILL)
            assert eventually(lambda kills=kills: part(shared, "nissa").restarts == kills)  # type: ignore[misc]
            stack.wait_ready(shared, ["nissa"], PATIENCE_S)
            assert survivors(members) == []
            assert eventually(lambda: len(family(pid_of(shared, "nissa"))) == 2)


def leash_of(settings: Settings) -> psutil.Process:
    """The process that ends the others with the supervisor."""
    return next(
        one
        for one in family(now(settings).supervisor.pid)
        if one.cmdline()[-1].endswith("leash.py")
    )


def test_a_killed_leash_is_replaced_and_holds_what_the_old_one_held(shared: Settings) -> None:
    """Neither order of killing leaves a process behind."""
    with tiny_stack(shared):
        old = leash_of(shared)
        os.kill(old.pid, signal.SIGKILL)
        assert eventually(
            lambda: any(
                "leash.py" in one.cmdline()[-1]
                for one in survivors(family(now(shared).supervisor.pid))
                if one != old
            ),
            5,
        )
        members = family(now(shared).supervisor.pid)
        os.kill(now(shared).supervisor.pid, signal.SIGKILL)
        assert eventually(lambda: not survivors(members))


def test_when_leash_and_supervisor_are_killed_together_the_next_up_ends_what_they_left(
    shared: Settings,
) -> None:
    """The state file says which processes those are; a pid that was used again is left alone."""
    with tiny_stack(shared):
        left = part(shared, "nissa").process
        assert left is not None
        members = family(left.pid)
        assert len(members) == 2  # the part and its child
        supervisor, leash = now(shared).supervisor, leash_of(shared)
        os.kill(supervisor.pid, signal.SIGSTOP)  # so that it cannot replace the leash
        os.kill(leash.pid, signal.SIGKILL)
        os.kill(supervisor.pid, signal.SIGKILL)
        assert supervisor.wait(clock=SystemClock(), timeout=5)
        assert left.lives()
        bring_up(shared)
        assert not left.lives()
        assert eventually(lambda: not survivors(members))
        stack.wait_ready(shared, ["nissa"], PATIENCE_S)
        assert Identity.of(pid_of(shared, "nissa")) != left
