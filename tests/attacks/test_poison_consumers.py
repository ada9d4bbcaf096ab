"""Attacks on the consumers that run in threads, and what keeps a new one from forgetting: a message
that fails anywhere is one dead letter.

On the version before only what could not be decoded was put aside: any other exception ended the
thread or the process, and came back with it.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.errors import UnavailableError
from esper.events import Event, Message, Origin, decode, encode
from esper.events.records import (
    DeadLettered,
    FieldReport,
    FieldReportAnswered,
    PauseRequested,
    ReportedLayer,
)
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Received
from esper.oona.inbound.dead_letters import TOPIC, DeadLetters
from esper.oona.inbound.inbox import Inbox
from esper.oona.inbound.intake import Intake, opened
from esper.tezzeret.service import Foundry
from esper.tolaria.control.run_ledger import RunLedger
from esper.urza.memory import MemoryStore
from esper.urza.shelf import KernelShelf, follow_outcomes
from tests.forging import new_id
from tests.stackfixtures import eventually
from tests.unit.nissa.journal import Run
from tests.waiting import until

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
THROUGH_INTAKE = {
    "esper/history/sink.py",
    "esper/oona/inbound/inbox.py",
    "esper/tezzeret/service.py",
    "esper/tolaria/control/run_ledger.py",
    "esper/urza/shelf.py",
}
"""Every module that follows topics in a thread."""
READ_ONCE = {
    "esper/bench/whole.py": "a measurement reads what it has written",
    "esper/cli/installation/dead_letters.py": "the command shows letters, and ends",
    "esper/history/queries.py": "asks where the topics end, and takes no message",
    "esper/oona/durable/chains.py": "the proof names the first record that does not fit",
    "esper/oona/inbound/count.py": "counts messages, and opens none",
    "esper/oona/durable/journal_reader.py": (
        "one reading up to the end, whose callers name what they cannot read"
    ),
    "esper/tolaria/run/wiring.py": "asks where the topics end, and takes no message",
}
"""Modules that read a topic once, by a person's or a run's wish.

A message that they cannot read is their answer, and stops nobody else.
"""


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of these folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def calls(tree: ast.Module, method: str) -> bool:
    """Whether a module calls a method of this name on something."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        for node in ast.walk(tree)
    )


def test_every_consumer_takes_its_messages_through_the_intake() -> None:
    """Who opens a reader either has an intake, or reads once and is named here with the reason.

    A new consumer makes this test say so.
    """
    readers = {
        name
        for name, tree in modules("esper", "processors")
        if calls(tree, "reader") and name != "esper/journal/reading.py"
    }
    readers -= {
        "esper/events/compatibility.py"
    }  # fastavro's reader of a file, as in esper/journal/reading.py
    assert readers == THROUGH_INTAKE | READ_ONCE.keys()
    for name, tree in modules("esper"):
        if name in THROUGH_INTAKE:
            assert any(
                isinstance(node, ast.ImportFrom) and node.module == "esper.oona.inbound.intake"
                for node in ast.walk(tree)
            ), name


def test_every_processor_takes_its_messages_through_the_consumers() -> None:
    """Agents, tables and clients of Kafka are made in `esper_processors.consumers`, `streams` and
    `cluster` alone.
    """
    for name, tree in modules("processors"):
        own = {
            "processors/esper_processors/consumers.py",
            "processors/esper_processors/streams.py",
            "processors/esper_processors/cluster.py",
        }
        if name in own:
            continue
        for node in ast.walk(tree):
            made = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert made not in {
                "app.agent",
                "app.stream",
                "app.Table",
                "faust.Table",
                "streams.AcknowledgedTable",
            }, f"{name}: {made}"
            assert "AIOKafkaConsumer" not in made, name


class Faults:
    """A consumer's act that fails in every way."""

    KINDS: tuple[Exception, ...] = (
        ValueError("x"),
        KeyError("x"),
        RecursionError(),
        MemoryError(),
        AssertionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\udc80"),
        OverflowError("\ud800"),
        ZeroDivisionError("y" * 100_000),
    )


@pytest.mark.parametrize("fault", Faults.KINDS, ids=lambda fault: type(fault).__name__)
def test_any_exception_is_one_letter(fault: Exception) -> None:
    """Whatever is raised, also with a text that no message can hold, there is one letter, a count,
    and the next message is taken.
    """
    bus = MemoryBus()
    event = Run("any").started()
    received = Received(event.TOPIC, 0, 7, b"any", encode(event).value, (), 0)

    def fail(_: Event) -> None:
        raise fault

    with bus.producer(sender_id="t") as producer:
        intake = Intake.of(DeadLetters(producer, "t", CLOCK))
        assert intake.take(received, fail) is None
        assert intake.take(received, lambda taken: taken.run_id) == "any"
        producer.flush(5)
    (letter,) = letters(bus)
    assert (letter.payload, letter.source_offset, letter.consumer) == (received.value, 7, "t")
    assert 0 < len(letter.error) <= 2_000
    assert intake.refusals.counts == {(event.TOPIC, type(fault).__name__): 1}


def test_what_is_away_is_no_poison() -> None:
    """A broker or a disk that is away goes to the caller, who tries again; no letter is written."""
    bus = MemoryBus()
    event = Run("away").started()
    received = Received(event.TOPIC, 0, 7, b"away", encode(event).value, (), 0)

    def fail(_: Event) -> None:
        raise UnavailableError("away")

    with bus.producer(sender_id="t") as producer:
        intake = Intake.of(DeadLetters(producer, "t", CLOCK))
        with pytest.raises(UnavailableError):
            intake.take(received, fail)
    assert letters(bus) == []


def test_there_are_no_letters_about_letters() -> None:
    """A bad message on `dead.letters` is counted, and makes no letter that might be
    refused again.
    """
    bus = MemoryBus()
    with bus.producer(sender_id="t") as producer:
        intake = Intake.of(DeadLetters(producer, "t", CLOCK))
        assert (
            intake.take(Received(TOPIC, 0, 1, None, b"nonsense", (), 0), lambda event: event)
            is None
        )
    assert letters(bus) == []
    assert intake.refusals.total == 1


@pytest.mark.parametrize("bad", ["empty", "topic", "key", "no key", "id"])
def test_a_message_says_the_same_in_topic_key_and_body(bad: str) -> None:
    """An empty message, a record on another's topic, one under another key, and one whose id no
    answer could name are refused by each consumer.
    """
    event = Run("same").started()
    good = Received(event.TOPIC, 0, 7, b"same", encode(event).value, (), 0)
    assert opened(good) == event
    message = {
        "empty": good._replace(value=b""),
        "topic": good._replace(topic="telemetry.resources"),
        "key": good._replace(key=b"another"),
        "no key": good._replace(key=None),
        "id": good._replace(value=encode(replace(event, event_id="sequence in 16")).value),
    }[bad]
    bus = MemoryBus()
    with bus.producer(sender_id="t") as producer:
        intake = Intake.of(DeadLetters(producer, "t", CLOCK))
        assert intake.take(message, lambda taken: taken) is None
        producer.flush(5)
    assert len(letters(bus)) == 1


def letters(bus: MemoryBus) -> list[DeadLettered]:
    """Every letter on the bus, each once."""
    with bus.reader([TOPIC], start="beginning") as reader:
        found = [decode(received.value) for received in reader.poll(10_000, 0.1)]
    return list(
        {letter.event_id: letter for letter in found if isinstance(letter, DeadLettered)}.values()
    )


def send(bus: MemoryBus, *messages: Message | Event) -> None:
    """Deliver."""
    with bus.producer(sender_id="test") as producer:
        for message in messages:
            producer.send_message(encode(message) if isinstance(message, Event) else message)
        assert producer.flush(5) == 0


def report(run_id: str, layers: tuple[ReportedLayer, ...]) -> FieldReport:
    """A field report."""
    origin = Origin(run_id, "tamiyo", "0" * 32, CLOCK)
    return FieldReport(**origin.envelope("report"), run_seed=0, layers=layers, families=())


@contextmanager
def threaded(run: Callable[[], None], stop: Callable[[], None]) -> Iterator[threading.Thread]:
    """A consumer in a thread that is still alive at the end."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
        assert thread.is_alive()
    finally:
        stop()
        thread.join(20)


def test_a_report_that_nobody_can_answer_stops_no_foundry() -> None:
    """A report that makes the foundry fail is a letter and gets an answer without kernels, so its
    run goes on; the next is answered too.
    """
    bus = MemoryBus()

    def innovate(asked: FieldReport) -> tuple[()]:
        if asked.run_id == "bad":
            raise ZeroDivisionError("a fault of ours")
        return ()

    def compiler() -> None:
        raise AssertionError

    foundry = Foundry(
        bus=bus,
        store=MemoryStore(),
        clock=CLOCK,
        compiler=compiler,  # type: ignore[arg-type]
        innovate=innovate,
    )
    layer = ReportedLayer(
        name="l", kind="Linear", in_features=9, out_features=3, chunks=(3,), parameter_budget=1000
    )
    send(bus, report("bad", (layer,)), report("good", (layer,)))
    with threaded(foundry.run, foundry.stop.set):
        assert eventually(lambda: foundry.status.answered == 2, 20)
    with bus.reader([FieldReportAnswered.TOPIC], start="beginning") as reader:
        events = [decode(received.value) for received in reader.poll(100, 0.1)]
    assert {event.run_id for event in events if isinstance(event, FieldReportAnswered)} == {
        "bad",
        "good",
    }
    assert [letter.error for letter in letters(bus)] == ["a fault of ours"]


def test_tolarias_ledger_puts_aside_what_it_cannot_take() -> None:
    """Journal and requests: bytes, other records and wrong keys are letters of Tolaria, and the
    runs around them are known.
    """
    bus = MemoryBus()
    going = Run("going", CLOCK)
    started = encode(going.started())
    stray = Message(started.topic, b"x", encode(report("x", ())).value, ())
    bad = [
        Message(started.topic, b"going", b"junk", ()),
        stray,
        Message(PauseRequested.TOPIC, b"going", b"", ()),
        started._replace(key=b"other"),
    ]
    send(bus, *bad, started, going.epoch_ended(validation_accuracy=0.4))
    with bus.producer(sender_id="tolaria") as producer:
        ledger = RunLedger(bus, Intake.of(DeadLetters(producer, "tolaria", CLOCK)))
        ledger.start()
        assert eventually(lambda: ledger.caught_up, 10)
        ledger.stop()
        producer.flush(5)
    run = ledger.run_of("going")
    assert run is not None
    assert run.epoch == 1
    assert len(letters(bus)) == len(bad)


def test_outcomes_that_cannot_be_read_stop_no_catalogue() -> None:
    """Urza's reader of outcomes goes on behind bad ones, and knows the reward of the good one."""
    bus = MemoryBus()
    good = Run("r").outcome("d1")
    cut = encode(good).value[:-1]
    send(
        bus,
        Message(good.TOPIC, b"r", b"", ()),
        Message(good.TOPIC, b"r", cut, ()),
        replace(good, run_id="s"),
        Run("t").outcome("d2"),
    )
    shelf, stop = KernelShelf(), threading.Event()
    with bus.producer(sender_id="t") as producer:
        refusals = Intake.of(DeadLetters(producer, "t", CLOCK)).refusals
        with threaded(lambda: follow_outcomes(shelf, bus, CLOCK, stop, refusals), stop.set):
            assert eventually(lambda: bool(shelf.performances.rewards), 10)
            assert eventually(lambda: len(letters(bus)) == 2, 10)
    assert refusals.total == 2


def test_the_trainers_inbox_goes_on_behind_whatever_comes() -> None:
    """Empty, cut, of another topic, of another key: letters, and the command behind them is
    delivered.
    """
    bus = MemoryBus()
    origin = Origin("r", "t", "0" * 32, CLOCK)
    good = PauseRequested(**origin.envelope("pause"), reason="x", expires_at=CLOCK.now_us() + 10**9)
    message = encode(good)
    other = encode(replace(good, run_id="another", event_id=new_id()))
    bad = [
        message._replace(value=b""),
        message._replace(value=message.value[:-1]),
        message._replace(value=other.value),
    ]
    send(bus, *bad, good)
    with bus.producer(sender_id="trainer") as producer:
        inbox = Inbox(
            bus,
            "r",
            start="beginning",
            clock=CLOCK,
            dead_letters=DeadLetters(producer, "trainer", CLOCK),
        )
        inbox.start()
        until(lambda: inbox.dropped["refused"] == len(bad), "the bad ones")
        until(
            lambda: (came := inbox.take()) and came[0].event == good,
            "the command behind the bad ones",
        )
        assert inbox.dropped == {"refused": len(bad)}
        inbox.stop()
        producer.flush(5)
    assert len(letters(bus)) == len(bad)
