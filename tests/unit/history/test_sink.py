"""The sink over the bus in memory, into a real chDB."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from esper.clock import SystemClock
from esper.events import codec
from esper.events.codec import Message
from esper.events.records import DeadLettered, SeedTransitioned, TrainingStep
from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.sink import Sink, groups
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Producer, Received
from esper.oona.inbound.count import committed
from tests.unit.history.conftest import NamedBus, example, framed, message, rows
from tests.waiting import PATIENCE_S, until


def fresh(name: str, key: str = "run") -> Message:
    """A new event of a record type."""
    return message(current(BY_NAME[name]), {**example(name), "run_id": key}, key)


def stored(engine: Engine, bus: NamedBus, table: str) -> int:
    """Rows that a raw table has from this bus."""
    return int(
        rows(
            engine,
            f"SELECT count() AS n FROM {table} WHERE startsWith(_topic_id, '{bus.name}-')",  # noqa: S608
        )[0]["n"]
    )


@contextmanager
def sinking(engine: Engine, bus: NamedBus, *, block_messages: int = 1_000) -> Iterator[Sink]:
    """A sink at work in a thread; leaving the block ends it in order."""
    sink = Sink(engine.client, bus, SystemClock(), block_messages=block_messages)
    stop = threading.Event()
    thread = threading.Thread(target=sink.run, args=(stop,))
    thread.start()
    try:
        yield sink
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def caught_up(sink: Sink, bus: MemoryBus) -> bool:
    """Whether everything on the bus is in the tables."""
    return sink.progress.ready and all(
        sink.progress.positions.get(pair, 0) >= bus.stable(pair) for pair in bus.logs
    )


def send(bus: NamedBus, messages: list[Message]) -> None:
    """Put messages on the bus."""
    with bus.producer(sender_id="test") as producer:
        for each in messages:
            producer.send_message(each)


def test_every_committed_message_is_one_row_and_aborted_ones_are_none(
    engine: Engine, bus: NamedBus
) -> None:
    """Transactions leave holes in the offsets: raw rows equal the count of committed messages, an
    aborted transaction leaves nothing.
    """
    journal = bus.journal_producer(run_id="run")
    journal.begin(1)
    for _ in range(3):
        journal.commit([fresh("SeedTransitioned"), fresh("EpochEnded"), fresh("SeedTransitioned")])
    doomed = bus.journal_producer(run_id="other")
    doomed.begin(1)
    doomed._open([fresh("SeedTransitioned", "other")])  # type: ignore[attr-defined]
    bus.journal_producer(run_id="other").begin(1)
    send(bus, [fresh("TrainingStep") for _ in range(50)])
    with sinking(engine, bus) as sink:
        until(lambda: caught_up(sink, bus))
    assert stored(engine, bus, "raw_seed_transitioned") == 6
    assert stored(engine, bus, "raw_epoch_ended") == 3
    assert stored(engine, bus, "raw_training_step") == 50
    assert committed(bus, ["system.events.run", "telemetry.training.step"]) == {
        "system.events.run": 9,
        "telemetry.training.step": 50,
    }


def test_a_second_sink_goes_on_where_the_first_ended(engine: Engine, bus: NamedBus) -> None:
    """What the ledger says is read is not read again, and what came meanwhile is taken.

    The ending says that nothing remained.
    """
    for total in (20, 40):
        send(bus, [fresh("TrainingStep") for _ in range(20)])
        with sinking(engine, bus) as sink:
            until(partial(caught_up, sink, bus))
        assert sink.progress.rows == 20
        assert stored(engine, bus, "raw_training_step") == total
    assert rows(engine, "SELECT remaining FROM endings ORDER BY at DESC LIMIT 1") == [
        {"remaining": 0}
    ]


def test_without_the_ledger_rows_of_a_block_nothing_is_doubled(
    engine: Engine, bus: NamedBus
) -> None:
    """Killed between the tables of a block and the ledger, the next sink reads the block again and
    drops what the tables have.
    """
    send(bus, [fresh("TrainingStep") for _ in range(30)] + [fresh("SeedHealth") for _ in range(30)])
    with sinking(engine, bus) as sink:
        until(lambda: caught_up(sink, bus))
    engine.client.command(f"DELETE FROM ledger WHERE startsWith(topic_id, {bus.name!r})")  # noqa: S608
    send(bus, [fresh("TrainingStep") for _ in range(5)])
    with sinking(engine, bus, block_messages=7) as sink:  # other blocks, so other tokens
        until(lambda: caught_up(sink, bus))
    assert sink.progress.rows == 5
    assert stored(engine, bus, "raw_training_step") == 35
    assert stored(engine, bus, "raw_seed_health") == 30


def test_bad_messages_cost_an_insert_a_block_and_an_answer_for_hundreds_of_letters(
    engine: Engine, bus: NamedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of a block cannot be read or has an id that is none, and 600 have a schema that
    nobody knows: rows and letters are as many as there should be, and the sink is not held up
    by halving for each, nor by waiting for each letter.
    """
    good = fresh("TrainingStep")
    cut = good._replace(value=good.value[:-3])
    strange = good._replace(value=b"\0" + (7_777_777).to_bytes(4, "big") + b"?")
    strayed = message(
        current(BY_NAME["TrainingStep"]), {**example("TrainingStep"), "event_id": "run-1"}
    )
    send(bus, [good, cut, good, good, strayed, good] * 50)
    send(bus, [strange] * 600)
    inserts, waits = list[str](), list[int]()
    insert, waited = engine.client.raw_insert, Sink._sent

    def counted(table: str, **given: object) -> object:
        inserts.append(table)
        return insert(table, **given)

    def told(self: Sink, producer: Producer) -> None:
        waits.append(1)
        waited(self, producer)

    monkeypatch.setattr(engine.client, "raw_insert", counted)
    monkeypatch.setattr(Sink, "_sent", told)
    with sinking(engine, bus, block_messages=2_000) as sink:
        until(lambda: caught_up(sink, bus))
    assert stored(engine, bus, "raw_training_step") == 200
    assert sink.progress.dead_letters == 700
    assert inserts.count("raw_training_step") == 2
    assert len(waits) == 3  # 100 that cannot be read, then 500 and 100 of the others


def test_a_topic_that_was_made_again_is_read_from_its_beginning(
    engine: Engine, bus: NamedBus
) -> None:
    """A topic with the old name and a new id has its own offsets: the old ledger and the old rows
    do not hide its messages.
    """
    again = NamedBus(f"{bus.name} again")
    for each in (bus, again):
        send(each, [fresh("TrainingStep") for _ in range(10)])
        with sinking(engine, each) as sink:
            until(partial(caught_up, sink, each))
        assert stored(engine, each, "raw_training_step") == 10


@pytest.mark.parametrize(
    "damage",
    [
        "longer",
        "shorter",
        "unknown schema",
        "unframed",
        "empty",
        "wrong topic",
        "not a uuid",
        "endless string",
    ],
)
def test_a_poison_message_is_dead_lettered_and_its_neighbours_are_stored(
    engine: Engine, bus: NamedBus, damage: str
) -> None:
    """One bad body in the middle of a block costs itself alone: raw rows plus dead letters equal
    the committed messages.
    """
    wire = current(BY_NAME["TrainingStep"])
    good = fresh("TrainingStep").value
    body = {
        "longer": good + b"\0",
        "shorter": good[:-3],
        "unknown schema": b"\0\0\0\0\x01" + good[5:],
        "unframed": b"hello",
        "empty": b"",
        "wrong topic": fresh("SeedTransitioned").value,
        "not a uuid": framed(wire, {**example("TrainingStep"), "event_id": "nobody"}),
        "endless string": good[:5] + b"\xfe\xff\xff\xff\xff\xff\xff\x7f" + good[6:],
    }[damage]
    topic = TrainingStep.TOPIC
    before = [fresh("TrainingStep") for _ in range(10)]
    after = [fresh("TrainingStep") for _ in range(10)]
    send(bus, [*before, Message(topic, b"run", body, ()), *after])
    with sinking(engine, bus) as sink:
        until(lambda: caught_up(sink, bus) and stored(engine, bus, "raw_dead_lettered") == 1)
    assert stored(engine, bus, "raw_training_step") == 20
    assert sink.progress.dead_letters == 1
    letters = [
        codec.decode(entry.message.value)
        for log in bus.logs.values()
        for entry in log
        if entry.message and entry.message.topic == "dead.letters"
    ]
    [letter] = letters
    assert isinstance(letter, DeadLettered)
    assert (letter.source_topic, letter.source_offset, letter.payload, letter.consumer) == (
        topic,
        10,
        body,
        "history",
    )
    assert letter.error.endswith(".") or ")" in letter.error


def test_the_sink_outlives_a_bus_that_goes_away(engine: Engine, bus: NamedBus) -> None:
    """While the bus is away nothing is lost and nothing raised.

    The sink goes on when it is back, also if it was away at the start.
    """
    bus.set_online(False)
    with sinking(engine, bus) as sink:
        until(lambda: sink.progress.trouble != "")
        assert not sink.progress.ready
        bus.set_online(True)
        send(bus, [fresh("TrainingStep")])
        until(lambda: caught_up(sink, bus))
        bus.set_online(False)
        SystemClock().sleep(0.3)
        bus.set_online(True)
        send(bus, [fresh("TrainingStep")])
        until(lambda: caught_up(sink, bus))
    assert stored(engine, bus, "raw_training_step") == 2


def test_a_block_is_cut_by_partition_record_and_schema_in_offset_order() -> None:
    """Each insert has one partition, one schema id and rising offsets; no message is left out."""
    kinds = [TrainingStep.SCHEMA_ID, SeedTransitioned.SCHEMA_ID, 1]
    block = [
        Received("t", n % 2, n, b"", b"\0" + kinds[n % 3].to_bytes(4, "big"), (), 0)
        for n in range(60)
    ]
    cut = list(groups(block))
    for each in cut:
        assert len({(message.partition, message.value[:5]) for message in each}) == 1
        assert [message.offset for message in each] == sorted(message.offset for message in each)
    assert sorted(message.offset for each in cut for message in each) == list(range(60))
    assert len(cut) == 6
