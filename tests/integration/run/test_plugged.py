"""A run with what an installed package brings."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from esper.events import decode
from esper.events.records import EpochEnded, SeedTransitioned
from esper.journal.reading import from_file
from tests import commands
from tests.plugins import FAMILY, TASK, install
from tests.waiting import PATIENCE_S, until

HALVED = {"esper.families": {"halved": "HALVED"}}
RANKED = {"esper.tasks": {"ranked": "RANKED"}}


def environment(home: Path, *installed: Path) -> dict[str, str]:
    """Of a shell in which these packages are installed beside Esper."""
    path = os.pathsep.join(map(str, installed))
    return {**os.environ, "ESPER_HOME": str(home), "PYTHONPATH": path}


def test_a_family_and_a_task_of_other_packages_are_used_resumed_and_proven(tmp_path: Path) -> None:
    """The foundry proposes and compiles the family, Tamiyo tries it, the run optimises the task's
    loss and says its score; ended in the middle, it goes on.

    It is proven bit for bit where the family's package is not installed, since a kernel is data.
    Without the task's, whose code it has to call, one sentence says so.
    """
    home, package = tmp_path / "home", install(tmp_path / "site", "esper_halved", FAMILY, HALVED)
    task = install(tmp_path / "other", "esper_ranked", TASK, RANKED)
    chosen = ("--set", 'tamiyo.policy.families=["halved"]', "--set", "decisions=lockstep")
    life = commands.begin(
        *("run", "mnist1d", "--run-id", "plugged", "--json", "--set", "run.epochs=16"),
        *("--set", "task=ranked", "--set", "gates.min_gap=0.01", *chosen),
        environment=environment(home, package, task),
        cold=True,
    )
    outbox = home / "runs" / "plugged" / "outbox"
    until(lambda: life.poll() is not None or has(outbox, b"AdaptationApplied"), life.err.read_text)
    life.send_signal(signal.SIGTERM)
    assert life.wait(PATIENCE_S) == 130, life.err.read_text()
    done = commands.run(
        "run",
        "mnist1d",
        "--resume",
        "--run-id",
        "plugged",
        "--json",
        environment=environment(home, package, task),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["growth"].startswith(("Grew ", "No kernel was kept")), found
    assert (found["score_name"], found["accuracy"]) == ("top_two", 0)
    assert 0.3 < found["score"] == found["metrics"]["top_two"] <= 1  # by chance a fifth
    refused = commands.run("replay", "verify", "plugged", environment=environment(home))
    assert refused.returncode == 2
    assert "There is no task 'ranked'" in refused.stderr
    without = environment(home, task)
    proof = commands.run("replay", "verify", "plugged", "--json", environment=without)
    assert proof.returncode == 0, proof.stderr
    saved = tmp_path / "journal"
    fold = commands.run("replay", "fold", "plugged", "--save", saved, environment=without)
    assert fold.returncode == 0, fold.stderr
    events = [decode(value) for value in from_file(saved)]
    assert {one.family for one in events if isinstance(one, SeedTransitioned)} == {"", "halved"}
    ends = [one for one in events if isinstance(one, EpochEnded)]
    assert len(ends) == 16
    assert {(one.score_name, one.higher_is_better) for one in ends} == {("top_two", True)}
    assert all(one.score == one.metrics["top_two"] for one in ends)


def has(outbox: Path, record: bytes) -> bool:
    """Whether a run has journalled a record."""
    return any(record in path.read_bytes() for path in outbox.glob("*.frames"))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("HALVED = 1", "'halved' of package esper_halved .* is int, and has to be a Family"),
        ("import nothing_like_it", r"cannot be loaded \(ModuleNotFoundError: .*mend or uninstall"),
        (FAMILY.replace('"halved", {', '"linear", {'), "two kernel families of the name 'linear'"),
        (FAMILY.replace('Family("halved"', 'Family("Half Way"'), "is no name of a family"),
    ],
)
def test_a_package_that_cannot_be_used_is_named_before_anything_begins(
    tmp_path: Path, broker: str, source: str, sentence: str
) -> None:
    """The foundry ends with one sentence that names the package and what to do."""
    package = install(tmp_path / "site", "esper_halved", source, HALVED)
    given = environment(tmp_path / "home", package) | {"ESPER_KAFKA__BOOTSTRAP": broker}
    done = commands.run(module="esper.tezzeret", environment=given, cold=True)
    assert done.returncode == 2
    (said,) = done.stderr.strip().splitlines()
    assert re.search(sentence, said), said
