"""A loop in which nothing grows: its figures are a run's events."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import esper
from esper.errors import UsageError
from tests.integration.frameworks.lives import folded
from tests.integration.run.whole import endpoints, program, query, result
from tests.integration.run.whole import esper as esper_

PROGRAM = """
import os, signal, sys, torch, esper
from esper.errors import UsageError
run_id, resume, first, kill = sys.argv[1:]
resume, first, kill = resume == "resume", int(first), int(kill)
arguments = {"score": "accuracy", "higher_is_better": True, "parameters": 12, "steps": 12}
with esper.GrowthTracker(
    run_id=run_id, resume=resume, step=4 * first, epoch=first, **arguments
) as tracker:
    for epoch in range(first, 3):
        for number in range(4):
            step = 4 * epoch + number + 1
            loss = torch.tensor(1.0 / step, requires_grad=True)
            tracker.step(loss, learning_rate=0.1, samples=20, accuracy=step / 12, perplexity=2.0)
            if step == kill:
                os.kill(os.getpid(), signal.SIGKILL)
        tracker.epoch(1.0 / (epoch + 1), accuracy=epoch / 3)
"""


def _live(home: Path, tmp_path: Path, *arguments: str) -> int:
    path = tmp_path / "tracked.py"
    path.write_text(PROGRAM)
    done = program(home, path, *arguments)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_a_tracked_run_is_told_once_however_often_it_dies(home: Path, tmp_path: Path) -> None:
    """Killed, and begun again from a checkpoint before its last epoch: the history has every step
    and every epoch once, and the journal folds to what it wrote live.
    """
    assert _live(home, tmp_path, "tracked", "new", "0", "10") == -signal.SIGKILL
    assert _live(home, tmp_path, "tracked", "resume", "1", "-1") == 0
    url = endpoints(home).history_url
    steps = query(
        url,
        "SELECT step, loss, accuracy, metrics['perplexity'] AS perplexity, samples "
        "FROM training_step WHERE run_id = 'tracked' ORDER BY step",
    )
    assert [int(step["step"]) for step in steps] == list(range(1, 13))
    assert steps[5]["loss"] == pytest.approx(1 / 6)
    assert steps[5]["perplexity"] == 2.0
    epochs = query(
        url,
        "SELECT epoch, step, train_loss, validation_loss, validation_accuracy, score, score_name "
        "FROM epoch_ended WHERE run_id = 'tracked' ORDER BY sequence",
    )
    assert [int(epoch["step"]) for epoch in epochs] == [4, 8, 12]
    assert epochs[0]["train_loss"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert epochs[2]["validation_accuracy"] == pytest.approx(2 / 3)
    assert epochs[2]["score_name"] == "accuracy"
    fold = folded(home, "tracked")
    assert fold["status"] == "COMPLETED"
    assert fold["equals_live"] is True


WRONG = """
import torch, esper
from esper.errors import UsageError
def refused(act):
    try:
        act()
    except UsageError as error:
        print(error)
    else:
        print("nothing was said")
def again(**more):
    def act():
        with esper.GrowthTracker(**more):
            pass
    return act
try:
    with esper.GrowthTracker(run_id="tracked-odd", score="f1", higher_is_better=True) as tracker:
        refused(lambda: tracker.epoch(1.0, f1=0.5))
        refused(lambda: tracker.step(torch.zeros(3)))
        refused(lambda: tracker.step("much"))
        refused(lambda: tracker.step(1.0, accuracy=88.7))
        tracker.step(1.0)
        refused(lambda: tracker.epoch(1.0))
        raise ValueError("mine")
except ValueError:
    pass
refused(lambda: tracker.step(1.0))
refused(again(run_id="tracked-odd"))
refused(again(run_id="tracked-never", resume=True))
refused(again(run_id="tracked-odd", score="f1", resume=True, epoch=3))
"""
SAID = [
    "after at least one tracker.step",
    "loss is Tensor",
    "loss is str",
    "divide it by 100",
    "score of run tracked-odd is f1",
    "has ended",
    "tracked-odd already has a journal",
    "tracked-never has no journal",
    "has 0 epochs in its journal",
]


def test_what_a_tracker_is_told_wrong_is_said(home: Path, tmp_path: Path) -> None:
    """A sentence each; a loop that raises leaves its run paused."""
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    done = program(home, path)
    assert done.returncode == 0, done.stderr
    for part, sentence in zip(SAID, done.stdout.splitlines(), strict=True):
        assert part in sentence
    assert folded(home, "tracked-odd")["status"] == "PAUSED"


def test_a_script_that_tells_is_run_by_esper(home: Path, tmp_path: Path) -> None:
    """The command line names its run and says that it goes on; its result is told."""
    path = tmp_path / "told.py"
    path.write_text(PROGRAM)
    asked = ("run", str(path), "--run-id", "told", "--json")
    died = esper_(home, *asked, "--", "ignored", "new", "0", "7")
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = result(esper_(home, *asked, "--resume", "--", "ignored", "new", "1", "-1"))
    assert (done["run_id"], done["status"], done["steps"]) == ("told", "COMPLETED", 12)
    assert (done["score_name"], done["score"]) == ("accuracy", pytest.approx(2 / 3))
    assert folded(home, "told")["equals_live"] is True


def test_a_tracker_that_makes_no_sense_begins_nothing() -> None:
    """Its arguments are looked at before a stack is started."""
    for asked in ({"steps": -1}, {"epoch": True}, {"score": "Not a name"}):
        with pytest.raises(UsageError):
            esper.GrowthTracker(**asked)
