"""How far Kafka has committed an outbox: two slots in one small file, written in turn, so that it
needs no room on a full disk.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.disk import sync_directory, unwritable, write_at
from esper.errors import CorruptError

_SLOT: Final = struct.Struct("<QQQ")
_SLOT_BYTES: Final = _SLOT.size + 4


@dataclass(frozen=True, slots=True)
class Ack:
    """Every event before `sequence` is committed, and stands before `offset` in the journal's
    partition.
    """

    sequence: int
    offset: int


class AckFile:
    """The file at `path`, made if it is missing.

    Raises:
        CorruptError: neither slot is whole.
    """

    def __init__(self, path: Path) -> None:
        try:
            new = not path.exists()
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._path = path
            self._count = 0
            self.ack = Ack(0, 0)
            # an empty file is one whose making was cut off: nothing was acknowledged before both
            # slots stand
            if new or not os.fstat(self._fd).st_size:
                self.write(self.ack)
                self.write(self.ack)
                # both slots, so that the file never has to grow again: an overwrite needs no room
                sync_directory(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error
        slots = [
            slot
            # one torn slot is expected after a crash; the other one is older and true
            for at in (0, 1)
            if (slot := _slot(os.pread(self._fd, _SLOT_BYTES, at * _SLOT_BYTES))) is not None
        ]
        if not slots:
            self.close()
            raise CorruptError(
                f"{path} is damaged at offset 0: both of its slots are broken; delete it "
                "to have the complete journal read again."
            )
        # by count and not by sequence: `restart` may go back to a lower sequence
        self._count, self.ack = max(slots, key=lambda slot: slot[0])

    def write(self, ack: Ack) -> None:
        """Replace the older slot, durably. Raises OSError."""
        # counted only after the write: a failed write leaves the same, older slot to the next try
        head = _SLOT.pack(self._count + 1, ack.sequence, ack.offset)
        write_at(
            self._fd, head + zlib.crc32(head).to_bytes(4, "little"), self._count % 2 * _SLOT_BYTES
        )
        self._count += 1
        self.ack = ack

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _slot(content: bytes) -> tuple[int, Ack] | None:
    head = content[: _SLOT.size]
    if len(content) < _SLOT_BYTES or zlib.crc32(head) != int.from_bytes(
        content[_SLOT.size :], "little"
    ):
        return None
    count, sequence, offset = _SLOT.unpack(head)
    return count, Ack(sequence, offset)
