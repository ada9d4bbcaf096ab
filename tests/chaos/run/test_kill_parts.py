"""Each part of the stack is killed with SIGKILL in the middle of a live run: training goes on, the part comes back, nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from esper.config import Settings
from esper.history.queries import HttpSource
from esper.stack import running
from tests.chaos.run.lives import PARTS, counted_once, esper, phase_of, pid_of, returned, until

pytestmark = pytest.mark.timeout(400)


@pytest.mark.slow
def test_every_part_dies_once_in_a_live_run(tmp_path: Path) -> None:
    """Kill -9 of each part during one run: no step takes over 3 s, each part comes back, the fold agrees, and history has every message once."""
    home = tmp_path / "home"
    assert esper(home, "up", "--wait", "120").returncode == 0
    try:
        command = [sys.executable, "-m", "esper.cli", "run", "mnist1d", "--json", "--run-id", "tough", "--set", "run.epochs=400"]
        trainer = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "ESPER_HOME": str(home)}
        )
        outbox = home / "runs" / "tough" / "outbox"
        assert until(lambda: any(path.stat().st_size > 2000 for path in outbox.glob("*") if path.is_file()), 90)
        for name in PARTS:
            before = pid_of(home, name)
            assert before, name
            os.kill(before, signal.SIGKILL)
            back = until(partial(returned, home, name, before), 60)
            assert back, f"{name} did not come back: {phase_of(home, name)}"
            assert trainer.poll() is None, trainer.communicate()[1]
        trainer.send_signal(signal.SIGINT)
        out, err = trainer.communicate(timeout=120)
        assert trainer.returncode == 130, err
        found = json.loads(out.splitlines()[-1])
        assert found["dropped"] == 0
        assert found["longest_step_s"] <= 3.0

        folded = json.loads(esper(home, "replay", "tough", "--fold", "--json").stdout)
        assert folded["equals_live"] is True
        counted_once(home, timeout=60)
        endpoints = running(Settings(home=home))
        assert endpoints is not None
        source = HttpSource(endpoints.history_url, Settings(home=home))
        answered = source.ask("SELECT count() - uniqExact(packet) FROM epoch_reviewed WHERE run_id = 'tough'", "TSV")
        assert int(answered) == 0
    finally:
        esper(home, "down")
