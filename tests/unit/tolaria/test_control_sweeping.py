"""Claims about the sweeps that the control process begins by the clock: real processes, whose
program is a few lines.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.config import CheckpointSettings, Settings
from esper.tolaria.control import sweeping as module
from esper.tolaria.control.sweeping import Sweeps, command
from tests.stackfixtures import eventually
from tests.waiting import never

CLOCK = SystemClock()
SECOND = 1 / 3_600
LINES = (
    "import os, pathlib, sys; file = pathlib.Path(os.environ['ESPER_HOME'], 'calls'); "
    "file.open('a').write(f'{os.getpid()}\\n'); "
)


def started(home: Path, monkeypatch: pytest.MonkeyPatch, program: str, *, every: float) -> Sweeps:
    """Sweeps every so many seconds, of a program that notes each of its lives and then does
    `program`.
    """
    monkeypatch.setattr(module, "command", lambda: (sys.executable, "-c", LINES + program))
    settings = Settings(home=home, checkpoints=CheckpointSettings(sweep_hours=every * SECOND))
    sweeps = Sweeps(settings, environment={**os.environ, "ESPER_HOME": str(home)}, clock=CLOCK)
    sweeps.start()
    return sweeps


def calls(home: Path) -> list[int]:
    """The pids of the sweeps so far."""
    file = home / "calls"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_store_is_swept_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time a while after the home is made, and later whether it failed or not."""
    begun = CLOCK.now_us()
    sweeps = started(tmp_path, monkeypatch, "sys.exit('no broker')", every=0.3)
    assert eventually(lambda: len(calls(tmp_path)) >= 3)
    sweeps.stop()
    assert begun <= int((tmp_path / "swept").read_text()) <= CLOCK.now_us()


def test_what_somebody_swept_just_now_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that every sweep leaves counts, whoever began it.

    Once it is old enough there is a sweep.
    """
    settings = Settings(home=tmp_path)
    settings.swept_path.write_text(str(CLOCK.now_us() + 3_600_000_000))
    sweeps = started(tmp_path, monkeypatch, "pass", every=0.1)
    assert never(lambda: bool(calls(tmp_path)))
    settings.swept_path.write_text(str(CLOCK.now_us() - 3_600_000_000))
    assert eventually(lambda: bool(calls(tmp_path)))
    sweeps.stop()


def test_the_end_does_not_wait_for_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep under way is ended, and is gone."""
    sweeps = started(tmp_path, monkeypatch, "import time; time.sleep(600)", every=0.1)
    assert eventually(lambda: bool(calls(tmp_path)))
    sweeps.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(calls(tmp_path)[0], 0)


def test_zero_hours_is_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has nothing to do."""
    sweeps = started(tmp_path, monkeypatch, "pass", every=0)
    sweeps.join(10)
    assert not sweeps.is_alive()
    assert calls(tmp_path) == []


def test_the_command_is_the_one_that_people_type() -> None:
    """`esper gc`."""
    assert command()[-3:] == ("esper.cli", "gc", "--json")
