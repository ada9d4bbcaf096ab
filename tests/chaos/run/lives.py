"""What the kill tests share: an installation with its stack, runs in it with their lives and deaths, and what proves them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import TOPICS, JournalEvent, decode
from esper.events.records import RunCompleted, RunResumed
from esper.history.ddl import snake
from esper.history.queries import HttpSource, wait_caught_up
from esper.journal.reading import from_kafka
from esper.oona.access import Access
from esper.oona.count import committed
from esper.oona.frames import MAGIC
from esper.oona.kafka import KafkaBus
from esper.stack import running, status
from tests.stackfixtures import access

CLOCK = SystemClock()
PARTS = ("tolaria", "tamiyo", "nissa", "history", "foundry", "broker")
LONGEST_S = 480.0  # of one life, on a machine with better things to do
_NEXT_STEP = re.compile(r"The next step came ([\d.]+) s after the process began: (.+)\.")


def environment(home: Path) -> dict[str, str]:
    """That of a command in `home`, with lines that are not wrapped."""
    return {**os.environ, "ESPER_HOME": str(home), "COLUMNS": "1000"}


def esper(home: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A command in `home`, to its end."""
    command = [sys.executable, "-m", "esper.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment(home))


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


def until(condition: Callable[[], object], timeout: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = CLOCK.monotonic() + timeout
    while CLOCK.monotonic() < deadline:
        if condition():
            return True
        CLOCK.sleep(0.05)
    return False


@dataclass(slots=True)
class Life:
    """A process of the command. `spawned` and `code` ask for its exit code, None while it lives."""

    pid: int
    spawned: Callable[[], int | None]
    out: Path
    err: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        if self.code is None:
            self.code = self.spawned()
        return self.code

    def wait(self, timeout: float = LONGEST_S) -> int:
        """Its exit code, once it has ended by itself."""
        assert until(lambda: self.poll() is not None, timeout), f"it does not end: {self.err.read_text()[-2000:]}"
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait(30)

    def startup(self) -> dict[str, float]:
        """Seconds from its beginning to its first live step by part, and in all; empty where it did not come so far, or did not resume."""
        found = _NEXT_STEP.search(self.err.read_text())
        if found is None:
            return {}
        parts = (part.rpartition(" ") for part in found[2].split(", "))
        return {name: float(seconds) for name, _, seconds in parts} | {"all": float(found[1])}


@dataclass(slots=True)
class Nursery:
    """Begins commands in `home`: out of a process that has everything imported, or from nothing."""

    home: Path
    folder: Path
    begun: int = 0
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.chaos.run.nursery"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(self.home) | {"PYTHONPATH": str(Path.cwd())}
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.communicate()

    def begin(self, *arguments: str, cold: bool = False) -> Life:
        """A command; `cold` in a process of its own that imports everything anew."""
        self.begun += 1
        out, err = (self.folder / f"{self.begun:04d}.{what}" for what in ("out", "err"))
        if cold:
            with out.open("w") as to, err.open("w") as told:
                process = subprocess.Popen(
                    [sys.executable, "-m", "esper.cli", *arguments], stdout=to, stderr=told, env=environment(self.home)
                )
            return Life(process.pid, process.poll, out, err)
        pid = self._ask({"arguments": arguments, "out": str(out), "err": str(err)})["pid"]
        return Life(pid, lambda: self._ask({"pid": pid})["code"], out, err)

    def done(self, *arguments: str) -> dict[str, Any]:
        """What a command says as JSON at its end, which has to be a good one."""
        life = self.begin(*arguments)
        assert life.wait() == 0, (arguments, life.err.read_text())
        found: dict[str, Any] = json.loads(life.out.read_text().splitlines()[-1])
        return found

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@dataclass
class Run:
    """A run, its lives and deaths. `end` is what its last life said; empty where the one before died with the whole run in its journal."""

    nursery: Nursery
    run_id: str
    settings: tuple[str, ...]
    lives: int = 0
    deaths: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def outbox(self) -> Path:
        """Where its frames are."""
        return self.nursery.home / "runs" / self.run_id / "outbox"

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

    def begin(self, *, cold: bool = False) -> Life:
        """The next life."""
        how = ["--resume"] if self.lives else [argument for one in self.settings for argument in ("--set", one)]
        self.lives += 1
        return self.nursery.begin("run", "mnist1d", "--json", "--run-id", self.run_id, *how, cold=cold)

    def wait_written(self, life: Life, since_us: int, enough: int, wait_s: float) -> bool:
        """Live until more than `enough` bytes of frames were written and then for `wait_s`; false when the run has ended before."""
        deadline = CLOCK.monotonic() + LONGEST_S
        while self.written(since_us) <= enough and life.poll() is None:
            assert CLOCK.monotonic() < deadline, f"the trainer wrote nothing: {life.err.read_text()[-2000:]}"
            CLOCK.sleep(0.005)
        CLOCK.sleep(wait_s)
        return life.poll() is None

    def ended(self, life: Life) -> None:
        """Take note of what a life says at its end."""
        code, said = life.wait(), life.err.read_text()
        if code == 2 and self.lives > 1 and "is finished, so there is nothing to resume" in said:
            return
        assert code == 0, said
        self.end = json.loads(life.out.read_text().splitlines()[-1])


def journal(cluster: Access | str, run_id: str) -> list[JournalEvent]:
    """A run's journal, as Kafka has it."""
    events = [decode(received.value) for received in from_kafka(cluster, run_id, clock=CLOCK)]
    assert all(isinstance(event, JournalEvent) for event in events)
    return events  # type: ignore[return-value]


def counted_once(home: Path, *, timeout: float) -> int:
    """That the history has every message of Kafka once and no event twice, when it has caught up; gives the number of messages."""
    endpoints = running(Settings(home=home))
    assert endpoints is not None
    bus = KafkaBus(access(Settings(home=home)))
    assert wait_caught_up(endpoints.history_url, bus, timeout=timeout, settings=Settings(home=home))
    counted, source = committed(bus, list(TOPICS)), HttpSource(endpoints.history_url, Settings(home=home))
    for name, topic in TOPICS.items():
        tables = [snake(record) for record in topic.records]
        raw = sum(int(source.ask(f"SELECT count() FROM raw_{table}", "TSV")) for table in tables)  # noqa: S608
        assert raw == counted[name], name
        for table in tables:
            assert source.ask(f"SELECT event_id FROM {table} GROUP BY event_id HAVING count() > 1", "TSV") == b"", table  # noqa: S608
    return sum(counted.values())


def proven(run: Run, cluster: Access | str, digest: str = "") -> list[JournalEvent]:
    """The journal of a run that has ended: gapless, nothing twice, each life once, folded to what the trainer had; and the digest, if one is given."""
    events = journal(cluster, run.run_id)
    (completed,) = [event for event in events if isinstance(event, RunCompleted)]
    assert completed.digest == (digest or completed.digest), run.deaths
    folded = run.nursery.done("replay", run.run_id, "--fold", "--json")
    assert folded["status"] == "COMPLETED"
    assert folded["equals_live"] is True or not run.end
    assert [event.sequence for event in events] == list(range(len(events)))
    assert len({event.event_id for event in events}) == len(events)
    lives = [event.incarnation for event in events if isinstance(event, RunResumed)]
    assert lives == sorted(set(lives))
    return events
