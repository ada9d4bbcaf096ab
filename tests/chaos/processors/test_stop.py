"""Processors that are stopped as one stops them, while a message is in hand."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.commands import Command, begin
from tests.integration.processors.workers import Line
from tests.unit.oona.samples import pause
from tests.waiting import until


@pytest.mark.parametrize("hold", ["disk", "busy"])
def test_a_message_in_hand_at_an_orderly_stop_comes_again(
    broker: str, tmp_path: Path, hold: str
) -> None:
    """A worker that is stopped by SIGTERM before it is done with a message, because a disk is full
    or in the middle of it, gets that message from its successor, and those behind it.
    """
    run = f"held-{hold}-{tmp_path.name}"
    wanted = [pause(run, number) for number in range(3)]
    begun, taken = tmp_path / "begun", tmp_path / "taken"
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environment = {
        **os.environ,
        "ESPER_HOME": str(home),
        "ESPER_KAFKA__BOOTSTRAP": broker,
        "FILES": str(tmp_path),
        "HOLD": hold,
        "RUN": run,
    }

    def worker() -> Command:
        return begin(
            module="tests.integration.processors.held_worker",
            environment=environment,
            out=tmp_path / "log",
        )

    line = Line(broker, "control.tolaria.commands")
    first = worker()
    try:
        line.send(*wanted)
        until(begun.exists)
        first.send_signal(signal.SIGTERM)
        assert first.wait() == 0
    finally:
        first.kill()
        line.close()
    assert not taken.exists()
    (tmp_path / "gate").touch()
    second = worker()
    try:
        until(lambda: taken.exists() and len(taken.read_text().split()) == 3)
    finally:
        second.kill()
    assert taken.read_text().split() == [event.event_id for event in wanted]
