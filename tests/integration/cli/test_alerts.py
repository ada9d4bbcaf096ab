"""`esper alerts [RUN]` as typed, over the history of a real run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.integration.run.whole import endpoints, esper, query


def test_a_run_without_alerts_says_so(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """A run that went well has none, and the trend of its held-out loss; as text and as JSON."""
    run = lockstep[0]["run_id"]
    query(endpoints(home).history_url, "SELECT 1")  # waits until the history has the run
    told = esper(home, "alerts", run)
    assert told.returncode == 0, told.stderr
    first, trend = told.stdout.splitlines()
    assert first == f"Run {run} (mnist1d, FINISHED): no alerts."
    assert trend.startswith("Held-out loss falls: -")
    (found,) = json.loads(esper(home, "alerts", run, "--json").stdout)
    assert (found["run_id"], found["alerts"], found["limited"]) == (run, [], 0)
    assert found["held_out_loss"]["points"] == 8
    assert json.loads(esper(home, "watch", run, "--json").stdout)["alerts"] == []


def test_without_a_run_the_latest_are_examined(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """At most twenty, each in a paragraph of its own, those that have not ended first."""
    del lockstep
    latest = query(
        endpoints(home).history_url,
        "SELECT run_id FROM runs WHERE NOT deleted "
        "ORDER BY state IN ('RUNNING', 'PAUSED') DESC, started_at DESC LIMIT 20",
    )
    told = esper(home, "alerts")
    assert told.returncode == 0, told.stderr
    examined = re.findall(r"^Run (\S+) \(.*\): .*alert", told.stdout, flags=re.MULTILINE)
    assert examined == [one["run_id"] for one in latest]


def test_a_mistake_is_one_sentence(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """An unknown run, with exit code 2."""
    del lockstep
    for name in ("nobody", "' OR 1=1 --"):
        done = esper(home, "alerts", name)
        assert done.returncode == 2
        assert f"There is no run {name} in the history" in done.stderr
        assert "Traceback" not in done.stderr
