"""Laws of frames and of outbox, drain and start together, over many made-up histories."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper.clock import ManualClock
from esper.errors import CorruptError, FencedError
from esper.events.codec import Message
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.partitioner import murmur2, partition
from esper.oona.bus.port import JournalProducer
from esper.oona.durable.drain import batches
from esper.oona.durable.frames import MAGIC, Frame, event_id_of, pack, scan
from esper.oona.durable.journal_reader import read, sequence_of
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.start import start
from tests.samples import EXAMPLES
from tests.unit.oona.samples import frame

RUN = "run"
_messages = st.builds(
    Message,
    topic=st.text(max_size=8),
    key=st.binary(max_size=8),
    value=st.binary(max_size=40),
    headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=8)), max_size=3).map(tuple),
)
_frames = st.builds(
    Frame,
    first_sequence=st.integers(0, 2**62),
    events=st.lists(_messages, max_size=3).map(tuple),
    incarnation=st.integers(0, 2**40),
    command_id=st.text(max_size=8),
    command_position=st.none()
    | st.tuples(st.text(max_size=8), st.integers(0, 99), st.integers(0, 2**62)),
)


@given(st.lists(_frames, max_size=4))
def test_frames_come_back_as_they_were(frames: list[Frame]) -> None:
    """scan(pack(frames)) = frames, for any content."""
    content = MAGIC + b"".join(pack(one) for one in frames)
    assert [placed.frame for placed in scan(Path("segment"), content)] == frames


@given(st.lists(_frames, min_size=1, max_size=3), st.data())
def test_damage_is_refused_or_a_torn_tail(frames: list[Frame], data: st.DataObject) -> None:
    """Up to three changed bytes and a cut: what is read is a true prefix of what was written,
    unless it is refused.
    """
    content = bytearray(MAGIC + b"".join(pack(one) for one in frames))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    with suppress(CorruptError):
        found = [placed.frame for placed in scan(Path("segment"), bytes(content[:cut]))]
        assert found == frames[: len(found)]


@given(st.binary(max_size=40), st.integers(1, 50))
def test_a_partition_is_one_of_those_that_exist(key: bytes, partitions: int) -> None:
    """murmur2 is a 32-bit number, and the partition lies in range."""
    assert 0 <= murmur2(key) < 2**32
    assert 0 <= partition(key, partitions) < partitions


@pytest.mark.parametrize(
    ("key", "expected"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_murmur2_is_that_of_java(key: bytes, expected: int) -> None:
    """The values that Kafka's own UtilsTest expects."""
    assert murmur2(key) == expected & 0xFFFFFFFF


class Journalling(RuleBasedStateMachine):
    """A trainer that appends, drains, dies anywhere and starts again, beside another run in the
    same partition.
    """

    @initialize()
    def begin(self) -> None:
        """A new run."""
        self.folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108 - lives as long as the machine
        self.clock = ManualClock()
        self.bus = MemoryBus({"system.events.run": 1}, clock=self.clock)
        self.written: list[str] = []
        self.incarnation = 0
        self.open()

    def open(self) -> None:
        """Start or resume."""
        self.incarnation += 1
        self.outbox = Outbox.open(Path(self.folder.name) / RUN / "outbox", clock=self.clock)
        started = start(self.outbox, self.bus, clock=self.clock)
        assert started.quarantined == ()
        assert started.elsewhere == 0
        self.producer: JournalProducer = self.bus.journal_producer(run_id=RUN)
        self.producer.begin(1)

    @rule(size=st.integers(1, 3))
    def append(self, size: int) -> None:
        """The trainer decides."""
        one = frame(RUN, self.outbox.next_sequence, size, incarnation=self.incarnation)
        self.outbox.append(one)
        self.written += [event_id_of(event.headers) for event in one.events]

    @rule(acknowledged=st.booleans())
    def drain(self, *, acknowledged: bool) -> None:
        """Commit what there is; the acknowledgement may be lost with the process."""
        for batch in batches(self.outbox):
            offset = self.producer.commit([event for one in batch for event in one.events])
            if not acknowledged:
                self.crash()
                return
            self.outbox.acknowledge(batch[-1].next_sequence, offset)

    @rule()
    def crash(self) -> None:
        """Die and start again."""
        self.outbox.close()
        self.open()

    @rule(torn=st.integers(1, 60))
    def crash_while_appending(self, torn: int) -> None:
        """Die within a write: the frame was never promised."""
        content = pack(frame(RUN, self.outbox.next_sequence, 1, incarnation=self.incarnation))[
            :torn
        ]
        self.outbox.close()
        segments = sorted(self.outbox.directory.glob("*.frames"))
        if segments:
            with segments[-1].open("ab") as file:
                file.write(content)
        self.open()

    @rule()
    def crash_within_a_transaction(self) -> None:
        """Die with a transaction open."""
        unsent = [event for one in self.outbox.unacknowledged() for event in one.events]
        if unsent:
            self.producer._open(unsent)  # type: ignore[attr-defined]
        self.crash()

    @rule()
    def a_neighbour_writes(self) -> None:
        """Another run uses the partition."""
        with self.bus.journal_producer(run_id="other") as other:
            other.begin(1)
            other.commit(frame("other", 0).events)

    @invariant()
    def the_journal_is_a_prefix_of_what_was_written(self) -> None:
        """Nothing doubled, nothing out of order, no gap."""
        received = list(read(self.bus, RUN, clock=self.clock))
        ids = [event_id_of(one.headers) for one in received]
        assert ids == self.written[: len(ids)]
        assert [sequence_of(one) for one in received] == list(range(len(ids)))

    def teardown(self) -> None:
        """Nothing lost: after a last start everything is in the journal; a zombie cannot
        add to it.
        """
        if not hasattr(self, "outbox"):
            return
        zombie = self.producer
        self.crash()
        assert [
            event_id_of(one.headers) for one in read(self.bus, RUN, clock=self.clock)
        ] == self.written
        with pytest.raises(FencedError):
            zombie.commit(frame(RUN, 0).events)
        self.outbox.close()
        self.folder.cleanup()


Journalling.TestCase.settings = settings(
    max_examples=25 * EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestJournalling = Journalling.TestCase
