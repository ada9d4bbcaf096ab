"""Kill -9 of the trainer at any moment, as often as one likes: the resumed run ends with the bits
of the run that was never killed.

ESPER_CHAOS_KILLS says how often (3), ESPER_CHAOS_SEED at which moments. The report is one line of
JSON on standard output.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from esper.events import JournalEvent
from esper.events.records import RunResumed
from esper.history.queries import HttpSource
from esper.oona.bus.access import Access
from esper.stack import running
from tests.chaos.run.lives import CLOCK, Run, counted_once, proven
from tests.integration.run.whole import LOCKSTEP
from tests.stackfixtures import access

KILLS = int(os.environ.get("ESPER_CHAOS_KILLS", "3"))
SEED = int(os.environ.get("ESPER_CHAOS_SEED", "20261125"))
LONG = 20  # kills from which on chance must have met every kind of moment
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 60 * KILLS)]


def live(run: Run, enough: int, wait_s: float) -> bool:
    """One life, killed once more than `enough` bytes of frames were written and `wait_s` later.

    False when the run had ended before.
    """
    since, life = CLOCK.now_us(), run.begin()
    if not run.wait_written(life, since, enough, wait_s):
        run.deaths.append({"finished": True})
        run.ended(life)
        return False
    life.kill()
    run.deaths.append({"after_bytes": enough, "wait_s": round(wait_s, 3)})
    return True


def as_if_left_alone(run: Run, whole: dict[str, Any], cluster: Access) -> list[JournalEvent]:
    """The killed run is the whole one, and its journal proves itself."""
    events = proven(run, cluster, whole["digest"])
    for figure in ("accuracy", "loss", "steps", "epochs", "seeds", "parameters") if run.end else ():
        assert run.end[figure] == whole[figure], figure
    return events


def test_a_trainer_killed_at_random_moments_ends_as_if_it_had_not_been(
    home: Path, lockstep: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first snapshot, in re-execution, and anywhere: same digest, a gapless journal, no
    event twice in Kafka or history.
    """
    chance = random.Random(SEED)  # noqa: S311  # moments, the same for the same seed
    endpoints, cluster = running(Settings(home=home)), access(Settings(home=home))
    assert endpoints is not None
    runs, events, done = [Run(home, "killed-1", LOCKSTEP)], list[JournalEvent](), 0
    while done < KILLS:
        run = runs[-1]
        # the first life dies before a snapshot, the second well on its way, the third as soon as it
        # has said that it resumes
        plan = {0: (0, 0.0), 1: (3_000, chance.random()), 2: (0, chance.random() * 0.1)}
        if live(
            run, *plan.get(run.lives, (chance.choice((0, 0, 600, 2_000)), chance.random() * 1.5))
        ):
            done += 1
            continue
        events += as_if_left_alone(run, lockstep[0], cluster)
        runs.append(Run(home, f"killed-{len(runs) + 1}", LOCKSTEP))
    if runs[-1].lives:
        runs[-1].ended(runs[-1].begin())
        events += as_if_left_alone(runs[-1], lockstep[0], cluster)
    lives = [event for event in events if isinstance(event, RunResumed)]
    in_record = sum(
        isinstance(before, RunResumed) and isinstance(after, RunResumed)
        for before, after in itertools.pairwise(events)
    )
    report = {
        "seed": SEED,
        "kills": done,
        "resumptions": len(lives),
        "from_first_step": sum(not event.snapshot_id for event in lives),
        "killed_in_re_execution": in_record,
        "digest": lockstep[0]["digest"],
        "deaths": {run.run_id: run.deaths for run in runs},
    }
    with capsys.disabled():
        sys.stdout.write(json.dumps(report) + "\n")
    assert len(lives) >= done - len(runs)
    assert KILLS < LONG or not all(event.snapshot_id for event in lives), (
        "no kill came before a snapshot"
    )
    assert KILLS < LONG or in_record, "no kill came during re-execution"
    counted_once(home)
    source = HttpSource(endpoints.history_url, Settings(home=home))
    for name in (run.run_id for run in runs if run.lives):
        steps = source.ask(
            (
                "SELECT count(), uniqExact(step), max(step) FROM training_step WHERE run_id = "  # noqa: S608
                f"'{name}'"
            ),
            "TSV",
        )
        told, once, last = map(int, steps.split())
        assert (told, last) == (once, lockstep[0]["steps"]), (
            name
        )  # telemetry that Kafka did not have yet dies with a life
