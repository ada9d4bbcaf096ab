"""The start sequence: outbox and journal agree afterwards, whatever happened before.

On the real broker and in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from esper.errors import CorruptError, FencedError, UnavailableError, UsageError
from esper.events.codec import encode
from esper.events.envelope import Origin
from esper.events.records import RunCompleted
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.frames import Frame, event_id_of
from esper.oona.durable.journal_reader import (
    JOURNAL,
    JournalSummary,
    journal_exists,
    read,
    require_new,
    sequence_of,
)
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.start import StartReport, start
from tests.contract.oona.worlds import World
from tests.unit.oona.samples import frame

_numbers = count()


@pytest.fixture
def run() -> str:
    """A run id that no other test uses."""
    return f"start-{next(_numbers)}"


@pytest.fixture
def outbox(tmp_path: Path, run: str, world: World) -> Iterator[Outbox]:
    """The run's outbox."""
    made = Outbox.open(tmp_path / run / "outbox", clock=world.clock)
    yield made
    made.close()


def append(outbox: Outbox, *sizes: int, writer: str = "trainer") -> list[Frame]:
    """Append frames of these sizes."""
    frames = []
    for size in sizes:
        frames.append(frame(outbox.run_id, outbox.next_sequence, size, writer=writer))
        outbox.append(frames[-1])
    return frames


def commit(bus: Bus, run: str, frames: Sequence[Frame]) -> None:
    """Write frames to the journal as another process would."""
    with bus.journal_producer(run_id=run) as producer:
        producer.begin(10)
        for one in frames:
            producer.commit(one.events)


def journal(world: World, run: str) -> list[str]:
    """The event ids of the run's journal, in order."""
    return [event_id_of(received.headers) for received in read(world.bus, run, clock=world.clock)]


def ids(frames: Sequence[Frame]) -> list[str]:
    """The event ids of frames."""
    return [event_id_of(event.headers) for one in frames for event in one.events]


def begin(world: World, outbox: Outbox) -> StartReport:
    """The start sequence."""
    return start(outbox, world.bus, clock=world.clock)


def neighbour(bus: Bus, run: str) -> str:
    """Another run whose journal is in the same partition."""
    partition = bus.partition_of(JOURNAL, run.encode())
    return next(
        name
        for number in count()
        if bus.partition_of(JOURNAL, (name := f"{run}-neighbour-{number}").encode()) == partition
    )


def test_an_empty_outbox_of_a_new_run_starts_at_nothing(
    world: World, outbox: Outbox, run: str
) -> None:
    """Nothing to send, nothing found: sequence 0."""
    assert begin(world, outbox) == StartReport(run, 0, 0, 0, (), 0, ())


def test_what_was_not_sent_is_sent_once(world: World, outbox: Outbox, run: str) -> None:
    """Frames of the outbox that the journal lacks are committed in order.

    A second start finds nothing to do.
    """
    frames = append(outbox, 1, 3, 2)
    started = begin(world, outbox)
    assert (started.next_sequence, started.skipped, started.sent) == (6, 0, 3)
    assert outbox.empty()
    assert begin(world, outbox) == StartReport(run, 6, 0, 0, (), 0, ())
    assert journal(world, run) == ids(frames)


def test_frames_that_are_there_already_are_skipped(world: World, outbox: Outbox, run: str) -> None:
    """A crash between commit and acknowledgement doubles nothing: the frames are recognised by
    their event ids.
    """
    frames = append(outbox, 2, 1, 1)
    commit(world.bus, run, frames[:2])
    started = begin(world, outbox)
    assert (started.skipped, started.sent, started.next_sequence) == (2, 1, 4)
    assert journal(world, run) == ids(frames)


def test_it_goes_on_from_what_was_acknowledged(world: World, outbox: Outbox, run: str) -> None:
    """Start, append, start, append: each event is in the journal once and in order."""
    frames = append(outbox, 1, 1)
    begin(world, outbox)
    frames += append(outbox, 2)
    commit(world.bus, run, frames[2:])
    frames += append(outbox, 1)
    started = begin(world, outbox)
    assert (started.skipped, started.sent, started.elsewhere) == (1, 1, 0)
    assert journal(world, run) == ids(frames)


def test_other_runs_in_the_partition_are_not_ours(world: World, outbox: Outbox, run: str) -> None:
    """Journals of several runs share a partition; only events of this run count."""
    other = neighbour(world.bus, run)
    commit(world.bus, other, [frame(other, sequence) for sequence in range(5)])
    frames = append(outbox, 1, 1)
    commit(world.bus, run, frames[:1])
    commit(world.bus, other, [frame(other, 5)])
    started = begin(world, outbox)
    assert (started.skipped, started.sent, started.elsewhere) == (1, 1, 0)
    assert journal(world, run) == ids(frames)
    assert len(journal(world, other)) == 6


def test_a_commit_behind_another_runs_open_transaction_is_found(
    world: World, outbox: Outbox, run: str
) -> None:
    """A dead neighbour's open transaction hides our committed frames for a while: the start waits
    until it is decided, and doubles nothing.
    """
    other = neighbour(world.bus, run)
    open_writer = world.open(other, frame(other, 0).events)
    frames = append(outbox, 1, 1)
    commit(world.bus, run, frames[:1])
    later = threading.Timer(0.7, world.finish, [open_writer])
    later.start()
    started = begin(world, outbox)
    later.join()
    assert (started.skipped, started.sent) == (1, 1)
    assert journal(world, run) == ids(frames)
    open_writer.close()


def test_a_transaction_that_the_dead_process_left_open_is_aborted(
    world: World, outbox: Outbox, run: str
) -> None:
    """Frames of a transaction that never ended are not in the journal: they are sent, once."""
    frames = append(outbox, 2)
    dead = world.open(run, frames[0].events)
    started = begin(world, outbox)
    assert (started.skipped, started.sent) == (0, 1)
    assert journal(world, run) == ids(frames)
    with pytest.raises(FencedError):
        world.finish(dead)
    dead.close()


def test_a_fork_is_quarantined_and_said(world: World, outbox: Outbox, run: str) -> None:
    """Another writer's events at our sequences: our frames from there on go to quarantine, the next
    event follows theirs.
    """
    frames = append(outbox, 1)
    begin(world, outbox)
    ours = append(outbox, 1, 2)
    theirs = [frame(run, 1, 3, writer="other machine")]
    commit(world.bus, run, theirs)
    started = begin(world, outbox)
    assert started.sent == started.skipped == 0
    assert (started.elsewhere, started.next_sequence) == (3, 4)
    assert len(started.quarantined) == 2
    assert all(path.exists() for path in started.quarantined)
    assert any("quarantine" in note for note in started.notes)
    assert journal(world, run) == ids([*frames, *theirs])
    assert not set(ids(ours)) & set(journal(world, run))
    more = append(outbox, 1)
    assert begin(world, outbox).sent == 1
    assert journal(world, run) == ids([*frames, *theirs, *more])


def test_on_another_machine_the_journal_is_what_there_is(
    world: World, outbox: Outbox, run: str, tmp_path: Path
) -> None:
    """An outbox without frames follows the journal, and says that the other one's unsent tail is
    lost.
    """
    frames = append(outbox, 2, 1)
    begin(world, outbox)
    append(outbox, 1)
    elsewhere = Outbox.open(tmp_path / "elsewhere" / run / "outbox", clock=world.clock)
    started = begin(world, elsewhere)
    assert (started.next_sequence, started.elsewhere) == (3, 3)
    assert any("lost" in note for note in started.notes)
    later = append(elsewhere, 1, writer="elsewhere")
    assert begin(world, elsewhere).sent == 1
    assert journal(world, run) == ids([*frames, *later])
    elsewhere.close()
    assert len(begin(world, outbox).quarantined) == 1


def test_a_sealed_outbox_is_never_drained(world: World, outbox: Outbox, run: str) -> None:
    """What a fenced trainer had not sent goes to quarantine, even where nobody has written at its
    sequences.
    """
    frames = append(outbox, 1)
    begin(world, outbox)
    append(outbox, 1)
    outbox.seal("another writer has taken over")
    started = begin(world, outbox)
    assert len(started.quarantined) == 1
    assert (started.next_sequence, outbox.sealed) == (1, "")
    assert journal(world, run) == ids(frames)


def test_the_fold_hears_the_whole_journal(world: World, outbox: Outbox, run: str) -> None:
    """`on_event` gets every event in order, from the first: acknowledged ones, skipped ones and
    those that this start sends.
    """
    frames = append(outbox, 1, 1)
    begin(world, outbox)
    frames += append(outbox, 2)
    commit(world.bus, run, frames[2:])
    frames += append(outbox, 1)
    heard: list[Received] = []
    start(outbox, world.bus, clock=world.clock, on_event=heard.append)
    assert [event_id_of(received.headers) for received in heard] == ids(frames)
    assert [sequence_of(received) for received in heard] == list(range(5))


def test_without_a_broker_there_is_no_resume(world: World, tmp_path: Path) -> None:
    """UnavailableError in a sentence; the outbox keeps its frames."""
    outbox = Outbox.open(tmp_path / "run" / "outbox", clock=world.clock)
    append(outbox, 1)
    with pytest.raises(UnavailableError, match="Run run cannot be resumed without a broker"):
        start(outbox, world.without_broker(), clock=world.clock, patience=0.5)
    assert len(list(outbox.unacknowledged())) == 1
    outbox.close()


def test_another_cluster_is_noticed(world: World, outbox: Outbox) -> None:
    """Where the journal lacks what Kafka had acknowledged, nothing is sent: CorruptError."""
    append(outbox, 1)
    outbox.acknowledge(1, 1_000_000)
    append(outbox, 1)
    with pytest.raises(CorruptError, match=r"made\s+again"):
        begin(world, outbox)


def test_a_journal_whose_last_acknowledged_event_is_not_ours_is_refused(
    world: World, outbox: Outbox, run: str
) -> None:
    """A topic that was made again may be as long as before: the event before the acknowledged
    offset has to be this run's.
    """
    other = neighbour(world.bus, run)
    commit(world.bus, other, [frame(other, sequence) for sequence in range(3)])
    commit(world.bus, run, [frame(run, 0, writer="of another time")])
    append(outbox, 1)
    outbox.acknowledge(1, 1)
    append(outbox, 1)
    with pytest.raises(CorruptError, match="offset 0"):
        begin(world, outbox)


def test_a_run_id_that_has_a_journal_is_refused_for_a_new_run(
    world: World, outbox: Outbox, run: str
) -> None:
    """`require_new` lets an unused id pass and refuses a used one with its number of events and how
    it ended.
    """
    require_new(world.bus, run, clock=world.clock, trust=Trust())
    assert journal_exists(world.bus, run, clock=world.clock, trust=Trust()) is None
    append(outbox, 2, 1)
    begin(world, outbox)
    assert journal_exists(world.bus, run, clock=world.clock, trust=Trust()) == JournalSummary(
        run, 3, 3, ""
    )
    with pytest.raises(
        UsageError,
        match=(
            f"Run {run} already has a journal .3 events, not ended.; choose another --run-id "
            "or resume it"
        ),
    ):
        require_new(world.bus, run, clock=world.clock, trust=Trust())
    origin = Origin(run, "trainer", "0" * 32, world.clock)
    completed = RunCompleted(
        **origin.envelope("completed"),
        timeline=0,
        sequence=3,
        epoch=1,
        step=1,
        outcome="FINISHED",
        accuracy=1.0,
        loss=0.0,
        parameters=1,
        digest="",
        model_sha256="",
    )
    outbox.append(Frame(3, (encode(completed),), 1, "", None))
    begin(world, outbox)
    with pytest.raises(UsageError, match="4 events, ended in order"):
        require_new(world.bus, run, clock=world.clock, trust=Trust())
