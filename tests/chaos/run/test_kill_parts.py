"""Each part of the stack is killed with SIGKILL in the middle of a live run: training goes on, the part comes back, nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from esper.events import TOPICS
from esper.history.ddl import snake
from esper.history.queries import HttpSource, wait_caught_up
from esper.oona.count import committed
from esper.oona.kafka import KafkaBus
from esper.stack import running, status

pytestmark = pytest.mark.timeout(400)
PARTS = ("tolaria", "tamiyo", "nissa", "history", "foundry", "broker")


def esper(home: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "esper.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, "ESPER_HOME": str(home)}
    )


def pid_of(home: Path, name: str) -> int:
    now = status(Settings(home=home))
    part = now.part(name) if now else None
    return part.process.pid if part and part.process else 0


def phase_of(home: Path, name: str) -> str:
    now = status(Settings(home=home))
    part = now.part(name) if now else None
    return part.phase if part else ""


def until(condition: Any, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


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
            back = until(lambda name=name, before=before: pid_of(home, name) not in (0, before) and phase_of(home, name) == "ready", 60)
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
        endpoints = running(Settings(home=home))
        assert endpoints is not None
        bus = KafkaBus(endpoints.bootstrap)
        assert wait_caught_up(endpoints.history_url, bus, timeout=60, settings=Settings(home=home))
        counted = committed(bus, list(TOPICS))
        source = HttpSource(endpoints.history_url, Settings(home=home))
        for name, topic in TOPICS.items():
            tables = [snake(record) for record in topic.records]
            raw = sum(int(source.ask(f"SELECT count() FROM raw_{table}", "TSV")) for table in tables)  # noqa: S608
            assert raw == counted[name], name
            for table in tables:
                assert source.ask(f"SELECT event_id FROM {table} GROUP BY event_id HAVING count() > 1", "TSV") == b"", table  # noqa: S608
        answered = source.ask("SELECT count() - uniqExact(packet) FROM epoch_reviewed WHERE run_id = 'tough'", "TSV")
        assert int(answered) == 0
    finally:
        esper(home, "down")
