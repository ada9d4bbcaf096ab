"""Kill -9 of the trainer at any moment, as often as one likes: the resumed run ends with the bits of the run that was never killed.

ESPER_CHAOS_KILLS says how often (4), ESPER_CHAOS_SEED at which moments. The report is one line of JSON on standard output.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import TOPICS, JournalEvent, decode
from esper.events.records import RunCompleted, RunResumed
from esper.history.ddl import snake
from esper.history.queries import HttpSource, wait_caught_up
from esper.journal.reading import from_kafka
from esper.oona.frames import MAGIC
from esper.oona.kafka import KafkaBus
from esper.stack import running

CLOCK = SystemClock()
KILLS = int(os.environ.get("ESPER_CHAOS_KILLS", "4"))
SEED = int(os.environ.get("ESPER_CHAOS_SEED", "20261125"))
SETTINGS = ("decisions=lockstep", "run.epochs=14", "run.seed=1", "checkpoints.every_epochs=5")
LONGEST_S = 240.0  # of one life, on a machine with better things to do
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 60 * KILLS)]


@dataclass
class Run:
    """A run in `home`, its lives and deaths."""

    home: Path
    run_id: str
    lives: int = 0
    deaths: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outbox(self) -> Path:
        return self.home / "runs" / self.run_id / "outbox"

    def written(self, since_us: int) -> int:
        """Bytes of frames that were appended since a moment, at most those of the newest segment."""
        found = [0]
        for path in self.outbox.glob("*.frames"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if state.st_mtime_ns // 1000 >= since_us:
                found.append(state.st_size - len(MAGIC))
        return max(found)

    def begin(self) -> subprocess.Popen[str]:
        """The next life."""
        how = ["--resume"] if self.lives else [argument for one in SETTINGS for argument in ("--set", one)]
        self.lives += 1
        command = [sys.executable, "-m", "esper.cli", "run", "mnist1d", "--json", "--run-id", self.run_id, *how]
        environment = {**os.environ, "ESPER_HOME": str(self.home)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def kill_after(self, enough: int, wait_s: float) -> bool:
        """Live until more than `enough` bytes of frames were written and then for `wait_s`; false when the run had ended before."""
        since, child = CLOCK.now_us(), self.begin()
        deadline = CLOCK.monotonic() + LONGEST_S
        while self.written(since) <= enough and child.poll() is None:
            assert CLOCK.monotonic() < deadline, "the trainer wrote nothing"
            CLOCK.sleep(0.005)
        CLOCK.sleep(wait_s)
        if child.poll() is not None:
            self.deaths.append({"finished": True})
            self.end = self.result(child)
            return False
        child.kill()
        child.communicate()
        self.deaths.append({"after_bytes": enough, "wait_s": round(wait_s, 3)})
        return True

    def finish(self) -> dict[str, Any]:
        """Live to the end."""
        return self.result(self.begin())

    def result(self, child: subprocess.Popen[str]) -> dict[str, Any]:
        """What a life says at its end; nothing where the life before it died with the whole run in its journal."""
        out, err = child.communicate(timeout=LONGEST_S)
        if self.lives > 1 and child.returncode == 2 and "is finished, so there is nothing to resume" in err:
            return {}
        assert child.returncode == 0, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    end: dict[str, Any] = field(default_factory=dict)


def esper(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "esper.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "ESPER_HOME": str(home)})


def journal(bootstrap: str, run_id: str) -> list[JournalEvent]:
    events = [decode(value) for value in from_kafka(bootstrap, run_id, clock=CLOCK)]
    assert all(isinstance(event, JournalEvent) for event in events)
    return events  # type: ignore[return-value]


def proven(home: Path, run: Run, whole: dict[str, Any], bootstrap: str) -> list[JournalEvent]:
    """The killed run is the whole one, and its journal proves itself."""
    events = journal(bootstrap, run.run_id)
    (completed,) = [event for event in events if isinstance(event, RunCompleted)]
    assert completed.digest == whole["digest"], run.deaths
    for figure in ("accuracy", "loss", "steps", "epochs", "seeds", "parameters") if run.end else ():
        assert run.end[figure] == whole[figure], figure
    folded = json.loads(esper(home, "replay", run.run_id, "--fold", "--json").stdout)
    assert folded["status"] == "COMPLETED"
    assert folded["equals_live"] is True or not run.end
    assert [event.sequence for event in events] == list(range(len(events)))
    assert len({event.event_id for event in events}) == len(events)
    lives = [event.incarnation for event in events if isinstance(event, RunResumed)]
    assert lives == sorted(set(lives))
    return events


def test_a_trainer_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first snapshot, in re-execution, and anywhere: same digest, a gapless journal, no event twice in Kafka or history."""
    chance, home = random.Random(SEED), tmp_path / "home"  # noqa: S311  # moments, the same for the same seed
    assert esper(home, "up", "--wait", "120").returncode == 0
    try:
        endpoints = running(Settings(home=home))
        assert endpoints is not None
        whole = Run(home, "whole").finish()
        runs = [Run(home, "killed-1")]
        events: list[JournalEvent] = []
        done = 0
        while done < KILLS:
            run = runs[-1]
            # the first life dies before a snapshot, the second well on its way, the third as soon as it has said that it resumes
            plan = {0: (0, 0.0), 1: (3_000, chance.random()), 2: (0, chance.random() * 0.1)}
            enough, wait_s = plan.get(run.lives, (chance.choice((0, 0, 600, 2_000)), chance.random() * 1.5))
            if run.kill_after(enough, wait_s):
                done += 1
                continue
            events += proven(home, run, whole, endpoints.bootstrap)
            runs.append(Run(home, f"killed-{len(runs) + 1}"))
        if runs[-1].lives:
            runs[-1].end = runs[-1].finish()
            events += proven(home, runs[-1], whole, endpoints.bootstrap)
        lives = [event for event in events if isinstance(event, RunResumed)]
        in_record = sum(isinstance(before, RunResumed) and isinstance(after, RunResumed) for before, after in itertools.pairwise(events))
        report = {
            "seed": SEED,
            "kills": done,
            "resumptions": len(lives),
            "from_first_step": sum(not event.snapshot_id for event in lives),
            "killed_in_re_execution": in_record,
            "digest": whole["digest"],
            "deaths": {run.run_id: run.deaths for run in runs},
        }
        with capsys.disabled():
            sys.stdout.write(json.dumps(report) + "\n")
        assert len(lives) >= done - len(runs)
        assert not lives[0].snapshot_id, "the first kill came after the first snapshot"
        assert KILLS < 3 or in_record, "no kill came during re-execution"
        bus = KafkaBus(endpoints.bootstrap)
        assert wait_caught_up(endpoints.history_url, bus, timeout=60, settings=Settings(home=home))
        source = HttpSource(endpoints.history_url, Settings(home=home))
        for table in (snake(record) for topic in TOPICS.values() for record in topic.records):
            assert source.ask(f"SELECT event_id FROM {table} GROUP BY event_id HAVING count() > 1", "TSV") == b"", table  # noqa: S608
        for name in (run.run_id for run in runs if run.lives):
            steps = source.ask(f"SELECT count(), uniqExact(step), max(step) FROM training_step WHERE run_id = '{name}'", "TSV")  # noqa: S608
            assert steps.split() == [str(whole["steps"]).encode()] * 3, name
    finally:
        esper(home, "down")
