"""The inbox: what concerns the run comes once, in order, whatever else is in the topics.

On the real broker and in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from esper.clock import ManualClock
from esper.errors import CorruptError
from esper.events.codec import Message, decode, encode
from esper.events.envelope import Event
from esper.events.records import DeadLettered, KernelPublished, PauseRequested
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Bus, Positions, Producer, Start
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.inbox import INBOX_TOPICS, Delivered, Inbox
from tests.contract.oona.worlds import World
from tests.unit.oona.samples import pause, published
from tests.waiting import PATIENCE_S, never, until

CLOCK = ManualClock()
_numbers = count()


@pytest.fixture
def run() -> str:
    """A run id that no other test uses."""
    return f"inbox-{next(_numbers)}"


@pytest.fixture
def producer(bus: Bus) -> Iterator[Producer]:
    """Others who write."""
    with bus.producer(sender_id="others") as made:
        yield made


class Ear:
    """Makes inboxes and stops them."""

    def __init__(self, bus: Bus, producer: Producer, run: str) -> None:
        self.letters = DeadLetters(producer, f"trainer of {run}", CLOCK)
        self._bus, self._run = bus, run
        self._made: list[Inbox] = []

    def open(self, start: Start, known: tuple[str, ...] = ()) -> Inbox:
        """A running inbox."""
        made = Inbox(
            self._bus, self._run, start=start, clock=CLOCK, dead_letters=self.letters, known=known
        )
        made.start()
        self._made.append(made)
        return made

    def close(self) -> None:
        """Stop them all."""
        for made in self._made:
            made.stop()
            assert not made.is_alive()


@pytest.fixture
def ear(bus: Bus, producer: Producer, run: str) -> Iterator[Ear]:
    """Inboxes of the run."""
    made = Ear(bus, producer, run)
    yield made
    made.close()


def now(bus: Bus) -> Positions:
    """The present ends of what an inbox reads."""
    with bus.reader(INBOX_TOPICS, start="end") as reader:
        return reader.position()


def send(producer: Producer, *events: Event) -> None:
    """Deliver events."""
    for event in events:
        producer.send(event)
    assert producer.flush(PATIENCE_S) == 0


def last(event: Event) -> bool:
    """Whether it is the pause that ends a test."""
    return isinstance(event, PauseRequested) and event.reason == "reason 999"


def heard(inbox: Inbox) -> list[Delivered]:
    """What has come up to the pause that ends a test."""
    came: list[Delivered] = []

    def ended() -> bool:
        came.extend(inbox.take())
        return bool(came) and last(came[-1].event)

    until(ended, "the pause that ends the test")
    return came


def test_commands_of_the_run_come_in_order_with_their_positions(
    bus: Bus, producer: Producer, ear: Ear, run: str
) -> None:
    """Events keyed by the run are delivered in order; other runs' are not.

    Positions are those in the topic.
    """
    start = now(bus)
    pauses = [pause(run, number) for number in (*range(20), 999)]
    for one in pauses:
        send(producer, pause(f"{run}-other", 1), one)
    delivered = heard(ear.open(start))
    assert [one.event for one in delivered] == pauses
    partition = bus.partition_of(PauseRequested.TOPIC, run.encode())
    assert {one.position[:2] for one in delivered} == {(PauseRequested.TOPIC, partition)}
    offsets = [one.position[2] for one in delivered]
    assert offsets == sorted(offsets)


def test_kernels_are_for_everyone(bus: Bus, producer: Producer, ear: Ear, run: str) -> None:
    """Kernels are keyed by kernel, and any run may use them: those without a run and those made for
    another one come too.
    """
    start = now(bus)
    inbox = ear.open(start)
    send(
        producer,
        published(f"{run}-k1"),
        published(f"{run}-k2", f"{run}-other"),
        published(f"{run}-k3", run),
    )
    wanted = {f"{run}-k1", f"{run}-k2", f"{run}-k3"}
    kernels: set[str] = set()

    def complete() -> bool:
        kernels.update(
            one.event.kernel_id for one in inbox.take() if isinstance(one.event, KernelPublished)
        )
        return wanted <= kernels

    until(complete, lambda: f"{wanted}, and there is {kernels}")


def test_known_repeated_and_expired_commands_are_dropped(
    bus: Bus, producer: Producer, ear: Ear, run: str
) -> None:
    """A command that the journal answers, one that comes twice and one whose time is over are not
    delivered, and counted.
    """
    start = now(bus)
    known, twice, fresh = pause(run, 1), pause(run, 2), pause(run, 4)
    expired = pause(run, 3, expires_at=CLOCK.now_us() - 1)
    still_good = pause(run, 5, expires_at=CLOCK.now_us())
    send(producer, known, twice, expired, twice, fresh, still_good, pause(run, 999))
    inbox = ear.open(start, known=(known.event_id,))
    assert [one.event for one in heard(inbox)] == [twice, fresh, still_good, pause(run, 999)]
    assert inbox.dropped == {"known": 2, "expired": 1}


def test_reading_starts_at_the_folded_position(
    bus: Bus, producer: Producer, ear: Ear, run: str
) -> None:
    """What stood before the position that is given does not come again."""
    start = now(bus)
    send(producer, pause(run, 1), pause(run, 2))
    later = now(bus)
    send(producer, pause(run, 3), pause(run, 999))
    assert [one.event for one in heard(ear.open(later))] == [pause(run, 3), pause(run, 999)]
    assert len(heard(ear.open(start))) == 4


def test_a_poison_message_becomes_a_dead_letter(
    world: World, bus: Bus, producer: Producer, ear: Ear, run: str
) -> None:
    """Bytes that nobody can read are put aside with their place and the reason, and what follows is
    delivered.
    """
    start = now(bus)
    with bus.reader([DeadLettered.TOPIC], start="end") as letters:
        good = encode(pause(run, 1))
        producer.send_message(Message(good.topic, good.key, b"not framed", good.headers))
        producer.send_message(Message(good.topic, good.key, good.value[:-3], good.headers))
        send(producer, pause(run, 999))
        inbox = ear.open(start)
        assert [one.event for one in heard(inbox)] == [pause(run, 999)]
        assert inbox.dropped == {"refused": 2}
        producer.flush(PATIENCE_S)
        found: list[DeadLettered] = []
        while len(found) < 2:
            for received in letters.poll(10, PATIENCE_S):
                letter = decode(received.value)
                assert isinstance(letter, DeadLettered)
                found.append(letter)
    assert [letter.payload for letter in found] == [b"not framed", good.value[:-3]]
    assert {letter.source_topic for letter in found} == {good.topic}
    assert {letter.consumer for letter in found} == {f"trainer of {run}"}
    assert all(letter.error for letter in found)
    assert found[0].event_id != found[1].event_id


def test_what_was_taken_is_gone(bus: Bus, producer: Producer, ear: Ear, run: str) -> None:
    """`take` gives what is there, or nothing, at once, and each event to one call."""
    inbox = ear.open(now(bus))
    assert inbox.take() == []
    send(producer, pause(run, 999))
    assert len(heard(inbox)) == 1
    assert inbox.take() == []


def test_an_inbox_survives_an_outage(run: str) -> None:
    """Made without a broker it waits for one, and goes on where it was after the next outage.

    Nothing comes twice.
    """
    bus = MemoryBus()
    producer = bus.producer(sender_id="others")
    ear = Ear(bus, producer, run)
    bus.set_online(False)
    inbox = ear.open("beginning")
    assert never(inbox.take)
    bus.set_online(True)
    send(producer, pause(run, 1), pause(run, 999))
    assert len(heard(inbox)) == 2
    bus.set_online(False)
    producer.send(pause(run, 3))
    assert never(inbox.take)
    bus.set_online(True)
    producer.poll()
    until(
        lambda: (came := inbox.take()) and came[0].event == pause(run, 3),
        "the command of the outage",
    )
    ear.close()


def test_a_position_of_another_topic_ends_the_inbox_with_the_reason(bus: Bus, ear: Ear) -> None:
    """A folded position beyond the end is not silently reset: `error` says so."""
    inbox = ear.open({**now(bus), (PauseRequested.TOPIC, 0): 10**9})
    until(lambda: inbox.error is not None, "the reason")
    assert isinstance(inbox.error, CorruptError)
