"""What every implementation of `esper.oona.bus.port` does alike. Kafka is the real broker."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from itertools import count

import pytest
from aiokafka.partitioner import DefaultPartitioner

from esper.clock import SystemClock
from esper.errors import BackpressureError, CorruptError, FencedError, UnavailableError, UsageError
from esper.events.codec import Message
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import MAX_MESSAGE_BYTES, Bus, Producer, Reader, Received
from esper.oona.inbound.count import committed
from tests.contract.oona.worlds import World

PATIENCE_S = 15.0
_runs = (f"contract-run-{number}" for number in count())


@pytest.fixture
def producer(bus: Bus) -> Iterator[Producer]:
    """A producer on it."""
    with bus.producer(sender_id="contract") as made:
        yield made


@pytest.fixture
def run() -> str:
    """A run id that no other test uses."""
    return next(_runs)


def message(
    topic: str, value: str, key: str = "k", headers: tuple[tuple[str, bytes], ...] = ()
) -> Message:
    """A message of plain text."""
    return Message(topic, key.encode(), value.encode(), headers)


def to_end(reader: Reader, ends: Mapping[tuple[str, int], int] | None = None) -> list[Received]:
    """Everything up to the stable end, or to `ends`."""
    ends = ends or reader.stable_end()
    clock = SystemClock()
    deadline = clock.monotonic() + PATIENCE_S
    received: list[Received] = []
    while any(at < ends[pair] for pair, at in reader.position().items()):
        assert clock.monotonic() < deadline, f"stuck at {reader.position()} before {ends}"
        received += reader.poll(100, 0.2)
    return received


def values(bus: Bus, topic: str) -> list[str]:
    """The text of every committed message of a topic with one partition."""
    with bus.reader([topic], start="beginning") as reader:
        return [received.value.decode() for received in to_end(reader)]


def settle(bus: Bus, topic: str, end: int) -> None:
    """Wait until markers of decided transactions are written: `commit` may return before
    they are.
    """
    clock = SystemClock()
    deadline = clock.monotonic() + PATIENCE_S
    with bus.reader([topic], start="beginning") as reader:
        while min(reader.stable_end().values()) < end:
            assert clock.monotonic() < deadline
            clock.sleep(0.02)


def test_messages_of_a_key_keep_their_order(world: World, bus: Bus, producer: Producer) -> None:
    """Messages of one key come out in the order in which they went in, whatever other keys do."""
    topic = world.topic(3)
    for number in range(300):
        producer.send_message(message(topic, str(number), f"key {number % 7}"))
    assert producer.flush(PATIENCE_S) == 0
    with bus.reader([topic], start="beginning") as reader:
        received = to_end(reader)
    for key in range(7):
        mine = [int(one.value) for one in received if one.key == f"key {key}".encode()]
        assert mine == list(range(key, 300, 7))


def test_a_key_is_where_every_other_client_puts_it(
    world: World, bus: Bus, producer: Producer
) -> None:
    """The partition of a key is that of `partition_of` and that of an independent implementation of
    Java's partitioner.
    """
    topic = world.topic(5)
    keys = [f"run-{number}" for number in range(60)] + ["", "é", "seeds/0"]
    for key in keys:
        producer.send_message(message(topic, "x", key))
    assert producer.flush(PATIENCE_S) == 0
    with bus.reader([topic], start="beginning") as reader:
        landed = {(one.key or b"").decode(): one.partition for one in to_end(reader)}
    elsewhere = DefaultPartitioner()
    for key in keys:
        theirs = elsewhere(key.encode(), list(range(5)), list(range(5)))
        assert landed[key] == bus.partition_of(topic, key.encode()) == theirs


def test_journal_and_telemetry_agree_on_partitions(
    world: World, bus: Bus, producer: Producer, run: str
) -> None:
    """The transactional producer puts a key into the same partition as the other one."""
    topic = world.topic(7)
    with bus.journal_producer(run_id=run) as writer:
        writer.begin(10)
        writer.commit([message(topic, "journal", f"k{number}") for number in range(20)])
    for number in range(20):
        producer.send_message(message(topic, "telemetry", f"k{number}"))
    producer.flush(PATIENCE_S)
    with bus.reader([topic], start="beginning") as reader:
        received = to_end(reader, reader.log_end())
    for number in range(20):
        assert len({one.partition for one in received if one.key == f"k{number}".encode()}) == 1
    assert len(received) == 40


def test_headers_and_positions_of_a_message(world: World, bus: Bus, producer: Producer) -> None:
    """Headers come back in order, doubled names too.

    A message knows topic, partition, offset and the broker's time.
    """
    topic = world.topic()
    headers = (("ce_id", b"1"), ("ce_type", b"esper"), ("ce_id", b"2"), ("empty", b""))
    for value in ("first", "second"):
        producer.send_message(message(topic, value, headers=headers))
    producer.flush(PATIENCE_S)
    with bus.reader([topic], start="beginning") as reader:
        first, second = to_end(reader)
    assert first.headers == headers
    assert first.header("ce_id") == b"1"
    assert first.header("none") is None
    assert (first.topic, first.partition, first.offset, second.offset) == (topic, 0, 0, 1)
    assert first.timestamp_us > 1_600_000_000_000_000


def test_headers_can_be_left_out(world: World, bus: Bus, producer: Producer) -> None:
    """A bulk reader gets key and value without headers."""
    topic = world.topic()
    producer.send_message(message(topic, "v", headers=(("a", b"b"),)))
    producer.flush(PATIENCE_S)
    with bus.reader([topic], start="beginning", headers=False) as reader:
        (received,) = to_end(reader)
    assert (received.key, received.value, received.headers) == (b"k", b"v", ())


def test_an_open_transaction_is_not_seen(world: World, bus: Bus, run: str) -> None:
    """Messages of an open transaction are in the log and invisible.

    Committed, all of them are there.
    """
    topic = world.topic()
    writer = world.open(run, [message(topic, "a"), message(topic, "b")])
    with bus.reader([topic], start="beginning") as reader:
        assert reader.poll(10, 0.3) == []
        assert reader.stable_end() == {(topic, 0): 0}
        assert reader.log_end() == {(topic, 0): 2}
    assert world.finish(writer) == 2
    settle(bus, topic, 3)
    assert values(bus, topic) == ["a", "b"]
    writer.close()


def test_an_aborted_transaction_is_never_seen(
    world: World, bus: Bus, producer: Producer, run: str
) -> None:
    """A writer that begins aborts what an older one left open: that stays invisible, and its
    offsets stay used.
    """
    topic = world.topic()
    old = world.open(run, [message(topic, "lost")])
    with bus.journal_producer(run_id=run) as new:
        new.begin(10)
        assert new.commit([message(topic, "kept")]) == 3
    settle(bus, topic, 4)  # the marker is written behind the commit
    producer.send_message(message(topic, "after"))
    producer.flush(PATIENCE_S)
    settle(bus, topic, 5)
    with bus.reader([topic], start="beginning") as reader:
        received = to_end(reader)
    assert [(one.offset, one.value) for one in received] == [(2, b"kept"), (4, b"after")]
    assert committed(bus, [topic]) == {topic: 2}
    old.close()


def test_offsets_count_transaction_markers(world: World, bus: Bus, run: str) -> None:
    """A transaction takes one more offset than it has messages.

    Position passes it and meets the stable end.
    """
    topic = world.topic()
    with bus.journal_producer(run_id=run) as writer:
        writer.begin(10)
        assert writer.commit([message(topic, "a"), message(topic, "b")]) == 2
        assert writer.commit([message(topic, "c")]) == 4
    settle(bus, topic, 5)
    with bus.reader([topic], start="beginning") as reader:
        assert [one.offset for one in to_end(reader)] == [0, 1, 3]
        assert reader.position() == reader.stable_end() == reader.log_end() == {(topic, 0): 5}
    assert committed(bus, [topic]) == {topic: 3}


def test_an_open_transaction_holds_back_what_others_committed(
    world: World, bus: Bus, run: str
) -> None:
    """Committed messages behind an open transaction of another run stay invisible until that one is
    decided, though `commit` returned.
    """
    topic = world.topic()
    other = world.open(f"{run}-other", [message(topic, "open", "other")])
    with bus.journal_producer(run_id=run) as writer:
        writer.begin(10)
        assert writer.commit([message(topic, "mine")]) == 2
    assert values(bus, topic) == []
    world.finish(other)
    settle(bus, topic, 4)
    assert values(bus, topic) == ["open", "mine"]
    other.close()


def test_a_commit_is_whole_over_several_topics(world: World, bus: Bus, run: str) -> None:
    """One commit may span topics: all of it is there or none."""
    first, second = world.topic(), world.topic()
    writer = world.open(run, [message(first, "1"), message(second, "2")])
    assert (values(bus, first), values(bus, second)) == ([], [])
    world.finish(writer)
    settle(bus, first, 2)
    settle(bus, second, 2)
    assert (values(bus, first), values(bus, second)) == (["1"], ["2"])
    writer.close()


def test_the_newer_writer_fences_the_older(world: World, bus: Bus, run: str) -> None:
    """Once another writer of the run has begun, the older one's commit raises FencedError and
    leaves nothing behind.
    """
    topic = world.topic()
    with bus.journal_producer(run_id=run) as old, bus.journal_producer(run_id=run) as new:
        old.begin(10)
        old.commit([message(topic, "old 1")])
        new.begin(10)
        with pytest.raises(FencedError, match=run):
            old.commit([message(topic, "old 2")])
        new.commit([message(topic, "new 1")])
        with pytest.raises(FencedError):
            old.commit([message(topic, "old 3")])
    with bus.reader([topic], start="beginning") as reader:
        clock = SystemClock()
        deadline = clock.monotonic() + PATIENCE_S
        while reader.stable_end() != reader.log_end():
            assert clock.monotonic() < deadline
            clock.sleep(0.05)
    assert values(bus, topic) == ["old 1", "new 1"]


def test_writers_of_different_runs_do_not_disturb_each_other(
    world: World, bus: Bus, run: str
) -> None:
    """Fencing is by run."""
    topic = world.topic()
    with bus.journal_producer(run_id=f"{run}-a") as a, bus.journal_producer(run_id=f"{run}-b") as b:
        a.begin(10)
        b.begin(10)
        a.commit([message(topic, "a")])
        b.commit([message(topic, "b")])
        a.commit([message(topic, "a again")])
    settle(bus, topic, 6)
    assert values(bus, topic) == ["a", "b", "a again"]


def test_a_transaction_that_takes_too_long_looks_like_fencing(
    world: World, bus: Bus, run: str
) -> None:
    """A writer that stalls for more than 5 s inside a transaction hears FencedError though nobody
    else writes: only the log can tell.
    """
    topic = world.topic()
    slow = world.open(run, [message(topic, "slow")])
    world.sleep(6.5)
    with pytest.raises(FencedError):
        world.finish(slow)
    slow.close()
    assert values(bus, topic) == []
    with bus.journal_producer(run_id=run) as again:
        again.begin(10)
        again.commit([message(topic, "again")])
    settle(bus, topic, 4)
    assert values(bus, topic) == ["again"]


def test_a_reader_seeks(world: World, bus: Bus, producer: Producer) -> None:
    """After `seek`, reading goes on at that offset, forwards and backwards, with nothing left over
    from before.
    """
    topic = world.topic()
    for number in range(50):
        producer.send_message(message(topic, str(number)))
    producer.flush(PATIENCE_S)
    with bus.reader([topic], start="beginning") as reader:
        first: list[Received] = []
        while not first:
            first = reader.poll(1, 1)
        assert [one.offset for one in first] == [0]
        reader.seek(topic, 0, 40)
        assert reader.position() == {(topic, 0): 40}
        assert [one.offset for one in to_end(reader)] == list(range(40, 50))
        reader.seek(topic, 0, 3)
        assert [one.offset for one in to_end(reader)] == list(range(3, 50))


def test_a_reader_at_the_end_sees_what_comes_after_it_was_made(
    world: World, bus: Bus, producer: Producer
) -> None:
    """`start="end"` is settled when the reader is made, not at its first poll."""
    topic = world.topic()
    producer.send_message(message(topic, "before"))
    producer.flush(PATIENCE_S)
    with bus.reader([topic], start="end") as reader:
        producer.send_message(message(topic, "after"))
        producer.flush(PATIENCE_S)
        assert [one.value for one in to_end(reader)] == [b"after"]


def test_a_reader_starts_where_it_is_told(world: World, bus: Bus, producer: Producer) -> None:
    """A mapping gives positions; a partition that it leaves out is read from its beginning."""
    first, second = world.topic(), world.topic()
    for topic in (first, second):
        for number in range(4):
            producer.send_message(message(topic, str(number)))
    producer.flush(PATIENCE_S)
    with bus.reader([first, second], start={(first, 0): 3}) as reader:
        assert reader.position() == {(first, 0): 3, (second, 0): 0}
        received = to_end(reader)
    assert [one.offset for one in received if one.topic == first] == [3]
    assert [one.offset for one in received if one.topic == second] == [0, 1, 2, 3]


def test_a_reader_of_some_partitions_sees_those_alone(
    world: World, bus: Bus, producer: Producer
) -> None:
    """`partitions` restricts a reader; what it reads is all that those partitions hold."""
    topic = world.topic(4)
    keys = [f"k{number}" for number in range(40)]
    for key in keys:
        producer.send_message(message(topic, key, key))
    producer.flush(PATIENCE_S)
    with bus.reader([topic], start="beginning", partitions=[1, 3]) as reader:
        assert reader.position().keys() == {(topic, 1), (topic, 3)}
        received = {one.value.decode() for one in to_end(reader)}
    assert received == {key for key in keys if bus.partition_of(topic, key.encode()) in {1, 3}}


def test_a_position_after_the_end_is_refused(world: World, bus: Bus, producer: Producer) -> None:
    """A position that the topic has never reached belongs to another topic of that name:
    CorruptError, and no silent reset.
    """
    topic = world.topic()
    producer.send_message(message(topic, "x"))
    producer.flush(PATIENCE_S)
    with (
        bus.reader([topic], start={(topic, 0): 7}) as reader,
        pytest.raises(CorruptError, match="before offset 7"),
    ):
        to_end(reader, {(topic, 0): 8})


def test_a_poll_returns_as_soon_as_there_is_something(
    world: World, bus: Bus, producer: Producer
) -> None:
    """One message ends a wait for up to a thousand; more than asked for is never given."""
    topic = world.topic()
    with bus.reader([topic], start="end") as reader:
        while reader.poll(1000, 0.2):
            pass
        for value in ("a", "b"):
            producer.send_message(message(topic, value))
        producer.flush(PATIENCE_S)
        received: list[Received] = []
        while len(received) < 2:
            received += reader.poll(1000, 1_000_000.0)  # who waits for a thousand never comes back
        reader.seek(topic, 0, 0)
        some: list[Received] = []
        while not some:
            some = reader.poll(1, 1.0)
        assert len(some) == 1


def test_a_producer_counts_what_was_delivered(world: World, producer: Producer) -> None:
    """After a flush, each message is counted once, under its topic."""
    first, second = world.topic(), world.topic()
    for number in range(10):
        producer.send_message(message(first, str(number)))
    producer.send_message(message(second, "x"))
    assert producer.flush(PATIENCE_S) == 0
    assert producer.delivered() == {first: 10, second: 1}
    assert producer.failed() == {}


def test_a_full_queue_pushes_back_without_waiting(world: World) -> None:
    """Without a broker the queue takes as many messages as it was given room for, then raises at
    once; closing counts them as failed.
    """
    bus = world.without_broker()
    producer = bus.producer(sender_id="contract", queue_messages=20)
    for number in range(20):
        producer.send_message(message("contract", str(number)))
    with pytest.raises(BackpressureError):
        producer.send_message(message("contract", "one too many"))
    producer.poll()
    assert producer.flush(0.2) == 20
    producer.close()
    assert producer.failed() == {"contract": 20}
    assert producer.delivered() == {}


def test_without_a_broker_everything_that_needs_one_says_so(world: World, run: str) -> None:
    """`begin`, readers and topic ids raise UnavailableError within their time.

    `available` is false.
    """
    bus = world.without_broker()
    assert not bus.available(0.3)
    with bus.journal_producer(run_id=run) as writer, pytest.raises(UnavailableError):
        writer.begin(0.5)
    with pytest.raises(UnavailableError):
        bus.reader(["contract"], start="beginning")


def test_with_a_broker_it_is_available(bus: Bus) -> None:
    """`available` is true where the broker answers."""
    assert bus.available(10)


def test_an_unknown_topic_is_refused(bus: Bus) -> None:
    """A reader of a topic that does not exist is refused by name, and the topic is not made by
    asking.
    """
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"contract\.unknown"):
            bus.reader(["contract.unknown"], start="beginning")
    assert "contract.unknown" not in bus.topic_ids()


def test_topics_have_ids(world: World, bus: Bus) -> None:
    """Each topic has an id of its own, the same at each asking."""
    first, second = world.topic(), world.topic()
    ids = bus.topic_ids()
    assert ids[first] != ids[second]
    assert bus.topic_ids()[first] == ids[first]


def test_a_large_message_passes_and_a_larger_one_is_refused(
    world: World, bus: Bus, producer: Producer
) -> None:
    """A message just below the limit arrives.

    One above it is refused where it is sent, by name and size.
    """
    topic = world.topic()
    large = Message(topic, b"k", b"x" * (MAX_MESSAGE_BYTES - 1024), ())
    producer.send_message(large)
    assert producer.flush(PATIENCE_S) == 0
    with bus.reader([topic], start="beginning") as reader:
        assert [len(one.value) for one in to_end(reader)] == [len(large.value)]
    with pytest.raises(UsageError, match=topic):
        producer.send_message(Message(topic, b"k", b"x" * (MAX_MESSAGE_BYTES + 1), ()))


def test_a_client_is_freed_with_its_bus() -> None:
    """No cycle keeps a client that nobody uses: each has threads and one of the process's 1,024
    places for what a thread has of its own.
    """
    gc.disable()
    try:
        bus = KafkaBus("127.0.0.1:1", patience=0.1)
        assert not bus.available(0.1)
        door = weakref.ref(bus._door)
        del bus
        assert door() is None
    finally:
        gc.enable()
