"""The outbox: what was appended is there after any crash, and any other damage is
refused by name.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from esper.clock import ManualClock
from esper.disk import write_at
from esper.errors import (
    CorruptError,
    EsperError,
    FencedError,
    StorageFullError,
    UnavailableError,
    UsageError,
)
from esper.oona.bus.port import MAX_MESSAGE_BYTES
from esper.oona.durable import outbox as outbox_module
from esper.oona.durable.acknowledged import Ack
from esper.oona.durable.frames import MAGIC, Frame, event_id_of, pack, scan, unpack
from esper.oona.durable.outbox import Outbox
from tests.unit.oona.samples import frame

RUN = "run-1"
CLOCK = ManualClock()


def box(tmp_path: Path) -> Path:
    """Where the outbox of the run is."""
    return tmp_path / RUN / "outbox"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """A new outbox."""
    made = Outbox.open(box(tmp_path), clock=CLOCK)
    yield made
    made.close()


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where the system has one: thousands of openings, and no disk to
    wait for.
    """
    memory = Path("/dev/shm")  # noqa: S108 - the folder inside has a name of its own
    with TemporaryDirectory(
        dir=memory if memory.is_dir() else None, prefix="esper-test-"
    ) as folder:
        yield Path(folder)


def filled(directory: Path, frames: int = 3) -> list[Frame]:
    """Write a segment with that many frames into `directory`."""
    made = Outbox.open(directory, clock=CLOCK)
    written: list[Frame] = []
    for _ in range(frames):
        written.append(frame(RUN, made.next_sequence, 1 + len(written) % 2))
        made.append(written[-1])
    made.close()
    return written


def segment(directory: Path) -> Path:
    """The only segment."""
    (path,) = directory.glob("*.frames")
    return path


def reopened(directory: Path) -> tuple[list[Frame], int, int]:
    """What an outbox holds when it is opened: its frames, next sequence and torn bytes."""
    opened = Outbox.open(directory, clock=CLOCK)
    try:
        return list(opened.unacknowledged()), opened.next_sequence, opened.torn_bytes
    finally:
        opened.close()


def test_what_was_appended_is_there_after_reopening(tmp_path: Path) -> None:
    """Frames come back whole and in order, with events, headers, incarnation, command id and
    position.
    """
    written = filled(box(tmp_path))
    assert reopened(box(tmp_path)) == (written, 4, 0)


def test_a_frame_is_durable_before_append_returns(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synchronised after the frame was written whole."""
    synced: list[int] = []
    really = os.fdatasync

    def spy(fd: int) -> None:
        really(fd)
        synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr("os.fdatasync", spy)
    size = len(MAGIC)
    for sequence in range(3):
        one = frame(RUN, sequence)
        outbox.append(one)
        size += len(pack(one))
        assert synced[-1] == size


def test_torn_at_every_byte_the_whole_frames_remain(memory_path: Path) -> None:
    """Whatever length a crash leaves a segment with, reopening gives the frames that are whole,
    says what was cut, and appending goes on.
    """
    written = filled(box(memory_path), 2)
    content = segment(box(memory_path)).read_bytes()
    ends = [len(MAGIC)]
    for one in written:
        ends.append(ends[-1] + len(pack(one)))
    assert ends[-1] == len(content)
    for size in range(len(content) + 1):
        torn = box(memory_path / str(size))
        torn.mkdir(parents=True)
        (torn / segment(box(memory_path)).name).write_bytes(content[:size])
        whole = sum(end <= size for end in ends[1:])
        intact = max((end for end in ends if end <= size), default=0)
        opened = Outbox.open(torn, clock=CLOCK)
        assert list(opened.unacknowledged()) == written[:whole]
        assert opened.torn_bytes == size - intact
        opened.append(frame(RUN, opened.next_sequence, writer="later"))
        opened.close()
        found = [
            placed.frame
            for path in sorted(torn.glob("*.frames"))
            for placed in scan(path, path.read_bytes())
        ]
        assert found == [
            *written[:whole],
            frame(RUN, written[whole].first_sequence if whole < 2 else 3, writer="later"),
        ]


def test_a_flipped_bit_anywhere_is_refused_by_name(memory_path: Path) -> None:
    """One flipped bit in any byte of a segment, the last frame too, is a CorruptError with file and
    offset, and nothing is cut off.
    """
    filled(box(memory_path))
    path = segment(box(memory_path))
    content = path.read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptError) as error:
            Outbox.open(box(memory_path), clock=CLOCK)
        assert str(path) in str(error.value)
        assert "offset" in str(error.value)
        assert path.read_bytes() == bytes(damaged)
    path.write_bytes(content)
    assert len(reopened(box(memory_path))[0]) == 3


def test_the_offset_of_the_damage_is_that_of_its_frame(tmp_path: Path) -> None:
    """The sentence names the offset at which the damaged frame begins."""
    first, *_ = filled(box(tmp_path))
    path = segment(box(tmp_path))
    content, second = path.read_bytes(), len(MAGIC) + len(pack(first))
    for within in (0, 5, 10, 40):  # length, checksum, checksum of both, payload
        damaged = bytearray(content)
        damaged[second + within] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=f"offset {second}:"):
            Outbox.open(box(tmp_path), clock=CLOCK)


def test_zeros_at_the_end_are_a_torn_write(tmp_path: Path) -> None:
    """Room that the file system gave before the power went reads as zeros: it is cut off, and the
    frames before it remain.
    """
    written = filled(box(tmp_path))
    with segment(box(tmp_path)).open("ab") as file:
        file.write(bytes(5000))
    assert reopened(box(tmp_path)) == (written, 4, 5000)


def test_a_missing_segment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames between two segments cannot vanish unnoticed.

    Nor can the end of a segment that is not the last.
    """
    monkeypatch.setattr("esper.oona.durable.outbox._SEGMENT_BYTES", 300)
    written = filled(box(tmp_path), 6)
    first, middle, *_ = sorted(box(tmp_path).glob("*.frames"))
    assert reopened(box(tmp_path))[0] == written
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    with pytest.raises(CorruptError, match=first.name):
        Outbox.open(box(tmp_path), clock=CLOCK)
    first.write_bytes(content)
    middle.unlink()
    with pytest.raises(CorruptError, match="sequence"):
        Outbox.open(box(tmp_path), clock=CLOCK)


def test_acknowledged_frames_are_not_given_again(tmp_path: Path, outbox: Outbox) -> None:
    """What Kafka has committed leaves the outbox, now and after reopening; the rest stays."""
    frames = [frame(RUN, 0, 2), frame(RUN, 2, 1), frame(RUN, 3, 1)]
    for one in frames:
        outbox.append(one)
    outbox.acknowledge(3, 70)
    assert list(outbox.unacknowledged()) == frames[2:]
    assert not outbox.empty()
    outbox.close()
    again = Outbox.open(box(tmp_path), clock=CLOCK)
    assert again.acknowledged() == Ack(3, 70)
    assert list(again.unacknowledged()) == frames[2:]
    again.acknowledge(4, 71)
    assert again.empty()
    again.close()
    assert reopened(box(tmp_path)) == ([], 4, 0)


def test_segments_that_are_done_with_are_deleted(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk space is given back once Kafka has everything of a segment, while appending goes on."""
    monkeypatch.setattr("esper.oona.durable.outbox._SEGMENT_BYTES", 2000)
    for sequence in range(40):
        outbox.append(frame(RUN, sequence))
        outbox.acknowledge(max(0, sequence - 2), sequence)
    assert len(list(box(tmp_path).glob("*.frames"))) <= 3
    assert [one.first_sequence for one in outbox.unacknowledged()] == [37, 38, 39]


@pytest.mark.parametrize("slot", [0, 1])
def test_a_torn_acknowledgement_falls_back_to_the_one_before(
    tmp_path: Path, outbox: Outbox, slot: int
) -> None:
    """The acknowledgement is written in two places in turn: when one is damaged, the
    other counts.
    """
    outbox.append(frame(RUN, 0))
    outbox.append(frame(RUN, 1))
    outbox.acknowledge(1, 10)
    outbox.acknowledge(2, 11)
    outbox.close()
    path = box(tmp_path) / "acknowledged"
    content = bytearray(path.read_bytes())
    content[slot * len(content) // 2 + 9] ^= 0x40
    path.write_bytes(content)
    again = Outbox.open(box(tmp_path), clock=CLOCK)
    assert again.acknowledged() in (Ack(1, 10), Ack(2, 11))
    again.close()
    path.write_bytes(bytes(len(content)))
    with pytest.raises(CorruptError, match="acknowledged"):
        Outbox.open(box(tmp_path), clock=CLOCK)


def test_one_process_at_a_time(tmp_path: Path, outbox: Outbox) -> None:
    """A second opening is refused with run and process id, in this process and from another.

    Once closed, the folder is free.
    """
    with pytest.raises(UsageError, match=rf"Run {RUN} is being written by process \d+"):
        Outbox.open(box(tmp_path), clock=CLOCK)
    program = (
        "import sys; from pathlib import Path; from esper.clock import ManualClock; from "
        "esper.oona.durable.outbox import Outbox\n"
        "Outbox.open(Path(sys.argv[1]), clock=ManualClock())"
    )
    command = [sys.executable, "-c", program, str(box(tmp_path))]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert refused.returncode != 0
    assert f"Run {RUN} is being written by process" in refused.stderr
    outbox.close()
    subprocess.run(command, check=True, timeout=600)
    again = Outbox.open(box(tmp_path), clock=CLOCK)
    again.close()


def test_a_frame_has_to_follow_the_last_one(outbox: Outbox) -> None:
    """A gap, a repetition or an empty frame is refused, and nothing is written."""
    outbox.append(frame(RUN, 0, 2))
    for wrong in (frame(RUN, 3), frame(RUN, 1), frame(RUN, 2, 0)):
        with pytest.raises(CorruptError, match="sequence"):
            outbox.append(wrong)
    outbox.append(frame(RUN, 2))
    assert [one.first_sequence for one in outbox.unacknowledged()] == [0, 2]


def test_an_event_that_kafka_would_not_take_is_refused_at_once(outbox: Outbox) -> None:
    """A message that no commit could ever carry must not get into the outbox, where it would stop
    everything behind it.
    """
    good = frame(RUN, 0)
    message = good.events[0]
    large = type(message)(message.topic, message.key, b"x" * MAX_MESSAGE_BYTES, message.headers)
    with pytest.raises(UsageError, match="larger"):
        outbox.append(Frame(0, (large,), 1, "", None))
    outbox.append(good)
    most = MAX_MESSAGE_BYTES - 4096  # the rest is for key and headers
    with pytest.raises(
        UsageError,
        match=f"An event of {most + 1} bytes is larger than the {MAX_MESSAGE_BYTES} that ",
    ):
        outbox.append(Frame(1, (message._replace(value=b"x" * (most + 1)),), 1, "", None))
    outbox.append(Frame(1, (message._replace(value=b"x" * most),), 1, "", None))


def test_the_names_in_the_folder_are_for_good(tmp_path: Path, outbox: Outbox) -> None:
    """Another version of Esper finds lock, seal, acknowledgements and segments where this one has
    put them.
    """
    outbox.append(frame(RUN, 0))
    outbox.seal("x")
    assert {path.name for path in box(tmp_path).iterdir()} == {
        "lock",
        "sealed",
        "acknowledged",
        "00000000000000000000.frames",
    }


def test_a_place_where_nothing_can_be_made_is_named(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of an outbox, and a segment.

    A segment that could not be begun leaves nothing behind.
    """
    (tmp_path / "file").touch()
    with pytest.raises(EsperError, match=rf"^{tmp_path}/file/outbox cannot be written"):
        Outbox.open(tmp_path / "file" / "outbox", clock=CLOCK)
    with monkeypatch.context() as patch:
        patch.setattr(outbox_module, "write_at", failing(1, errno.ENOSPC))
        with pytest.raises(StorageFullError, match=r"0000\.frames"):
            outbox.append(frame(RUN, 0))
    assert list(box(tmp_path).glob("*.frames")) == []
    with monkeypatch.context() as patch:
        patch.setattr("os.open", stuck)
        with pytest.raises(UnavailableError, match=r"0000\.frames cannot be written \(stuck\)"):
            outbox.append(frame(RUN, 0))
    outbox.append(frame(RUN, 0))
    assert list(outbox.unacknowledged()) == [frame(RUN, 0)]


def stuck(*_: object, **__: object) -> None:
    """A call of a disk that fails."""
    raise OSError(errno.EIO, "stuck")


def failing(times: int, number: int) -> Callable[[int, bytes, int], None]:
    """A disk that takes half of what is written and then fails, so many times."""
    left = [times]

    def write(fd: int, content: bytes, offset: int) -> None:
        if left[0]:
            left[0] -= 1
            os.pwrite(fd, content[: len(content) // 2], offset)
            raise OSError(number, os.strerror(number))
        write_at(fd, content, offset)

    return write


def test_a_full_disk_costs_nothing(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is as it was before the frame, the sentence names it, and the same frame goes in
    once there is room.
    """
    outbox.append(frame(RUN, 0))
    before = segment(box(tmp_path)).read_bytes()
    monkeypatch.setattr(outbox_module, "write_at", failing(1, errno.ENOSPC))
    with pytest.raises(StorageFullError, match=re.escape(str(segment(box(tmp_path))))):
        outbox.append(frame(RUN, 1))
    assert segment(box(tmp_path)).read_bytes() == before
    outbox.append(frame(RUN, 1))
    outbox.close()
    assert reopened(box(tmp_path)) == ([frame(RUN, 0), frame(RUN, 1)], 2, 0)


def test_a_disk_that_fails_takes_nothing_more(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of the disk itself each append is refused with the same sentence.

    What was there before is whole.
    """
    outbox.append(frame(RUN, 0))
    monkeypatch.setattr(outbox_module, "write_at", failing(1, errno.EIO))
    for _ in range(2):
        with pytest.raises(
            UnavailableError, match=rf"{segment(box(tmp_path))}.*Input/output error"
        ):
            outbox.append(frame(RUN, 1))
    outbox.close()
    assert reopened(box(tmp_path)) == ([frame(RUN, 0)], 1, 0)


def test_what_cannot_be_taken_back_ends_the_outbox(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk on which the half frame cannot even be cut off again: nothing more is taken, and
    the next start cuts it off.
    """
    outbox.append(frame(RUN, 0))
    monkeypatch.setattr(outbox_module, "write_at", failing(1, errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.ftruncate", stuck)
        with pytest.raises(StorageFullError):
            outbox.append(frame(RUN, 1))
    with pytest.raises(UnavailableError, match=rf"{segment(box(tmp_path))}.*stuck"):
        outbox.append(frame(RUN, 1))
    outbox.close()
    frames, following, torn = reopened(box(tmp_path))
    assert (frames, following) == ([frame(RUN, 0)], 1)
    assert torn > 0


def test_a_torn_tail_that_cannot_be_cut_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the file, and the outbox is not opened."""
    filled(box(tmp_path))
    path = segment(box(tmp_path))
    path.write_bytes(path.read_bytes()[:-3])

    monkeypatch.setattr("os.truncate", stuck)
    with pytest.raises(UnavailableError, match=rf"^{path} cannot be written \(stuck\)"):
        Outbox.open(box(tmp_path), clock=CLOCK)


def test_a_frame_that_was_changed_after_it_was_written_is_not_given(
    tmp_path: Path, outbox: Outbox
) -> None:
    """Reading it back for Kafka, the sentence has file, offset and remedy.

    So it is where the frame is cut short.
    """
    outbox.append(frame(RUN, 0))
    outbox.append(frame(RUN, 1))
    path, second = segment(box(tmp_path)), len(MAGIC) + len(pack(frame(RUN, 0)))
    content = path.read_bytes()
    sentence = (
        f"{path} is damaged at offset {{}}: a checksum does not match, and no interrupted "
        "write explains it; restore the file from a "
        "backup, or move it away and resume from the events that Kafka has."
    )
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError) as caught:
            list(outbox.unacknowledged())
        assert str(caught.value) == sentence.format(second)
    whole = pack(frame(RUN, 0))
    with pytest.raises(CorruptError, match="damaged at offset 77"):
        unpack(path, 77, whole + whole)


def test_a_sealed_outbox_takes_nothing_more(tmp_path: Path, outbox: Outbox) -> None:
    """After `seal`, appending raises FencedError with the reason, also after reopening.

    `restart` lifts it.
    """
    outbox.append(frame(RUN, 0))
    outbox.seal("another writer has taken over")
    with pytest.raises(FencedError, match="another writer"):
        outbox.append(frame(RUN, 1))
    outbox.close()
    again = Outbox.open(box(tmp_path), clock=CLOCK)
    assert again.sealed == "another writer has taken over"
    with pytest.raises(FencedError):
        again.append(frame(RUN, 1))
    again.restart(7, 90)
    assert again.sealed == ""
    again.append(frame(RUN, 7))
    again.close()
    assert reopened(box(tmp_path)) == ([frame(RUN, 7)], 8, 0)


def test_quarantined_frames_stay_readable(outbox: Outbox) -> None:
    """A frame in quarantine is kept as it was, beside the reason."""
    one = frame(RUN, 0, 2)
    outbox.append(one)
    path = outbox.quarantine(one, "a fork")
    outbox.restart(5, 50)
    assert [placed.frame for placed in scan(path, path.read_bytes())] == [one]
    assert path.parent.name == "quarantine"
    assert "a fork" in path.with_suffix(".reason").read_text()
    assert list(outbox.unacknowledged()) == []
    assert outbox.acknowledged() == Ack(5, 50)
    assert outbox.next_sequence == 5
    assert outbox.quarantine(frame(RUN, 5), "another").parent == path.parent


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, outbox: Outbox) -> None:
    """A frame that cannot be put into quarantine stays in the outbox, and the sentence names the
    folder; sealing holds even where it cannot be noted.
    """
    outbox.append(frame(RUN, 0))
    (box(tmp_path) / "quarantine").touch()
    with pytest.raises(EsperError, match=r"quarantine.*File exists"):
        outbox.quarantine(frame(RUN, 0), "a fork")
    assert list(outbox.unacknowledged()) == [frame(RUN, 0)]
    outbox._sealed_path.mkdir()
    outbox.seal("another writer has taken over")
    with pytest.raises(FencedError, match="another writer"):
        outbox.append(frame(RUN, 1))


def test_an_acknowledgement_that_cannot_be_kept_is_said(outbox: Outbox) -> None:
    """Where the disk fails, the sentence names the file, and the frames are still there."""
    outbox.append(frame(RUN, 0))
    outbox._ack.close()
    with pytest.raises(EsperError, match=r"/outbox/acknowledged.*Bad file descriptor"):
        outbox.acknowledge(1, 10)
    assert list(outbox.unacknowledged()) == [frame(RUN, 0)]


def test_what_was_cut_off_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A torn tail is cut with a warning that names file and bytes."""
    filled(box(tmp_path))
    path = segment(box(tmp_path))
    path.write_bytes(path.read_bytes()[:-3])
    opened = Outbox.open(box(tmp_path), clock=CLOCK)
    opened.close()
    assert caplog.messages == [
        f"{path}: {opened.torn_bytes} bytes of a write that never ended were cut off"
    ]


def test_the_id_of_an_event_stands_in_its_headers() -> None:
    """`ce_id` by its exact name; empty where a message has none."""
    (event,) = frame(RUN, 0).events
    assert event_id_of(event.headers) == dict(event.headers)["ce_id"].decode() != ""
    assert event_id_of((("CE_ID", b"other"),)) == ""


def test_a_copy_of_the_folder_is_an_outbox(tmp_path: Path, outbox: Outbox) -> None:
    """All state is in the folder: a copy opens with the same frames."""
    outbox.append(frame(RUN, 0))
    copy = tmp_path / "elsewhere" / RUN / "outbox"
    shutil.copytree(box(tmp_path), copy)
    assert reopened(copy)[0] == [frame(RUN, 0)]
