"""Claims about Tamiyo as a process on a real broker."""

from __future__ import annotations

from typing import Any

from esper.events import Event, Message, encode
from esper.events.records import DeadLettered, EpochReviewed, FieldReport
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Received
from tests.integration.processors.workers import Line, Worker, review_of
from tests.unit.tamiyo.world import Family, World

FAMILIES = {"0": (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03), Family("linear", 0.0))}


def world(run_id: str) -> World:
    """A run of one layer that grows from its first epoch."""
    return World({"0": 40}, FAMILIES, run_id=run_id, policy={"first_epoch": 1, "every_epochs": 1})


def test_every_packet_is_answered_on_its_partition(broker: str, tamiyo: Worker, line: Line) -> None:
    """40 packets of a growing run get 40 reviews, equal to those of the pure policy, framed, keyed
    and headed as all events are.
    """
    grown, twin = world("integration-1"), world("integration-1")
    for _ in range(40):
        line.send(grown.packet())
        wanted = review_of(grown.run_id, grown.epoch)
        event, received = line.wait(wanted)[0]
        assert isinstance(event, EpochReviewed)
        assert event.commands == twin.turn().commands
        grown.turn_with(
            [Message(received.topic, received.key or b"", received.value, received.headers)]
        )
        assert received.key == b"integration-1"
        assert received.partition == KafkaBus(broker).partition_of(
            "decision.tamiyo", b"integration-1"
        )
        assert received.header("ce_id") == event.event_id.encode()
        assert received.header("ce_type") == b"esper.events.EpochReviewed"
    assert any(
        command.command == "FOSSILISE" for review in twin.answers for command in review.commands
    )
    outcomes = line.wait(
        lambda event, _: event.NAME == "AdaptationOutcome" and event.run_id == "integration-1",
        count=len(twin.outcomes),
    )
    assert [event.event_id for event, _ in outcomes] == [
        outcome.event_id for outcome in twin.outcomes
    ]


def test_a_duplicate_packet_gets_the_same_bytes(tamiyo: Worker, line: Line) -> None:
    """A packet that is sent three times, also after a later one, is answered three times with the
    same bytes and headers.
    """
    run = world("integration-2")
    first = run.packet()
    run.epoch = 1
    for packet in (first, first, run.packet(), first):
        line.send(packet)
    found = line.wait(review_of(run.run_id, 0), count=3)
    assert len({(received.value, received.headers) for _, received in found}) == 1
    reports = line.wait(
        lambda event, _: isinstance(event, FieldReport) and event.run_id == run.run_id, count=3
    )
    assert len({received.value for _, received in reports}) == 1


def test_what_cannot_be_decoded_is_dead_lettered_and_the_next_answered(
    tamiyo: Worker, line: Line
) -> None:
    """Bytes without a frame, a cut packet and an event that does not belong there become dead
    letters with their raw bytes; the next packet is answered.
    """
    run = world("integration-3")
    message = encode(run.packet())
    stray = FieldReport(**_envelope(run), run_seed=0, layers=(), families=())
    bad = [b"nonsense", message.value[:-3], encode(stray).value]
    for value in bad:
        line.send(Message("system.events.epoch", b"integration-3", value, ()))
    line.send(message)
    line.wait(review_of(run.run_id, 0))

    def ours(event: Event, _: Received) -> bool:
        return (
            isinstance(event, DeadLettered) and event.consumer == "tamiyo" and event.payload in bad
        )

    letters = [event for event, _ in line.wait(ours, count=3)]
    assert [letter.payload for letter in letters if isinstance(letter, DeadLettered)] == bad
    assert all(
        isinstance(letter, DeadLettered)
        and letter.source_topic == "system.events.epoch"
        and letter.error
        for letter in letters
    )


def _envelope(run: World) -> dict[str, Any]:
    packet = run.packet()
    names = ("event_id", "occurred_at", "run_id", "sender_id", "trace_id", "causation_id")
    return {name: getattr(packet, name) for name in names}
