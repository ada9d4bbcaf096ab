"""A run with what an installed package brings."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from esper.events import decode
from esper.events.records import AdaptationApplied, EpochEnded, RunStarted, SeedTransitioned
from esper.journal.reading import from_file
from tests import commands
from tests.plugins import FAMILY, HOST, POLICY, TASK, install
from tests.waiting import PATIENCE_S, until

HALVED = {"esper.families": {"halved": "HALVED"}}
RANKED = {"esper.tasks": {"ranked": "RANKED"}}
FIRST = {"esper.policies": {"first-open": "FIRST_OPEN"}, "esper.bandits": {"last": "LAST"}}
FOLDED = {"esper.host_kinds": {"Folded": "FOLDED"}}


def environment(home: Path, *installed: Path) -> dict[str, str]:
    """Of a shell in which these packages are installed beside Esper."""
    path = os.pathsep.join(map(str, installed))
    return {**os.environ, "ESPER_HOME": str(home), "PYTHONPATH": path}


def test_what_other_packages_bring_is_used_resumed_and_proven(tmp_path: Path) -> None:
    """A model of layers of an installed kind gets seeds, the foundry proposes and compiles an
    installed family for them, an installed policy tries it, the run optimises an installed task's
    loss by SGD and a scheduler of torch's, and says its score; ended in the middle, it goes on.

    It is proven bit for bit where the packages of family and policy are not installed: a kernel is
    data, and decisions are journalled. Without the task's or the layers', whose code it has to
    call, one sentence says so.
    """
    home, package = tmp_path / "home", install(tmp_path / "site", "esper_halved", FAMILY, HALVED)
    task = install(tmp_path / "other", "esper_ranked", TASK, RANKED)
    layers = install(tmp_path / "third", "esper_folded", HOST, FOLDED)
    policy = install(tmp_path / "fourth", "esper_first_open", POLICY, FIRST)
    every = environment(home, package, task, layers, policy)
    chosen = (
        'tamiyo.policy={name="first-open", families=["halved"], until_epoch=9}',
        'optimizer={name="SGD", learning_rate=0.05, arguments={momentum=0.9}}',
        'schedule={name="OneCycleLR", arguments={max_lr=0.1}}',
    )
    life = commands.begin(
        *("run", "mnist1d", "--run-id", "plugged", "--json", "--set", "run.epochs=16"),
        *("--set", "task=ranked", "--set", "gates.min_gap=0.01", "--set", "decisions=lockstep"),
        *("--set", "model=esper_folded:model"),
        *(part for one in chosen for part in ("--set", one)),
        environment=every,
        cold=True,
    )
    outbox = home / "runs" / "plugged" / "outbox"
    until(lambda: life.poll() is not None or has(outbox, b"AdaptationApplied"), life.err.read_text)
    life.send_signal(signal.SIGTERM)
    assert life.wait(PATIENCE_S) == 130, life.err.read_text()
    again = ("run", "mnist1d", "--resume", "--run-id", "plugged", "--json")
    missing = r"Run plugged has layers of the kind Folded, .*: install the package that brings it"
    refused = commands.run(*again, environment=environment(home, package, task, policy))
    assert refused.returncode == 2
    assert re.search(missing, refused.stderr), refused.stderr
    assert "Traceback" not in refused.stderr
    done = commands.run(*again, environment=every)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["growth"].startswith(("Grew ", "No kernel was kept")), found
    assert (found["score_name"], found["accuracy"]) == ("top_two", 0)
    assert 0.3 < found["score"] == found["metrics"]["top_two"] <= 1  # by chance a fifth
    refused = commands.run("replay", "verify", "plugged", environment=environment(home, layers))
    assert refused.returncode == 2
    assert "There is no task 'ranked'" in refused.stderr
    refused = commands.run("replay", "verify", "plugged", environment=environment(home, task))
    assert refused.returncode == 2
    assert re.search(missing, refused.stderr), refused.stderr
    without = environment(home, task, layers)
    proof = commands.run("replay", "verify", "plugged", "--json", environment=without)
    assert proof.returncode == 0, proof.stderr
    saved = tmp_path / "journal"
    fold = commands.run("replay", "fold", "plugged", "--save", saved, environment=without)
    assert fold.returncode == 0, fold.stderr
    events = [decode(value) for value in from_file(saved)]
    started = events[0]
    assert isinstance(started, RunStarted)
    assert {(layer.kind, layer.geometry) for layer in started.layers} == {("Folded", "")}
    assert "source of esper_folded" in started.versions
    assert {one.family for one in events if isinstance(one, SeedTransitioned)} == {"", "halved"}
    grafts = [one for one in events if isinstance(one, AdaptationApplied)]
    assert {(one.command, one.confidence) for one in grafts} == {("GERMINATE", 1.0)}
    ends = [one for one in events if isinstance(one, EpochEnded)]
    assert len(ends) == 16
    assert {(one.score_name, one.higher_is_better) for one in ends} == {("top_two", True)}
    assert all(one.score == one.metrics["top_two"] for one in ends)


@pytest.mark.variant
def test_a_policy_of_another_package_decides_is_resumed_and_proven(tmp_path: Path) -> None:
    """Tamiyo asks it in lockstep, the run grows by it and says its version; ended in the middle, it
    goes on.

    It is proven bit for bit where the package is not installed, since decisions are journalled. A
    run that would need the package is refused there, before anything is started.
    """
    home, package = tmp_path / "home", install(tmp_path / "p", "esper_first_open", POLICY, FIRST)
    given = environment(home, package)
    chosen = 'tamiyo.policy={name="first-open", families=["linear", "conv1d"], until_epoch=9}'
    named = ("run", "mnist1d", "--run-id", "open", "--json", "--set", chosen)
    asked = (*named, "--set", "run.epochs=12", "--set", "decisions=lockstep")
    refused = commands.run(*asked, environment=environment(home), cold=True)
    assert refused.returncode == 2
    assert "There is no policy 'first-open'" in refused.stderr
    life = commands.begin(*asked, environment=given, cold=True)
    outbox = home / "runs" / "open" / "outbox"
    until(lambda: life.poll() is not None or has(outbox, b"AdaptationApplied"), life.err.read_text)
    life.send_signal(signal.SIGTERM)
    assert life.wait(PATIENCE_S) == 130, life.err.read_text()
    resume = ("run", "mnist1d", "--resume", "--run-id", "open", "--json")
    refused = commands.run(*resume, environment=environment(home))
    assert refused.returncode == 2
    assert "There is no policy 'first-open'" in refused.stderr
    done = commands.run(*resume, environment=given)
    assert done.returncode == 0, done.stderr
    proof = commands.run("replay", "verify", "open", "--json", environment=environment(home))
    assert proof.returncode == 0, proof.stderr
    saved = tmp_path / "journal"
    fold = commands.run("replay", "fold", "open", "--save", saved, environment=environment(home))
    assert fold.returncode == 0, fold.stderr
    events = [decode(value) for value in from_file(saved)]
    grafts = [one for one in events if isinstance(one, AdaptationApplied)]
    assert len(grafts) >= 3
    assert {(one.command, one.confidence) for one in grafts} == {("GERMINATE", 1.0)}
    assert max(one.epoch for one in grafts) <= 9


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
