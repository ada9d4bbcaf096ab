"""How the start of a run is spent: counted by part, and not for what a trainer does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from esper.clock import ManualClock, SystemClock
from esper.identity import age_s
from esper.tolaria.run.startup import Startup

RESUMED = """
import json, sys
from pathlib import Path
from tests.unit.tolaria.laboratory import GROWTH, Laboratory, recipe
laboratory = Laboratory(Path(sys.argv[1]), recipe(), GROWTH)
laboratory.killed_at(36)
outcome, session = laboratory.run(resumed=True)
imported = {"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()
print(json.dumps([sorted(imported), outcome.outcome]))
"""


def test_all_time_from_the_creation_of_the_process_is_counted_once() -> None:
    """Parts add up to the whole, a part that comes again is added to, and only the first live step
    counts.
    """
    clock = ManualClock()
    startup = Startup.of(clock, age_s=2.5)
    startup.spent("imports")
    for part, seconds in (("journal", 0.5), ("restore", 0.25), ("journal", 1.0)):
        clock.advance(seconds)
        startup.spent(part)  # type: ignore[arg-type]
    clock.advance(0.75)
    assert startup.stepped()
    clock.advance(9.0)
    assert not startup.stepped()
    assert startup.as_json() == {
        "imports": 2.5,
        "journal": 1.5,
        "restore": 0.25,
        "first_step": 0.75,
        "total": 5.0,
    }
    assert startup.sentence() == (
        "The next step came 5.00 s after the process began: imports 2.50, outbox and "
        "journal 1.50, restoring 0.25, first step 0.75."
    )


def test_the_age_of_a_process_goes_with_the_clock() -> None:
    """It is more than nothing, less than the test run takes, and grows as time does."""
    clock = SystemClock()
    first = age_s(clock)
    clock.sleep(0.05)
    assert 0.04 < age_s(clock) - first < 60


def test_a_resumed_run_imports_no_compiler(tmp_path: Path) -> None:
    """Restoring a graft, executing the record again and training on loads neither torch._dynamo nor
    sympy: half of a start.
    """
    command = [sys.executable, "-c", RESUMED, str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], "FINISHED"]
