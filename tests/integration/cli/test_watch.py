"""`esper watch` as typed: over a run that has ended, and in a terminal beside one that trains."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT
from tests.integration.run.whole import LOCKSTEP, begin, endpoints, esper, query
from tests.waiting import PATIENCE_S, until

LETTERS = {
    "DORMANT": "·",
    "GERMINATED": "g",
    "TRAINING": "t",
    "BLENDING": "b",
    "SHADOWING": "s",
    "PROBATIONARY": "p",
    "FOSSILIZED": "█",
    "CULLED": "x",
    "EMBARGOED": "e",
    "RESETTING": "r",
}


def test_a_run_that_has_ended_is_shown_once(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """Its figures, a line for each seed with the letters of its stages in order, and decisions."""
    run = lockstep[0]["run_id"]
    text = esper(home, "watch", run).stdout
    assert f"{run}  mnist1d, FINISHED: epoch 8, step 280 of 280" in text
    for curve in ("train loss", "held-out loss", "held-out accuracy"):
        assert re.search(rf"^{curve} +[▁▂▃▄▅▆▇█]+ +[\d.]+ to [\d.]+ *$", text, re.MULTILINE), text
    moved = query(
        endpoints(home).history_url,
        "SELECT layer, seed, step, to_stage FROM seed_transitioned WHERE "  # noqa: S608  # ours
        f"run_id = '{run}' ORDER BY sequence",
    )
    lines = dict(re.findall(r"^(\w+\[\d+\]) +(.+?) *$", text, re.MULTILINE))
    assert len(lines) == 8
    for place, line in lines.items():
        stages = {"DORMANT": 0} | {
            one["to_stage"]: int(one["step"])
            for one in moved
            if f"{one['layer']}[{one['seed']}]" == place
        }
        assert set(line) <= {LETTERS[stage] for stage in stages}
        # the last letter is that of the stage which the seed was left in
        last = [one for one in moved if f"{one['layer']}[{one['seed']}]" == place]
        before_end = [one for one in last if int(one["step"]) < 270]
        wanted = before_end[-1]["to_stage"] if before_end else "DORMANT"
        assert line[-1] == LETTERS[wanted], (place, line)
    assert "GERMINATE" in text
    assert "█ fossilized" in text
    told = json.loads(esper(home, "watch", run, "--json").stdout)
    assert len(told["epochs"]) == 8
    assert told["run"]["epochs"] == 8
    assert [move["stage"] for move in told["moves"]] == [one["to_stage"] for one in moved]


def test_a_terminal_follows_a_run_to_its_end(home: Path) -> None:
    """It is drawn anew while the run trains, and ends with it."""
    run = "watched"
    settings = tuple(part for one in LOCKSTEP for part in ("--set", one))
    trainer = begin(home, "run", "mnist1d", "--run-id", run, *settings)
    known = f"SELECT 1 FROM run_started WHERE run_id = '{run}'"  # noqa: S608  # ours
    url = endpoints(home).history_url
    until(lambda: query(url, known) or trainer.poll() is not None, trainer.err.read_text)
    terminal, other = pty.openpty()
    watch = subprocess.Popen(
        [sys.executable, "-m", "esper.cli", "watch", run],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=ROOT,
        env={**os.environ, "ESPER_HOME": str(home), "TERM": "xterm-256color", "COLUMNS": "160"},
    )
    os.close(other)
    screen = bytearray()

    def ended() -> bool:
        while select.select([terminal], [], [], 0)[0]:
            try:
                screen.extend(os.read(terminal, 1 << 16))
            except OSError:  # nobody has the other end any more
                break
        return watch.poll() is not None

    try:
        until(ended, lambda: screen[-2000:])
        assert watch.wait(PATIENCE_S) == 0, screen
    finally:
        watch.kill()
        os.close(terminal)
    assert trainer.wait() == 0, trainer.err.read_text()
    text = screen.decode(errors="replace")
    assert text.count("watched  mnist1d, RUNNING: ") > 1
    assert "watched  mnist1d, FINISHED: epoch 8, step 280 of 280" in text
    assert "\x1b[" in text
    assert "Traceback" not in text


@pytest.mark.usefixtures("lockstep")
def test_a_run_that_is_not_there_is_one_sentence(home: Path) -> None:
    """With exit code 2."""
    done = esper(home, "watch", "nobody' OR 1=1")
    assert done.returncode == 2
    assert "There is no run nobody' OR 1=1 in the history" in done.stderr
