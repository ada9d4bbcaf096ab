"""Each part of the stack is killed with SIGKILL in the middle of a live run: training goes on, the
part comes back, nothing is lost or doubled.
"""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from esper.config import Settings
from esper.history.queries import HttpSource
from esper.stack import running
from tests.chaos.run.lives import PARTS, counted_once, esper, phase_of, pid_of, returned
from tests.integration.run.whole import begin
from tests.waiting import until


@pytest.mark.slow
def test_every_part_dies_once_in_a_live_run(home: Path) -> None:
    """Kill -9 of each part during one run: the trainer goes on, each part comes back, the fold
    agrees, and history has every message once.
    """
    trainer = begin(
        home, "run", "mnist1d", "--json", "--run-id", "tough", "--set", "run.epochs=100000"
    )
    outbox = home / "runs" / "tough" / "outbox"
    until(
        lambda: any(path.stat().st_size > 2000 for path in outbox.glob("*") if path.is_file()),
        trainer.err.read_text,
    )
    for name in PARTS:
        before = pid_of(home, name)
        assert before, name
        os.kill(before, signal.SIGKILL)
        until(partial(returned, home, name, before), partial(phase_of, home, name))
        assert trainer.poll() is None, trainer.said()[1]
    trainer.send_signal(signal.SIGINT)
    out, err = trainer.said()
    assert trainer.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["dropped"] == 0

    folded = json.loads(esper(home, "replay", "fold", "tough", "--json").stdout)
    assert folded["equals_live"] is True
    counted_once(home)
    endpoints = running(Settings(home=home))
    assert endpoints is not None
    source = HttpSource(endpoints.history_url, Settings(home=home))
    answered = source.ask(
        "SELECT count() - uniqExact(packet) FROM epoch_reviewed WHERE run_id = 'tough'", "TSV"
    )
    assert int(answered) == 0
