"""What the kill tests share: runs with their lives and deaths, and what proves them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import TOPICS, JournalEvent, decode
from esper.events.records import RunCompleted, RunResumed
from esper.history.queries import HttpSource, wait_caught_up
from esper.history.tables.ddl import snake
from esper.journal.reading import from_kafka
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.frames import MAGIC
from esper.oona.inbound.count import committed
from esper.stack import running, status
from tests import commands
from tests.stackfixtures import access
from tests.waiting import PATIENCE_S, until

CLOCK = SystemClock()
PARTS = ("tolaria", "tamiyo", "nissa", "history", "foundry", "broker")
LONGEST_S = 600.0  # of one life, on a machine with better things to do
_NEXT_STEP = re.compile(r"The next step came ([\d.]+) s after the process began: (.+)\.")


def environment(home: Path) -> dict[str, str]:
    """That of a command in `home`, with lines that are not wrapped."""
    return {**os.environ, "ESPER_HOME": str(home), "COLUMNS": "1000"}


def esper(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in `home`, to its end."""
    return commands.run(*arguments, environment=environment(home))


def pid_of(home: Path, name: str) -> int:
    """The pid of a part of the stack; 0 while it has none."""
    now = status(Settings(home=home))
    part = now.part(name) if now else None
    return part.process.pid if part and part.process else 0


def phase_of(home: Path, name: str) -> str:
    """The phase of a part of the stack."""
    now = status(Settings(home=home))
    part = now.part(name) if now else None
    return part.phase if part else ""


def returned(home: Path, name: str, before: int) -> bool:
    """Whether a part that had this pid is back as another process, and ready."""
    return pid_of(home, name) not in (0, before) and phase_of(home, name) == "ready"


def startup(life: commands.Command) -> dict[str, float]:
    """Seconds from the beginning of a life to its first live step by part, and in all.

    Empty where it did not come so far, or did not resume.
    """
    found = _NEXT_STEP.search(life.err.read_text())
    if found is None:
        return {}
    parts = (part.rpartition(" ") for part in found[2].split(", "))
    return {name: float(seconds) for name, _, seconds in parts} | {"all": float(found[1])}


def done(home: Path, *arguments: str) -> dict[str, Any]:
    """What a command says as JSON at its end, which has to be a good one."""
    ended = esper(home, *arguments)
    assert ended.returncode == 0, (arguments, ended.stderr)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@dataclass
class Run:
    """A run, its lives and deaths.

    `end` is what its last life said; empty where the one before died with the whole run in its
    journal.
    """

    home: Path
    run_id: str
    settings: tuple[str, ...]
    lives: int = 0
    deaths: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def outbox(self) -> Path:
        """Where its frames are."""
        return self.home / "runs" / self.run_id / "outbox"

    def written(self, since_us: int) -> int:
        """Bytes of frames that were appended since a moment, at most those of the newest
        segment.
        """
        found = [0]
        for path in self.outbox.glob("*.frames"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if state.st_mtime_ns // 1000 >= since_us:
                found.append(state.st_size - len(MAGIC))
        return max(found)

    def begin(self, *, cold: bool = False) -> commands.Command:
        """The next life."""
        how = (
            ["--resume"]
            if self.lives
            else [argument for one in self.settings for argument in ("--set", one)]
        )
        self.lives += 1
        arguments = ("run", "mnist1d", "--json", "--run-id", self.run_id, *how)
        return commands.begin(*arguments, environment=environment(self.home), cold=cold)

    def wait_written(
        self, life: commands.Command, since_us: int, enough: int, wait_s: float
    ) -> bool:
        """Live until more than `enough` bytes of frames were written and then for `wait_s`.

        False when the run has ended before.
        """
        deadline = CLOCK.monotonic() + LONGEST_S
        while self.written(since_us) <= enough and life.poll() is None:
            assert CLOCK.monotonic() < deadline, (
                f"the trainer wrote nothing: {life.err.read_text()[-2000:]}"
            )
            CLOCK.sleep(0.005)
        CLOCK.sleep(wait_s)
        return life.poll() is None

    def ended(self, life: commands.Command) -> None:
        """Take note of what a life says at its end."""
        code, said = life.wait(LONGEST_S), life.err.read_text()
        if code == 2 and self.lives > 1 and "is finished, so there is nothing to resume" in said:
            return
        assert code == 0, said
        self.end = json.loads(life.out.read_text().splitlines()[-1])


def journal(cluster: Access | str, run_id: str) -> list[JournalEvent]:
    """A run's journal, as Kafka has it."""
    events = [decode(received.value) for received in from_kafka(cluster, run_id, clock=CLOCK)]
    assert all(isinstance(event, JournalEvent) for event in events)
    return events  # type: ignore[return-value]


def counted_once(home: Path) -> int:
    """That the history comes to have every message of Kafka once, and no event twice.

    Gives the number of messages.
    """
    endpoints = running(Settings(home=home))
    assert endpoints is not None
    bus, source = (
        KafkaBus(access(Settings(home=home))),
        HttpSource(endpoints.history_url, Settings(home=home)),
    )
    assert wait_caught_up(
        endpoints.history_url, bus, timeout=PATIENCE_S, settings=Settings(home=home)
    )
    total = 0
    for name, topic in TOPICS.items():
        tables, seen = [snake(record) for record in topic.records], [0, 0]

        def equal(name: str = name, tables: list[str] = tables, seen: list[int] = seen) -> bool:
            seen[0] = sum(
                int(source.ask(f"SELECT count() FROM raw_{table}", "TSV"))  # noqa: S608
                for table in tables
            )
            seen[1] = committed(bus, [name])[name]
            return seen[0] == seen[1]

        until(equal, lambda name=name, seen=seen: f"{name}: {seen[0]} rows of {seen[1]} messages")  # type: ignore[misc]  # parts write on meanwhile
        total += seen[1]
        for table in tables:
            assert (
                source.ask(
                    f"SELECT event_id FROM {table} GROUP BY event_id HAVING count() > 1",  # noqa: S608
                    "TSV",
                )
                == b""
            ), table
    return total


def proven(run: Run, cluster: Access | str, digest: str = "") -> list[JournalEvent]:
    """The journal of a run that has ended: gapless, nothing twice, each life once, folded to what
    the trainer had; and the digest, if one is given.
    """
    events = journal(cluster, run.run_id)
    (completed,) = [event for event in events if isinstance(event, RunCompleted)]
    assert completed.digest == (digest or completed.digest), run.deaths
    folded = done(run.home, "replay", "fold", run.run_id, "--json")
    assert folded["status"] == "COMPLETED"
    assert folded["equals_live"] is True or not run.end
    assert [event.sequence for event in events] == list(range(len(events)))
    assert len({event.event_id for event in events}) == len(events)
    lives = [event.incarnation for event in events if isinstance(event, RunResumed)]
    assert lives == sorted(set(lives))
    return events
