"""A full disk in the middle of a run: snapshot, pause, a sentence.

With room again the run goes on and nothing is lost.
"""

from __future__ import annotations

import io
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import decode
from esper.journal.reading import from_kafka
from esper.journal.replay import fold_journal, live_state
from esper.tolaria.recipes.recipe import load
from esper.tolaria.run.assembly import train
from tests.waiting import PATIENCE_S, eventually


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    if made.returncode:
        pytest.skip(
            "a small file system cannot be mounted here: run the tests as root, with the "
            "right to mount tmpfs"
        )
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True, timeout=PATIENCE_S)


def fill(path: Path) -> None:
    """Take the last byte of the disk."""
    block = b"\0" * 4096
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(block)
        except OSError:
            return


def test_a_full_disk_pauses_the_run(small_disk: Path, broker: str) -> None:
    """Training stands still while the disk is full, says so with the place of a snapshot, and ends
    whole once there is room.
    """
    said = io.StringIO()
    recipe = load(
        "mnist1d",
        [
            "run.epochs=30",
            "tamiyo.enabled=false",
            "telemetry.enabled=false",
            "checkpoints.every_epochs=0",
        ],
    )
    ballast = small_disk / "ballast"
    states: list[str] = []

    def disturb() -> None:
        outbox = small_disk / "runs" / "full" / "outbox"
        eventually(
            lambda: any(path.stat().st_size > 4000 for path in outbox.glob("*") if path.is_file())
        )
        fill(ballast)
        eventually(lambda: "Training stands still" in said.getvalue())
        states.append(said.getvalue())
        ballast.unlink()

    other = threading.Thread(target=disturb)
    other.start()
    finished = train(
        Settings(home=small_disk),
        recipe,
        run_id="full",
        cluster=broker,
        history_url="http://127.0.0.1:9",
        clock=SystemClock(),
        console=Console(file=said, width=400),
        history_s=0.0,
    )
    other.join(PATIENCE_S)
    assert "Training stands still until there is room; a snapshot is in" in states[0]
    snapshot = Path(states[0].partition("a snapshot is in ")[2].split()[0].rstrip("."))
    assert snapshot.stat().st_size > 50_000
    assert finished.outcome.outcome == "FINISHED"
    messages = [received.value for received in from_kafka(broker, "full", clock=SystemClock())]
    names = [decode(value).NAME for value in messages]
    assert names.count("EpochEnded") == 30
    assert names.index("RunResumed") == names.index("RunPaused") + 1
    assert fold_journal(
        "full", messages, live_state(small_disk / "runs" / "full"), clock=SystemClock()
    ).compared
    os.unlink(snapshot)  # noqa: PTH108  # it lies outside tmp_path when the disk was full
