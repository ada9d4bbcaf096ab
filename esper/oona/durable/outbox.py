"""The outbox of a run: frames are on disk before the run goes on, and stay there until Kafka has
committed them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from esper.clock import Clock
from esper.disk import make_folder, no_room, sync_directory, unwritable, write_at, write_file
from esper.errors import CorruptError, EsperError, FencedError, UsageError
from esper.oona.bus.port import MAX_MESSAGE_BYTES
from esper.oona.durable.acknowledged import Ack, AckFile
from esper.oona.durable.frames import MAGIC, Frame, Placed, pack, scan, unpack
from esper.oona.durable.lock import Lock

_log = logging.getLogger(__name__)
_SEGMENT_BYTES: Final = 4 << 20
_SUFFIX: Final = ".frames"


@dataclass(frozen=True, slots=True)
class _Place:
    next_sequence: int
    path: Path
    offset: int
    size: int


class Outbox:
    """An append-only log of frames in `directory`, which one process at a time holds.

    `append` is for one thread, everything else may be called from another. `torn_bytes` is how much
    of a write that never ended was cut off when the outbox was opened; `sealed` says why nothing
    may be written or drained any more, and is empty while that is allowed.
    """

    def __init__(self, directory: Path, lock: Lock, ack: AckFile, *, clock: Clock) -> None:
        self.directory = directory
        # the folder names the run: an outbox that was moved cannot be drained under another run's
        # id
        self.run_id = directory.resolve().parent.name
        self.torn_bytes = 0
        self._sealed_path = directory / "sealed"
        self.sealed = self._sealed_path.read_text().strip() if self._sealed_path.exists() else ""
        self._clock = clock
        self._lock = lock
        self._ack = ack
        self._guard = threading.Lock()
        self._places: deque[_Place] = deque()
        self._fd = -1
        self._path: Path | None = None
        self._size = 0
        self._broken: EsperError | None = None
        # an empty outbox goes on where Kafka stands: a new run begins at 0, a drained one does not
        self._next = ack.ack.sequence

    @classmethod
    def open(cls, directory: Path, *, clock: Clock) -> Self:
        """Open or make the outbox in `directory`, which is .esper/runs/<run>/outbox.

        A torn tail, the trace of a write during which the process or the machine died, is cut off;
        nothing was ever based on it.

        Raises:
            UsageError: a living process holds it.
            CorruptError: a frame is damaged or missing; nothing is changed.
            StorageFullError: no room to make it.
        """
        try:
            make_folder(directory)
        except OSError as error:
            raise unwritable(directory, error) from error
        lock = Lock(directory / "lock", what=f"Run {directory.resolve().parent.name}")
        ack = None
        try:
            ack = AckFile(directory / "acknowledged")
            outbox = cls(directory, lock, ack, clock=clock)
            outbox._load()
        # an interrupt too: a lock that stays behind would refuse the next open in this process
        except BaseException:
            if ack is not None:
                ack.close()
            lock.release()
            raise
        return outbox

    @property
    def next_sequence(self) -> int:
        """The sequence that the next frame has to begin with."""
        return self._next

    def append(self, frame: Frame) -> None:
        """Make a frame durable.

        Raises:
            StorageFullError: no room; the file is as it was before, and the same frame may be
                appended again.
            FencedError: the outbox is sealed.
            UsageError: a message is larger than Kafka takes.
            CorruptError: the frame does not follow the last one.
            UnavailableError: the disk fails; nothing more is taken.
        """
        if self.sealed:
            raise FencedError(f"The outbox of run {self.run_id} is sealed: {self.sealed}")
        # how much of the last write is on disk is unknown, so a frame behind it could be lost with
        # it
        if self._broken is not None:
            raise self._broken
        if frame.first_sequence != self._next or not frame.events:
            raise CorruptError(
                f"Run {self.run_id} made a frame of {len(frame.events)} events from "
                f"sequence {frame.first_sequence} where {self._next} follows."
            )
        # refused here: a frame that Kafka never takes would block every later one. 4096 are for
        # key, headers and the record's own bytes, which Kafka's limit counts too.
        if large := next(
            (event for event in frame.events if len(event.value) > MAX_MESSAGE_BYTES - 4096), None
        ):
            raise UsageError(
                f"An event of {len(large.value)} bytes is larger than the "
                f"{MAX_MESSAGE_BYTES} that {large.topic} takes."
            )
        content = pack(frame)
        path = self._segment(frame.first_sequence)
        try:
            write_at(self._fd, content, self._size)
        except OSError as error:
            # a torn frame in mid-file would read as damage, so the file is cut before anybody
            # appends again
            self._take_back(path, error)
            raise unwritable(path, error) from error
        with self._guard:
            # only after the fsync: the drain must not send what a crash could still take back
            self._places.append(_Place(frame.next_sequence, path, self._size, len(content)))
        self._size += len(content)
        self._next = frame.next_sequence

    def unacknowledged(self) -> Iterator[Frame]:
        """The frames that Kafka has not yet been seen to commit, oldest first, as of this call."""
        with self._guard:
            # a snapshot: reading from disk under the guard would hold up `append` in the training
            # thread
            places = [
                place for place in self._places if place.next_sequence > self._ack.ack.sequence
            ]
        for place in places:
            # read back instead of kept: an outage of hours would fill memory, and the checksum
            # proves the disk
            with place.path.open("rb", buffering=0) as file:
                yield unpack(
                    place.path, place.offset, os.pread(file.fileno(), place.size, place.offset)
                )

    def empty(self) -> bool:
        """Whether Kafka has committed everything."""
        with self._guard:
            return not self._places or self._places[-1].next_sequence <= self._ack.ack.sequence

    def acknowledged(self) -> Ack:
        """How far Kafka has committed."""
        return self._ack.ack

    def acknowledge(self, sequence: int, offset: int) -> None:
        """Kafka has committed every event before `sequence`, and they stand before `offset`.

        Segments that are done with are deleted.

        Raises:
            UnavailableError: the disk fails.
        """
        try:
            # before the segments go: after a crash in between they are only deleted again by
            # `_load`
            self._ack.write(Ack(sequence, offset))
        except OSError as error:
            raise unwritable(self.directory / "acknowledged", error) from error
        with self._guard:
            done = self._forget(sequence)
            # a segment with frames to send stays, and so does the open one, which is about to get
            # more
            done -= {place.path for place in self._places} | {self._path}
        for path in done:
            path.unlink()

    def quarantine(self, frame: Frame, reason: str) -> Path:
        """Put a frame that must not be sent beside the outbox, with the reason.

        `restart` afterwards.

        Raises:
            StorageFullError: no room; the frame is still in the outbox.
        """
        path = (
            self.directory / "quarantine" / f"{frame.first_sequence:020d}-{frame.incarnation}.frame"
        )
        # as a segment of its own, so that the same reader can open it
        write_file(path, MAGIC + pack(frame))
        write_file(
            path.with_suffix(".reason"),
            f"{reason} (at {self._clock.now_us()} microseconds since 1970)\n".encode(),
        )
        return path

    def restart(self, sequence: int, offset: int) -> None:
        """Forget all frames, seal and acknowledgements: the journal ends before `sequence` and
        `offset`, and the next frame follows it.
        """
        with self._guard:
            # first in memory, so that no drain opens a file that is being deleted
            self._places.clear()
            self._close_segment()
            for path in reversed(
                self._segments()
            ):  # the newest first: what a crash leaves still begins at a fork
                path.unlink()
            sync_directory(self.directory)
        self.acknowledge(sequence, offset)
        # the seal goes last: after a crash before it, the next start does all of this again
        self._sealed_path.unlink(missing_ok=True)
        sync_directory(self.directory)
        self.sealed = ""
        self._next = sequence

    def seal(self, reason: str) -> None:
        """Take and give no more frames: another writer has the run."""
        with suppress(EsperError):  # a full disk: the next start finds the fork in the journal
            write_file(self._sealed_path, f"{reason}\n".encode())
        self.sealed = reason

    def close(self) -> None:
        """Let go of the folder."""
        self._close_segment()
        self._ack.close()
        self._lock.release()

    def _segments(self) -> list[Path]:
        return sorted(self.directory.glob(f"*{_SUFFIX}"))

    def _load(self) -> None:
        segments = self._segments()
        for path in segments:
            content = path.read_bytes()
            intact = len(MAGIC) if content.startswith(MAGIC) else 0
            for placed in scan(path, content):
                self._follow(path, placed)
                intact = placed.offset + placed.size
            # a crash can tear only what was written last; earlier segments were synced before it
            # was made
            if intact < len(content) or len(content) < len(MAGIC):
                if path != segments[-1]:
                    raise CorruptError(
                        f"{path} is damaged at offset {intact}: it ends within a frame "
                        "though later segments exist; restore it."
                    )
                self._cut(path, intact, len(content))
        self._forget(self._ack.ack.sequence)
        kept = {place.path for place in self._places}
        for path in self._segments():
            # Kafka has all of it: a crash came between acknowledgement and deletion
            if path not in kept:
                path.unlink()

    def _forget(self, sequence: int) -> set[Path]:
        """Drop the places of frames that end before `sequence`; gives their segments."""
        paths = set()
        while self._places and self._places[0].next_sequence <= sequence:
            paths.add(self._places.popleft().path)
        return paths

    def _follow(self, path: Path, placed: Placed) -> None:
        frame, expected = placed.frame, self._places[-1].next_sequence if self._places else 0
        # a gap is allowed up to the acknowledged sequence alone: those segments were deleted
        if frame.first_sequence < expected or frame.first_sequence > max(
            expected, self._ack.ack.sequence
        ):
            raise CorruptError(
                f"{path} is damaged at offset {placed.offset}: its frame begins with "
                f"sequence {frame.first_sequence} "
                f"where {max(expected, self._ack.ack.sequence)} follows; restore the "
                "missing segment."
            )
        self._places.append(_Place(frame.next_sequence, path, placed.offset, placed.size))
        # the acknowledgement may be ahead: after a crash within `restart`, old frames may still be
        # here
        self._next = max(frame.next_sequence, self._ack.ack.sequence)

    def _cut(self, path: Path, intact: int, size: int) -> None:
        self.torn_bytes = size - intact
        if self.torn_bytes:
            _log.warning(
                "%s: %d bytes of a write that never ended were cut off", path, self.torn_bytes
            )
        try:
            # no frame in it, and the next append makes a file of this name (O_EXCL)
            if intact <= len(MAGIC):
                path.unlink()
            else:
                os.truncate(path, intact)
            sync_directory(self.directory)
        except OSError as error:
            raise unwritable(path, error) from error

    def _segment(self, first_sequence: int) -> Path:
        if self._path is not None and self._size < _SEGMENT_BYTES:
            return self._path
        self._close_segment()
        path = self.directory / f"{first_sequence:020d}{_SUFFIX}"
        try:
            # O_EXCL: a segment of this sequence would mean two writers, or a sequence that was
            # given twice
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            write_at(self._fd, MAGIC, 0)
            sync_directory(self.directory)
        except OSError as error:
            self._close_segment()
            # an empty file without its magic would be cut off and warned of at the next start
            path.unlink(missing_ok=True)
            raise unwritable(path, error) from error
        with self._guard:
            self._path, self._size = path, len(MAGIC)
        return path

    def _take_back(self, path: Path, error: OSError) -> None:
        try:
            # after an error the bytes from `_size` on are undefined
            os.ftruncate(self._fd, self._size)
            os.fsync(self._fd)
        except OSError as second:
            self._broken = unwritable(path, second)
        # EIO and the like: pages that the kernel failed to write may count as clean, so no retry is
        # safe
        if not no_room(error):
            self._broken = unwritable(path, error)

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._path = -1, None
