"""The service in one process, on the in-memory bus: killed at every moment, without room, without a
broker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pytest

from esper.clock import SystemClock
from esper.errors import StorageFullError
from esper.events import Event, Message, Origin, decode
from esper.events.records import (
    BlueprintFailed,
    BlueprintProposed,
    CompilationFailed,
    CompilationStarted,
    FieldReport,
    FieldReportAnswered,
    KernelPublished,
    KernelRejected,
    ReportedLayer,
)
from esper.karn import BlueprintIR, Node, innovate
from esper.karn.operators import Linear, Scale
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Producer
from esper.tezzeret.compilation import Compiler
from esper.tezzeret.compile import CONFIGURATIONS, compile_kernel
from esper.tezzeret.service import Foundry
from esper.urza.artefact import fetch
from esper.urza.memory import MemoryStore
from esper.urza.store import Store

CLOCK = SystemClock()
E = TypeVar("E", bound=Event)
EAGER: Compiler = partial(compile_kernel, configurations=CONFIGURATIONS[1:])
TOPICS = (
    "innovation.blueprints",
    "compilation.attempts",
    "compilation.kernels",
    "validation.kernels",
    "dead.letters",
)


def report(run_id: str = "r") -> FieldReport:
    """A report that gets three kernels."""
    layer = ReportedLayer(
        name="l", kind="Linear", in_features=9, out_features=3, chunks=(3,), parameter_budget=1000
    )
    return FieldReport(
        **Origin(run_id, "tamiyo", "0" * 32, CLOCK).envelope("report"),
        run_seed=0,
        layers=(layer,),
        families=("linear", "mlp", "gate"),
    )


def send(bus: MemoryBus, *events: Event) -> None:
    """Put events on the bus."""
    with bus.producer(sender_id="test") as producer:
        for event in events:
            producer.send(event)
        assert producer.flush(5) == 0


def everything(bus: MemoryBus) -> list[Event]:
    """All that was ever said, in no order across topics."""
    with bus.reader(TOPICS, start="beginning") as reader:
        ends, found = reader.stable_end(), []
        while reader.position() != ends:
            found += [decode(received.value) for received in reader.poll(1000, 0.1)]
        return found


def said(bus: MemoryBus, kind: type[E]) -> list[E]:
    """The events of one kind."""
    return [event for event in everything(bus) if isinstance(event, kind)]


@contextmanager
def running(foundry: Foundry) -> Iterator[Foundry]:
    """The service in a thread."""
    thread = threading.Thread(target=foundry.run)
    thread.start()
    try:
        yield foundry
    finally:
        foundry.stop.set()
        thread.join(20)
    assert not thread.is_alive()


def wait(holds: Callable[[], bool]) -> None:
    """Until something holds."""
    ends = CLOCK.monotonic() + 20
    while not holds():
        assert CLOCK.monotonic() < ends
        CLOCK.sleep(0.01)


def foundry_of(
    bus: MemoryBus,
    store: Store,
    *,
    innovate: Callable[[FieldReport], tuple[BlueprintIR, ...]] = innovate,
) -> Foundry:
    """A foundry that compiles eagerly: export is the same and slower."""
    return Foundry(bus=bus, store=store, clock=CLOCK, compiler=lambda: EAGER, innovate=innovate)


def answers(bus: MemoryBus, foundry: Foundry, count: int = 1) -> list[FieldReportAnswered]:
    """Run the foundry until it has answered `count` reports."""
    with running(foundry):
        wait(lambda: foundry.status.answered == count and foundry.status.waiting == 0)
    return said(bus, FieldReportAnswered)


class Killed(BaseException):
    """The process is gone."""


class _MortalProducer(Producer):
    """Delegates, and dies before or after its n-th act."""

    def __init__(self, producer: Producer, act: Callable[[], None]) -> None:
        self._producer = producer
        self._act = act

    def send_message(self, message: Message) -> None:
        self._producer.send_message(message)
        self._act()

    def poll(self) -> None:
        self._producer.poll()

    def flush(self, timeout: float) -> int:
        return self._producer.flush(timeout)

    def delivered(self) -> dict[str, int]:
        return self._producer.delivered()

    def failed(self) -> dict[str, int]:
        return self._producer.failed()

    def close(self) -> None:
        self._producer.close()


@dataclass
class _Fate:
    """Kills after so many acts; counts them."""

    death: int
    acts: int = 0

    def act(self) -> None:
        self.acts += 1
        if self.acts == self.death:
            raise Killed


class _MortalBus(MemoryBus):
    """Every event sent is an act."""

    fate = _Fate(0)

    def producer(self, *, sender_id: str, queue_messages: int = 100_000) -> Producer:
        return _MortalProducer(
            super().producer(sender_id=sender_id, queue_messages=queue_messages), self.fate.act
        )


class _MortalStore(MemoryStore):
    """Every object stored is an act."""

    fate = _Fate(0)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        stored = super().put_if_absent(key, content)
        self.fate.act()
        return stored


def _live(bus: _MortalBus, store: _MortalStore, fate: _Fate) -> bool:
    """Run a foundry until it dies or has answered; whether it lived."""
    bus.fate = store.fate = fate
    foundry = foundry_of(bus, store)

    def stop() -> None:
        wait(lambda: foundry.status.answered == 1 or fate.acts == fate.death)
        foundry.stop.set()

    end = threading.Thread(target=stop)
    end.start()
    try:
        foundry.run()
    except Killed:
        return False
    finally:
        end.join()
    return True


def _assert_answered_well(bus: MemoryBus, store: Store, early: set[str]) -> None:
    """One answer; one event id a subject; three intact kernels; those known `early`
    announced once.
    """
    (answered,) = {event.event_id: event for event in said(bus, FieldReportAnswered)}.values()
    entries = {event.kernel_id: event for event in said(bus, KernelPublished)}
    assert answered.failed == ()
    assert set(answered.kernels) == set(entries)
    for entry in entries.values():
        fetch(store, kernel_id=entry.kernel_id, address=entry.address, sha256=entry.sha256)
    blueprints = {ir.blueprint_id for ir in innovate(report())}
    for ids in (
        {(event.event_id, event.blueprint_id) for event in said(bus, BlueprintProposed)},
        {(event.event_id, event.blueprint_id) for event in said(bus, CompilationStarted)},
        {(event.event_id, event.blueprint_id) for event in entries.values()},
    ):
        assert {blueprint for _, blueprint in ids} == blueprints
        assert len(ids) == 3
    announced = [event.kernel_id for event in said(bus, KernelPublished)]
    assert all(announced.count(kernel) == 1 for kernel in early)


def test_killed_after_any_of_its_acts_the_answer_is_completed_once() -> None:
    """Death after each single event sent and each object stored: the next foundry says what is
    missing, and all is well.
    """
    death, lived = 0, False
    while not lived:
        death += 1
        bus, store = _MortalBus(), _MortalStore()
        send(bus, report())
        lived = _live(bus, store, _Fate(death))
        early = {event.kernel_id for event in said(bus, KernelPublished)}
        assert _live(bus, store, _Fate(-1))
        _assert_answered_well(bus, store, early)
    assert (
        death == 1 + 3 + 3 * 5 + 1
    )  # three proposals, five acts for each kernel, the answer, and then nothing is left to die of


def test_a_report_is_answered_once_however_often_it_comes() -> None:
    """The same report again, before and after the answer, and a restart: one answer."""
    bus, store = MemoryBus(), MemoryStore()
    send(bus, report(), report())
    answers(bus, foundry_of(bus, store))
    send(bus, report())
    assert len(answers(bus, foundry_of(bus, store))) == 1


def test_a_blueprint_that_cannot_be_built_fails_alone() -> None:
    """Each configuration's rejection is an event, the blueprint is told FAILED, and the answer
    names it beside the kernels.

    A foundry that is killed after that and starts again does not try once more.
    """
    nodes = (Node("scale1", Scale(3e38)), Node("linear1", Linear(3), ("scale1",)))
    bad = BlueprintIR("bad", 9, 3, "LAYER_INPUT", "LERP", 1.0, 0, nodes)
    bus, store = MemoryBus(), MemoryStore()
    send(bus, report())
    (answered,) = answers(
        bus, foundry_of(bus, store, innovate=lambda asked: (bad, *innovate(asked)))
    )
    assert answered.failed == (bad.blueprint_id,)
    assert len(answered.kernels) == 3
    (failed,) = said(bus, BlueprintFailed)
    assert (failed.blueprint_id, failed.attempts) == (bad.blueprint_id, 1)
    assert "finite (output for ordinary inputs is not finite" in failed.error
    assert [event.blueprint_id for event in said(bus, CompilationFailed)] == [bad.blueprint_id]
    assert [event.blueprint_id for event in said(bus, KernelRejected)] == [bad.blueprint_id]


class _FullStore(MemoryStore):
    """Without room until told otherwise."""

    full = True

    def put_if_absent(self, key: str, content: bytes) -> bool:
        if self.full:
            raise StorageFullError(
                "The object store is full; free some room and try again: nothing was stored."
            )
        return super().put_if_absent(key, content)


def test_without_room_the_answer_waits_until_there_is_some() -> None:
    """The health says why.

    Once there is room the report is answered, and no kernel was announced before it was stored.
    """
    bus, store = MemoryBus(), _FullStore()
    send(bus, report())
    foundry = foundry_of(bus, store)
    with running(foundry):
        wait(lambda: "full" in foundry.status.problem)
        assert said(bus, KernelPublished) == []
        store.full = False
        wait(lambda: foundry.status.answered == 1)
        wait(lambda: foundry.status.ready)
    assert len(said(bus, FieldReportAnswered)[0].kernels) == 3


def test_a_broker_that_goes_away_delays_the_answer_only() -> None:
    """Without a broker at the start, and again in between: the service comes back by itself."""
    bus, store = MemoryBus(), MemoryStore()
    send(bus, report("first"))
    bus.set_online(False)
    foundry = foundry_of(bus, store)
    with running(foundry):
        wait(lambda: foundry.status.problem != "" and not foundry.status.ready)
        bus.set_online(True)
        wait(lambda: foundry.status.answered == 1)
        bus.set_online(False)
        CLOCK.sleep(0.5)
        bus.set_online(True)
        send(bus, report("second"))
        wait(lambda: foundry.status.answered == 2)
    assert sorted(event.run_id for event in said(bus, FieldReportAnswered)) == ["first", "second"]


@pytest.mark.parametrize("value", [b"", b"\x00\x00\x00\x00\x01garbage"])
def test_poison_is_dead_lettered(value: bytes) -> None:
    """Unframed and unknown messages go to dead.letters, and what follows is answered."""
    bus, store = MemoryBus(), MemoryStore()
    with bus.producer(sender_id="test") as producer:
        producer.send_message(Message("compilation.kernels", b"k", value, ()))
        producer.flush(5)
    send(bus, report())
    foundry = foundry_of(bus, store)
    with running(foundry):
        wait(lambda: foundry.status.answered == 1)
    assert foundry.status.dead_lettered == 1
