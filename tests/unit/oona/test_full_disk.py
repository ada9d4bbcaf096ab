"""A full disk: the outbox stays as it was, says so in a sentence, and goes on once there
is room.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.clock import ManualClock
from esper.errors import StorageFullError
from esper.oona.durable.frames import MAGIC, pack
from esper.oona.durable.outbox import Outbox
from tests.unit.oona.samples import frame

RUN = "run-1"

LIMITED = """
import json, resource, sys
from pathlib import Path
from esper.clock import ManualClock
from esper.errors import StorageFullError
from esper.oona.durable.frames import MAGIC, pack
from esper.oona.durable.outbox import Outbox
from tests.unit.oona.samples import frame

directory = Path(sys.argv[1])
outbox = Outbox.open(directory, clock=ManualClock())
limit = 20_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written, refused = 0, 0
while not refused:
    try:
        outbox.append(frame("run-1", written))
        written += 1
    except StorageFullError:
        refused += 1
size = sum(path.stat().st_size for path in directory.glob("*.frames"))
whole = len(MAGIC) + sum(len(pack(one)) for one in outbox.unacknowledged())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
outbox.append(frame("run-1", written))
outbox.close()
print(json.dumps({"written": written, "size": size, "whole": whole}))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if made.returncode:
        pytest.skip(
            f"mounting a small file system needs root with CAP_SYS_ADMIN: {made.stderr.strip()}"
        )
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True, timeout=600)


def append_for_ever(outbox: Outbox) -> None:
    """Append until something is raised."""
    while True:
        outbox.append(frame(RUN, outbox.next_sequence))


def test_a_full_disk_leaves_the_outbox_as_it_was(small_disk: Path) -> None:
    """StorageFullError names the file; every earlier frame is there, nothing of the refused one.

    With room again the same frame goes in.
    """
    directory = small_disk / RUN / "outbox"
    outbox = Outbox.open(directory, clock=ManualClock())
    outbox.append(frame(RUN, 0))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises(StorageFullError, match=r"\.frames.*free some space"):
        append_for_ever(outbox)
    written = outbox.next_sequence
    with pytest.raises(StorageFullError):
        outbox.append(frame(RUN, written))
    whole = len(MAGIC) + sum(len(pack(one)) for one in outbox.unacknowledged())
    assert sum(path.stat().st_size for path in directory.glob("*.frames")) == whole
    outbox.acknowledge(1, 10)
    outbox.seal("needs no room either")
    ballast.unlink()
    outbox.sealed = ""
    outbox.append(frame(RUN, written))
    assert [one.first_sequence for one in outbox.unacknowledged()] == list(range(1, written + 1))
    outbox.close()


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """The same by RLIMIT_FSIZE, which needs no root: a write that the system cuts short leaves
    nothing behind.
    """
    directory = tmp_path / RUN / "outbox"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(directory)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env=environment,
    )
    found = json.loads(done.stdout)
    assert found["size"] == found["whole"]
    outbox = Outbox.open(directory, clock=ManualClock())
    assert outbox.torn_bytes == 0
    assert [one.first_sequence for one in outbox.unacknowledged()] == list(
        range(found["written"] + 1)
    )
    outbox.close()
