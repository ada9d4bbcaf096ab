"""Kill -9 of everything, in any order, as often as one likes: what each run computed is what it
would have been, and nothing is lost or doubled.

ESPER_CHAOS_KILLS says how often (4), ESPER_CHAOS_SEED what and when. The report is one line of JSON
on standard output, and a file in the folder that ESPER_CHAOS_REPORT names. Most lives of a trainer
are forked from a process that has imported everything, so that many fit into a test; every fourth
begins from nothing, as `esper run` does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from esper.errors import UnavailableError
from esper.history.queries import HttpSource
from esper.stack import running, wait_ready
from tests.chaos.run.lives import (
    CLOCK,
    LONGEST_S,
    PARTS,
    Run,
    counted_once,
    done,
    pid_of,
    proven,
    returned,
    startup,
)
from tests.commands import Command
from tests.integration.run.whole import FAMILIES, GROWING
from tests.stackfixtures import access
from tests.waiting import PATIENCE_S

KILLS = int(os.environ.get("ESPER_CHAOS_KILLS", "4"))
SEED = int(os.environ.get("ESPER_CHAOS_SEED", "20261126"))
VICTIMS = (
    "trainer",
    "trainer",
    "tamiyo",
    "nissa",
    "history",
    "foundry",
    "broker",
)  # each so often among as many kills
COLD = 4  # one of so many lives begins from nothing
SHORT = (
    "run.epochs=8",
    "checkpoints.every_epochs=2",
    "tamiyo.start_timeout_s=20",
    FAMILIES,
    *GROWING,
)
LOCKSTEP = ("decisions=lockstep", "run.seed=1", *SHORT)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 90 * KILLS)]


def victims(chance: random.Random) -> Iterator[str]:
    """Whom to kill next: each part equally often, the trainer twice as often, in a random order."""
    while True:
        yield from chance.sample(VICTIMS, len(VICTIMS))


@dataclass
class Hunt:
    """Kills in a stack.

    `away` are the parts that have not come back yet, since when, and the pid that was killed.
    """

    home: Path
    chance: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    back_s: dict[str, list[float]] = field(default_factory=dict)
    away: dict[str, tuple[float, int]] = field(default_factory=dict)
    refused: int = 0
    steps: dict[str, list[dict[str, float]]] = field(
        default_factory=lambda: {"from nothing": [], "forked": []}
    )

    @property
    def kills(self) -> int:
        """How many so far."""
        return self.killed.total()

    def part(self, name: str) -> bool:
        """Kill a part, if it lives just now.

        One that is away already is passed over, which is false.
        """
        pid = pid_of(self.home, name)
        if name in self.away or not pid:
            return False
        os.kill(pid, signal.SIGKILL)
        self.killed[name] += 1
        self.away[name] = CLOCK.monotonic(), pid
        return True

    def look(self) -> None:
        """Take note of who is back."""
        for name, (since, pid) in list(self.away.items()):
            if returned(self.home, name, pid):
                self.back_s.setdefault(name, []).append(CLOCK.monotonic() - since)
                del self.away[name]

    def quiet(self) -> None:
        """Wait until every part is back."""
        deadline = CLOCK.monotonic() + PATIENCE_S
        while self.away:
            assert CLOCK.monotonic() < deadline, f"{', '.join(self.away)} did not come back"
            self.look()
            CLOCK.sleep(0.05)
        wait_ready(Settings(home=self.home), PARTS, PATIENCE_S)

    def live_through(self, run: Run, victims: Iterator[str], deaths: int) -> None:
        """A run from its first life to its end, with so many kills on the way, if it lasts that
        long.
        """
        killed_at, cold, life, since = 0.0, False, run.begin(), CLOCK.now_us()
        deadline = CLOCK.monotonic() + LONGEST_S
        while (code := life.poll()) is None or code == UnavailableError.exit_code:
            self.look()
            if code is not None:  # a resume is refused without a broker, which is on its way back
                assert self.away or self.refused < KILLS, life.err.read_text()
                self.refused += 1
                life, since = run.begin(cold=cold), CLOCK.now_us()
                continue
            if not deaths or self.kills >= KILLS:
                assert CLOCK.monotonic() < deadline, (
                    f"the run does not end: {life.err.read_text()[-2000:]}"
                )
                CLOCK.sleep(0.02)
                continue
            enough, wait_s = self.chance.choice((0, 0, 600, 1_500)), self.chance.random() * 1.5
            if not run.wait_written(life, since, enough, wait_s):
                continue
            victim = next(victims)
            if victim != "trainer" and not self.part(victim):
                continue
            deaths -= 1
            run.deaths.append({"victim": victim, "after_bytes": enough, "wait_s": round(wait_s, 3)})
            if victim == "trainer":
                life.kill()
                self._note(life, killed_at, cold=cold)
                self.killed["trainer"] += 1
                killed_at, cold = CLOCK.monotonic(), not self.killed["trainer"] % COLD
                life, since = run.begin(cold=cold), CLOCK.now_us()
            deadline = CLOCK.monotonic() + LONGEST_S
        run.ended(life)
        self._note(life, killed_at, cold=cold)

    def _note(self, life: Command, killed_at: float, *, cold: bool) -> None:
        """Take note of how long it took from the last kill of the trainer to a step, if this life
        came so far.
        """
        if killed_at and (found := startup(life)):
            self.steps["from nothing" if cold else "forked"].append(found)


def summed(found: Sequence[float]) -> dict[str, float]:
    """Median and maximum, seconds."""
    return (
        {"median": round(statistics.median(found), 2), "max": round(max(found), 2)} if found else {}
    )


def by_part(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Median and maximum of each part of a start."""
    names = {name: None for one in found for name in one}
    return {
        "lives": len(found),
        **{name: summed([one[name] for one in found if name in one]) for name in names},
    }


def in_history(home: Path, runs: Sequence[Run], steps: int) -> dict[str, Any]:
    """What the history says: every message of Kafka once, no event twice, one answer to a packet.

    And how many steps lack their telemetry.
    """
    messages = counted_once(home)
    endpoints = running(Settings(home=home))
    assert endpoints is not None
    source = HttpSource(endpoints.history_url, Settings(home=home))
    lacking = 0
    for run in runs:
        name = run.run_id
        where = f"WHERE run_id = '{name}'"
        answered = source.ask(
            f"SELECT count() - uniqExact(timeline, packet) FROM epoch_reviewed {where}",  # noqa: S608
            "TSV",
        )
        assert int(answered) == 0, name
        figures = source.ask(
            f"SELECT count(), uniqExact(step), max(step) FROM training_step {where}",  # noqa: S608
            "TSV",
        )
        told, once, last = map(int, figures.split())
        assert told == once, name
        assert last == steps or not run.end, (
            name
        )  # a life that was killed takes with it what Kafka did not have yet of its telemetry
        lacking += steps - once
    return {"messages": messages, "steps_without_telemetry": lacking}


def test_everything_is_killed_and_every_run_is_what_it_would_have_been(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lockstep runs end with the digest of the one that was left alone, live ones with that of
    their own journal executed again from scratch.
    """
    chance, begun = random.Random(SEED), CLOCK.monotonic()  # noqa: S311  # the same for the same seed
    hunt, order, runs = Hunt(home, chance), victims(chance), list[Run]()
    whole = Run(home, "hunted-whole", LOCKSTEP)
    whole.ended(whole.begin())
    while hunt.kills < KILLS:
        number = len(runs)
        live = number % 2 == 1
        run = Run(home, f"hunted-{number}", (f"run.seed={number}", *SHORT) if live else LOCKSTEP)
        runs.append(run)
        hunt.live_through(
            run, order, 2 if number < 2 else chance.randint(4, 10)
        )  # few kills see both modes
        hunt.quiet()
        proven(run, access(Settings(home=home)), "" if live else whole.end["digest"])
        if live:
            done(home, "replay", "verify", run.run_id, "--from-scratch", "--workers", "1", "--json")
    told = in_history(home, [whole, *runs], whole.end["steps"])
    report = {
        "seed": SEED,
        "kills": hunt.kills,
        "killed": dict(sorted(hunt.killed.items())),
        "runs": {"lockstep": (len(runs) + 1) // 2, "live": len(runs) // 2},
        "lives": sum(run.lives for run in runs),
        "refused_without_a_broker": hunt.refused,
        "seconds": round(CLOCK.monotonic() - begun),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[2], 1),
        "from_kill_to_next_step_s": {how: by_part(found) for how, found in hunt.steps.items()},
        "from_kill_to_ready_s": {
            name: summed(found) for name, found in sorted(hunt.back_s.items())
        },
        "history": told,
        "digest": whole.end["digest"],
        "deaths": {run.run_id: run.deaths for run in runs},
    }
    line = json.dumps(report)
    with capsys.disabled():
        sys.stdout.write(line + "\n")
    if folder := os.environ.get("ESPER_CHAOS_REPORT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"kill-everything-{hunt.kills}-seed-{SEED}.json").write_text(line + "\n")
