"""Runs of scripts executed again: what is not as it was is named, with its step; what cannot be
executed says so.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from esper.cli.shared.journal_sources import journal
from esper.cli.shared.proving import prove
from esper.clock import SystemClock
from esper.config import Settings
from esper.events.records import EpochEnded
from esper.tolaria.replay.archive import Archived
from tests.commands import ROOT
from tests.integration.run.whole import endpoints, esper, program, query, result
from tests.waiting import PATIENCE_S, until

TRAIN = """
import json, os, sys, torch, esper
from pathlib import Path
from torch import nn

if __name__ == "__main__":
    torch.seed()  # the first parameters are chance, and on record
    here = json.loads(Path(sys.argv[1]).read_text())
    x, y = torch.linspace(-1, 1, 240).reshape(60, 4), torch.arange(60) % 2

    class Samples(torch.utils.data.Dataset):
        drawn = 0
        def __len__(self):
            return 60
        def __getitem__(self, index):
            Samples.drawn += 1
            moved = Samples.drawn > 20 * here["from"] + 20
            if moved and here["chance"]:
                torch.seed()
                return x[index] + torch.rand(4), y[index]
            return x[index] + here["by"] * moved, y[index]

    for number in range(here.get("runs", 1)):
        net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 2))
        model = esper.germinate(net, seeds=2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        more = {"tamiyo": {"enabled": False}, "decisions": "lockstep"}
        many = here.get("accumulate", 1)
        more |= {"accumulate": many, "checkpoints": {"every_steps": 2}}
        name = here["name"] + (f"-{number}" if number else "")
        with esper.grow(model, optimizer, held_out=(x, y), steps=12, run_id=name, **more) as growth:
            for batch in growth.batches(Samples(), batch_size=20 // many, epochs=4):
                growth.backward(growth.loss(*batch))
                if growth.due:
                    growth.step()
                    optimizer.step()
                    optimizer.zero_grad()
"""
STEADY = {"from": 99, "chance": False, "by": 0}


def trained(home: Path, folder: Path, name: str, **here: object) -> Path:
    """Run the script by Python; gives the file that decides what it does."""
    told, script = folder / "here.json", folder / "train.py"
    told.write_text(json.dumps({"name": name, **STEADY, **here}))
    script.write_text(TRAIN)
    done = program(home, script, str(told))
    assert done.returncode == 0, done.stderr
    return told


def verified(home: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return esper(home, "replay", "verify", name, *options)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Standard error on one line."""
    return " ".join(done.stderr.split())


def test_a_script_that_is_edited_or_moved_is_executed_as_it_was(home: Path, tmp_path: Path) -> None:
    """From the copy that its run keeps; a copy that was changed is refused."""
    trained(home, tmp_path, "edited")
    (tmp_path / "train.py").write_text("raise ValueError('this is another script')")
    done = verified(home, "edited")
    assert done.returncode == 0, done.stderr
    assert "12 steps re-executed" in done.stdout
    assert "train.py has changed since run edited began" in said(done)
    (tmp_path / "train.py").unlink()
    assert verified(home, "edited").returncode == 0
    # its first parameters were chance: no execution from the first step gives them again
    scratch = verified(home, "edited", "--from-scratch")
    assert scratch.returncode == 5
    assert "is not what snapshot t0-s0-n1 has" in said(scratch)

    state = result(esper(home, "replay", "state", "edited", "--step", "7", "--json"))
    assert state["step"] == 7
    kept = Settings(home=home).runs_dir / "edited" / "source" / "train.py"
    kept.write_text(kept.read_text() + "\n")
    changed = verified(home, "edited")
    assert changed.returncode == 5
    assert "is not the one that it has recorded" in said(changed)
    kept.unlink()
    lost = verified(home, "edited")
    assert lost.returncode == 5
    assert "lacks train.py" in said(lost)


@pytest.fixture(scope="module")
def reading(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that decides what the script of the run `reads` does."""
    return trained(home, tmp_path_factory.mktemp("reads"), "reads")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        # a data file that was changed: another loss in the first step that reads it
        ({"from": 7, "by": 1}, r"the loss of step 8 is the first that differs"),
        # chance: two executions differ from each other
        (
            {"from": 7, "chance": True},
            r"differ from each other, first after step 7 in the batch of step 8",
        ),
        # another first batch
        (
            {"from": -1, "by": 1},
            r"was begun with other data \(another first batch\)",
        ),
        # no script any more
        ({"from": "none"}, r"raised TypeError: .*train.py, line"),
    ],
)
def test_what_a_script_reads_or_draws_otherwise_is_named(
    home: Path, reading: Path, change: dict[str, object], sentence: str
) -> None:
    """With its first step, and exit code 5, as for a recipe."""
    reading.write_text(json.dumps({"name": "reads", **STEADY, **change}))
    # in one piece: a counter of the script's own begins anew where a piece does
    done = verified(home, "reads", "--workers", "1")
    assert done.returncode == 5, done.stderr
    assert re.search(sentence, said(done)), done.stderr
    assert "Traceback" not in done.stderr


def test_steps_of_several_batches_are_executed_again(home: Path, tmp_path: Path) -> None:
    """Bit for bit, from snapshots within an epoch too."""
    trained(home, tmp_path, "accumulated", accumulate=2)
    done = verified(home, "accumulated", "--json")
    proof = result(done)
    assert (proof["proven"], proof["steps"], proof["epochs"]) == (True, 12, 4)
    assert proof["snapshots"] >= 5


def test_a_journal_that_was_changed_is_not_proven(home: Path, tmp_path: Path) -> None:
    """The epoch is named whose digest is another one."""
    trained(home, tmp_path, "altered")
    settings = Settings(home=home)
    events, _ = journal(settings, "altered", clock=SystemClock(), say=lambda _: None)
    forged = tuple(
        replace(one, parameters_digest="ab" * 32)
        if isinstance(one, EpochEnded) and one.epoch == 2
        else one
        for one in events
    )
    proof = prove(
        Archived(settings, forged),
        Console(file=io.StringIO()),
        workers=1,
        from_scratch=False,
    )
    assert proof.narrowed is not None
    assert proof.narrowed.fault.epoch == 2
    assert proof.narrowed.deterministic


def test_what_has_no_script_cannot_be_executed(home: Path, tmp_path: Path) -> None:
    """A loop out of a pipe, and the second run of a script: a sentence with the remedy each."""
    here, script = tmp_path / "here.json", tmp_path / "train.py"
    here.write_text(json.dumps({"name": "several", **STEADY, "runs": 2}))
    script.write_text(TRAIN)
    begun = esper(home, "run", str(script), "--json", "--", str(here))
    # every run of the script is told
    told = [json.loads(line)["run_id"] for line in begun.stdout.splitlines()]
    assert told == ["several", "several-1"], begun.stderr
    assert verified(home, "several").returncode == 0
    second = verified(home, "several-1")
    assert second.returncode == 2
    assert "is run 2 of train.py" in said(second)

    here.write_text(json.dumps({"name": "piped", **STEADY}))
    given = {"ESPER_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    piped = subprocess.run(
        [sys.executable, "-", str(here)],
        input=TRAIN,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=given,
    )
    assert piped.returncode == 0, piped.stderr
    for command in (
        ("replay", "verify", "piped"),
        ("replay", "state", "piped", "--step", "3"),
        ("fork", "piped", "--step", "3"),
    ):
        done = esper(home, *command)
        assert done.returncode == 2
        assert "has no script on record" in said(done)


def test_a_strangers_script_is_executed_only_when_it_is_allowed(home: Path, tmp_path: Path) -> None:
    """An export has the script; it runs once its reader has named it."""
    trained(home, tmp_path, "exported")
    folder = tmp_path / "export"
    exported = esper(home, "export", "exported", "--to", str(folder))
    assert exported.returncode == 0, exported.stderr
    refused = verified(home, "exported", "--from", str(folder))
    assert refused.returncode == 2
    assert "allow it with --allow train.py" in said(refused)
    allowed = verified(home, "exported", "--from", str(folder), "--allow", "train.py")
    assert allowed.returncode == 0, allowed.stderr


def test_settings_of_a_script_that_no_fork_changes_are_named(home: Path, tmp_path: Path) -> None:
    """What the script decides is the script's."""
    trained(home, tmp_path, "settled")
    for change in ("run.seed=3", "run.epochs=9", "optimizer.name=SGD", "task=regression"):
        done = esper(home, "fork", "settled", "--step", "6", "--set", change)
        assert done.returncode == 2
        assert f"A fork cannot change {change.split('=')[0]}" in said(done)
    other = result(esper(home, "fork", "settled", "--step", "6", "--json", "--set", "run.order=1"))
    same = result(esper(home, "fork", "settled", "--step", "6", "--json"))
    assert other["steps"] == same["steps"] == 12
    assert other["digest"] != same["digest"]


HIDDEN = """
import os, sys, torch, esper
from torch import nn
x, y = torch.linspace(-1, 1, 240).reshape(60, 4), torch.arange(60) % 2
mine = torch.Generator().manual_seed(1)
model = esper.germinate(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), seeds=2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
resume = len(sys.argv) > 1
more = {"tamiyo": {"enabled": False}, "decisions": "lockstep", "held_out": (x, y), "steps": 12}
with esper.grow(model, optimizer, run_id="hidden", resume=resume, **more) as growth:
    for inputs, labels in growth.batches((x, y), batch_size=20, epochs=4):
        optimizer.zero_grad()
        growth.backward(growth.loss(inputs + torch.rand(inputs.shape, generator=mine), labels))
        growth.step()
        optimizer.step()
        if growth.steps == 8 and not resume:
            raise RuntimeError("on the way")
"""


def test_what_no_snapshot_holds_is_said_when_a_run_goes_on(home: Path, tmp_path: Path) -> None:
    """By the first step that has another loss than it had."""
    script = tmp_path / "hidden.py"
    script.write_text(HIDDEN)
    assert "on the way" in program(home, script).stderr
    told = "SELECT count() AS steps FROM training_step WHERE run_id = 'hidden'"
    until(lambda: int(query(endpoints(home).history_url, told)[0]["steps"]) == 8)
    again = program(home, script, "--resume")
    assert re.search(r"Step \d of run hidden had the loss", said(again))
    assert "Give it to growth.register" in said(again)
