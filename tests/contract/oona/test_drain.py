"""The drain: everything in the outbox gets into the journal once, in order, or stays in the outbox.

On the real broker and in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.errors import FencedError, UnavailableError
from esper.events.codec import Message
from esper.oona.bus.memory import MemoryBus, MemoryJournalProducer
from esper.oona.bus.port import Bus, JournalProducer
from esper.oona.durable.drain import Drain, batches
from esper.oona.durable.frames import event_id_of
from esper.oona.durable.journal_reader import read
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.start import start
from tests.contract.oona.worlds import World
from tests.unit.oona.samples import frame

PATIENCE_S = 15.0
_numbers = count()


@pytest.fixture
def run() -> str:
    """A run id that no other test uses."""
    return f"drain-{next(_numbers)}"


@pytest.fixture
def outbox(tmp_path: Path, run: str, world: World) -> Iterator[Outbox]:
    """The run's outbox."""
    made = Outbox.open(tmp_path / run / "outbox", clock=world.clock)
    yield made
    made.close()


@pytest.fixture
def drain(outbox: Outbox, world: World) -> Iterator[Drain]:
    """A drain of it, running."""
    made = Drain(outbox, world.bus, clock=world.clock)
    made.start()
    yield made
    made.stop()


def append(outbox: Outbox, *sizes: int, writer: str = "trainer") -> list[str]:
    """Append frames of these sizes; gives the event ids."""
    ids: list[str] = []
    for size in sizes:
        one = frame(outbox.run_id, outbox.next_sequence, size, writer=writer)
        outbox.append(one)
        ids += [event_id_of(event.headers) for event in one.events]
    return ids


def journal(bus: Bus, run: str) -> list[str]:
    """The event ids of the run's journal, in order."""
    return [event_id_of(received.headers) for received in read(bus, run, clock=SystemClock())]


def eventually(claim: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    clock = SystemClock()
    deadline = clock.monotonic() + PATIENCE_S
    while not claim() and clock.monotonic() < deadline:
        clock.sleep(0.02)
    return claim()


def test_what_is_appended_gets_into_the_journal(
    world: World, outbox: Outbox, drain: Drain, run: str
) -> None:
    """Frames are committed in the order of appending, and acknowledged."""
    ids = append(outbox, 1, 3)
    drain.notify()
    assert drain.wait_empty(PATIENCE_S)
    for _ in range(20):
        ids += append(outbox, 1)
        drain.notify()
    assert drain.wait_empty(PATIENCE_S)
    assert drain.connected
    assert not drain.fenced
    assert journal(world.bus, run) == ids
    assert outbox.acknowledged().sequence == 24


def test_it_drains_without_being_waited_for(outbox: Outbox, drain: Drain) -> None:
    """A notice is enough: nobody has to wait, and a drain that starts late takes up what
    is there.
    """
    append(outbox, 1)
    drain.notify()
    assert eventually(outbox.empty)


def test_a_second_writer_fences_the_first(
    world: World, outbox: Outbox, drain: Drain, run: str, tmp_path: Path
) -> None:
    """Once another writer's events are in the journal, the first is fenced: sealed, and nothing of
    it is ever sent again.
    """
    ids = append(outbox, 2)
    drain.notify()
    assert drain.wait_empty(PATIENCE_S)
    second = Outbox.open(tmp_path / "second" / run / "outbox", clock=world.clock)
    start(second, world.bus, clock=world.clock)
    ids += append(second, 1, writer="second")
    start(second, world.bus, clock=world.clock)
    append(outbox, 1)
    drain.notify()
    assert eventually(lambda: drain.fenced)
    assert not drain.wait_empty(PATIENCE_S)
    with pytest.raises(FencedError, match="sealed"):
        append(outbox, 1)
    again = Drain(outbox, world.bus, clock=world.clock)
    again.start()
    assert eventually(lambda: again.fenced)
    again.stop()
    assert journal(world.bus, run) == ids
    second.close()


def test_a_writer_that_wrote_nothing_does_not_stop_the_first(
    world: World, outbox: Outbox, drain: Drain, run: str
) -> None:
    """The broker answers a stalled transaction as it answers a fenced one: the drain asks the
    journal, begins anew, and goes on, once each.
    """
    ids = append(outbox, 1)
    drain.notify()
    assert drain.wait_empty(PATIENCE_S)
    with world.bus.journal_producer(run_id=run) as other:
        other.begin(10)
        ids += append(outbox, 1, 2)
        drain.notify()
        assert drain.wait_empty(PATIENCE_S)
        with pytest.raises(FencedError):
            other.commit(frame(run, 4, writer="other").events)
    assert not drain.fenced
    assert journal(world.bus, run) == ids


def test_large_backlogs_go_in_several_transactions(outbox: Outbox) -> None:
    """A batch takes up to 500 events, a frame is never split, and one that is larger goes alone."""
    append(outbox, 200, 200, 200, 700, 1, 1)
    assert [[len(one.events) for one in batch] for batch in batches(outbox)] == [
        [200, 200],
        [200],
        [700],
        [1, 1],
    ]


class Faulty(JournalProducer):
    """A writer whose commits fail as told: before they are written, or after."""

    def __init__(self, inner: MemoryJournalProducer, faults: list[str]) -> None:
        self._inner = inner
        self._faults = faults

    def begin(self, timeout: float) -> None:
        """Begin."""
        self._inner.begin(timeout)

    def commit(self, messages: Sequence[Message]) -> int:
        """Commit, with the next fault."""
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "lost request":
            raise UnavailableError("the request was lost")
        offset = self._inner.commit(messages)
        if fault == "lost answer":
            raise UnavailableError("the answer was lost")
        return offset

    def close(self) -> None:
        """Close."""
        self._inner.close()


class FaultyBus(MemoryBus):
    """A bus in memory whose journal producers fail as told."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__()
        self.faults = faults

    def journal_producer(self, *, run_id: str) -> JournalProducer:
        """A faulty one."""
        return Faulty(MemoryJournalProducer(self, run_id), self.faults)


def test_unknown_outcomes_double_nothing(tmp_path: Path) -> None:
    """Where the answer to a commit is lost, the journal is read before anything is sent again.

    Where the request is lost, it is sent again.
    """
    outbox = Outbox.open(tmp_path / "run" / "outbox", clock=SystemClock())
    bus = FaultyBus(
        [
            "lost answer",
            "lost request",
            "lost answer",
            "",
            "lost request",
            "lost request",
            "lost answer",
        ]
    )
    drain = Drain(outbox, bus, clock=SystemClock(), linger=0.0)
    drain.start()
    ids: list[str] = []
    for _ in range(8):
        ids += append(outbox, 1, 2)
        drain.notify()
        assert drain.wait_empty(PATIENCE_S)
    drain.stop()
    assert not bus.faults
    assert journal(bus, "run") == ids
    outbox.close()


def test_without_a_broker_the_run_goes_on(tmp_path: Path) -> None:
    """Frames are taken while the broker is away, nothing is lost, and the backlog goes out once it
    is back.
    """
    outbox = Outbox.open(tmp_path / "run" / "outbox", clock=SystemClock())
    bus = MemoryBus()
    drain = Drain(outbox, bus, clock=SystemClock())
    drain.start()
    ids = append(outbox, 1)
    drain.notify()
    assert drain.wait_empty(PATIENCE_S)
    bus.set_online(False)
    ids += append(outbox, *[1] * 700)
    drain.notify()
    assert not drain.wait_empty(0.2)
    assert eventually(lambda: not drain.connected)
    bus.set_online(True)
    assert drain.wait_empty(PATIENCE_S)
    drain.stop()
    assert journal(bus, "run") == ids
    outbox.close()


def test_a_damaged_outbox_ends_the_drain_with_the_reason(tmp_path: Path) -> None:
    """A frame that changes on disk under a running drain is not sent; `error` says which file."""
    outbox = Outbox.open(tmp_path / "run" / "outbox", clock=SystemClock())
    bus = MemoryBus()
    append(outbox, 1)
    (path,) = outbox.directory.glob("*.frames")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    drain = Drain(outbox, bus, clock=SystemClock())
    drain.start()
    drain.notify()
    assert not drain.wait_empty(PATIENCE_S)
    assert path.name in str(drain.error)
    assert journal(bus, "run") == []
    drain.stop()
    outbox.close()
