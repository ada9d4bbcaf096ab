"""Attacks on the stream processors by whoever may write to a topic: each bad message is one dead
letter, and the next one is taken.

On the version before: a packet whose run is its own parent stops Tamiyo for all runs, `{` on
Nissa's topic of definitions and a changelog record without a key end or stop the worker, and
evidence that is no JSON makes the API answer 500 for ever.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka import Producer

from esper.events import Event, Message, encode
from esper.events.codec import frame
from esper.events.records import DeadLettered, EpochReviewed
from esper.events.schemas import current
from esper.oona.bus.port import Received
from tests.integration.processors.workers import Line, Worker, review_of, wait_for
from tests.unit.nissa.journal import Run
from tests.unit.tamiyo.world import Family, World

FAMILIES = {"0": (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03))}
DEFINITIONS = "esper-nissa-definitions"
GOOD = {
    "name": "poison_test",
    "kind": "gauge",
    "help": "A metric that is declared after the bad ones",
    "unit": "",
    "labels": [],
}
BAD_DEFINITIONS = (
    b"{",
    b"null",
    b"[]",
    b"17",
    b'{"name": 3}',
    b"[" * 100_000,
    b'{"name": "a"}',
    b"\xff\xfe",
    b"",
    b'{"labels": {}}',
    None,
)


def world(run_id: str) -> World:
    """A run of one layer."""
    return World({"0": 40}, FAMILIES, run_id=run_id, policy={"first_epoch": 1, "every_epochs": 1})


@pytest.fixture
def line(broker: str) -> Iterator[Line]:
    """What the processors write, and a producer."""
    line = Line(broker, "decision.tamiyo", "dead.letters")
    yield line
    line.close()


def put(broker: str, topic: str, *messages: tuple[bytes | None, bytes | None]) -> None:
    """Write what the codec would never write: no key, no value."""
    producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True})
    for key, value in messages:
        producer.produce(topic, value, key)
    assert producer.flush(20) == 0


def letters(line: Line, topic: str, consumer: str, count: int) -> list[DeadLettered]:
    """So many letters of a consumer about a topic."""

    def ours(event: Event, _: Received) -> bool:
        return (
            isinstance(event, DeadLettered)
            and event.consumer == consumer
            and event.source_topic == topic
        )

    return [event for event, _ in line.wait(ours, count=count) if isinstance(event, DeadLettered)]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_runs_that_descend_from_themselves_stop_nobody(
    tamiyo: Worker, line: Line, length: int
) -> None:
    """A cycle of parents of any length: its packets are answered with the reason and put aside, and
    the packet of an honest run is answered.
    """
    ring = [f"cycle-{length}-{number}" for number in range(length)]
    for number, run_id in enumerate(ring):
        line.send(
            replace(
                world(run_id).packet(), parent_run_id=ring[(number + 1) % length], parent_packet=0
            )
        )
    honest = world(f"beside-the-cycle-{length}")
    line.send(honest.packet())
    line.wait(review_of(honest.run_id, 0))
    answers = line.wait(
        lambda event, _: isinstance(event, EpochReviewed) and event.run_id in ring, count=length
    )
    assert all(
        "ancestor" in event.reason and not event.commands
        for event, _ in answers
        if isinstance(event, EpochReviewed)
    )
    found = {letter.error for letter in letters(line, "system.events.epoch", "tamiyo", length)}
    assert any("its own ancestor" in error for error in found)
    assert tamiyo.get("/health", None)[0] == 200


def test_empty_and_strange_packets_are_put_aside(broker: str, tamiyo: Worker, line: Line) -> None:
    """No value, no key, another run's key, random bytes: one letter each with the raw bytes, and
    the next packet is answered.
    """
    run = world("strange")
    good = encode(run.packet()).value
    bad = [
        (b"strange", None),
        (None, good),
        (b"another", good),
        (b"strange", b"\0\0\0\0\x01abc"),
        (None, None),
    ]
    put(broker, "system.events.epoch", *bad)
    line.send(run.packet())
    line.wait(review_of("strange", 0))

    def ours(event: Event, _: Received) -> bool:
        return (
            isinstance(event, DeadLettered)
            and event.consumer == "tamiyo"
            and event.payload in {value or b"" for _, value in bad}
        )

    assert len(line.wait(ours, count=len(bad))) == len(bad)


def test_definitions_that_are_none_do_not_end_nissa(broker: str, nissa: Worker, line: Line) -> None:
    """Texts of every wrong kind on Nissa's own topic: each is a letter, Nissa stays ready, the next
    definition is known, also after a restart.
    """
    put(
        broker,
        DEFINITIONS,
        *((b"poison_test", value) for value in BAD_DEFINITIONS),
        (b"poison_test", json.dumps(GOOD).encode()),
    )

    def known() -> bool:
        return any(
            one["name"] == "poison_test"
            for one in nissa.json("/api/v1/metrics/definitions")["definitions"]
        )

    wait_for(known, 30)
    found = letters(line, DEFINITIONS, "nissa", len(BAD_DEFINITIONS))
    assert len({letter.event_id for letter in found}) == len(BAD_DEFINITIONS)
    nissa.signal(signal.SIGKILL)
    nissa.start()
    nissa.wait_ready()
    wait_for(known, 30)
    metrics = nissa.get("/metrics")[1]
    assert b"esper_nissa_events" in metrics
    assert (
        b'esper_dead_letters_total{error="ValidationError",topic="esper-nissa-definitions"}'
        in metrics
    )
    assert json.loads(nissa.get("/health", None)[1])["dead_letters"] >= len(BAD_DEFINITIONS) - 1


def test_bad_evidence_is_no_error_for_ever(nissa: Worker, line: Line) -> None:
    """A review whose evidence is no JSON is put aside; the API answers for that run and for all."""
    reviewed = Run("evidence").reviewed("d1", "d2")
    datum = reviewed.to_avro()
    datum["commands"][0]["evidence"] = "{not json"
    value = frame(datum, current(EpochReviewed))
    line.send(Message(reviewed.TOPIC, b"evidence", value, ()))

    def ours(event: Event, _: Received) -> bool:
        return (
            isinstance(event, DeadLettered) and event.consumer == "nissa" and event.payload == value
        )

    line.wait(ours)
    assert nissa.get("/api/v1/adaptations?run=evidence")[0] == 200
    assert nissa.get("/api/v1/adaptations")[0] == 200


@pytest.mark.parametrize("part", ["tamiyo", "nissa"])
def test_a_poisoned_changelog_does_not_stop_the_recovery(
    broker: str, request: pytest.FixtureRequest, line: Line, part: str
) -> None:
    """Rows with Faust's own key, of no kind and of a deep one (Kafka itself refuses those without a
    key): a worker that begins from its changelog is ready again, each is a letter.
    """
    worker: Worker = request.getfixturevalue(part)
    changelog = {"tamiyo": "esper-tamiyo-runs-changelog", "nissa": "esper-nissa-views-changelog"}[
        part
    ]
    line.send(world(f"changelog-{part}").packet())
    line.wait(review_of(f"changelog-{part}", 0)) if part == "tamiyo" else None
    worker.signal(signal.SIGKILL)
    shutil.rmtree(worker.settings.stack_dir / part)
    bad = [
        (b"__faust\0offset__", b"999"),
        (b"some-run", b"{"),
        (b"\0kind", b"1"),
        (b"other", b"[" * 50_000),
    ]
    put(broker, changelog, *bad)
    worker.start()
    worker.wait_ready()
    assert {letter.payload[:3] for letter in letters(line, changelog, part, len(bad))} >= {
        b"999",
        b"{",
    }
    if part == "tamiyo":
        line.send(world("after-the-changelog").packet())
        line.wait(review_of("after-the-changelog", 0))
        assert worker.get("/api/v1/runs")[0] == 200
    else:
        assert worker.get("/api/v1/status")[0] == 200
