"""A run with what an installed package brings."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from esper.events import decode
from esper.events.records import SeedTransitioned
from esper.journal.reading import from_file
from tests import commands
from tests.plugins import FAMILY, install

HALVED = {"esper.families": {"halved": "HALVED"}}


def environment(home: Path, *installed: Path) -> dict[str, str]:
    """Of a shell in which these packages are installed beside Esper."""
    path = os.pathsep.join(map(str, installed))
    return {**os.environ, "ESPER_HOME": str(home), "PYTHONPATH": path}


def test_a_family_of_another_package_is_tried_and_proven(tmp_path: Path) -> None:
    """The foundry proposes and compiles it, Tamiyo tries it, the run says what came of it.

    And the run is proven bit for bit on a machine that does not have the package: a kernel is data.
    """
    home, package = tmp_path / "home", install(tmp_path / "site", "esper_halved", FAMILY, HALVED)
    chosen = ("--set", 'tamiyo.policy.families=["halved"]', "--set", "decisions=lockstep")
    done = commands.run(
        *("run", "mnist1d", "--run-id", "plugged", "--json", "--set", "run.epochs=16"),
        *chosen,
        environment=environment(home, package),
        cold=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["growth"].startswith(("Grew ", "No kernel was kept")), found
    without = environment(home)
    proof = commands.run("replay", "plugged", "--verify", "--json", environment=without)
    assert proof.returncode == 0, proof.stderr
    saved = tmp_path / "journal"
    fold = commands.run("replay", "plugged", "--fold", "--save", saved, environment=without)
    assert fold.returncode == 0, fold.stderr
    events = [decode(value) for value in from_file(saved)]
    assert {one.family for one in events if isinstance(one, SeedTransitioned)} == {"", "halved"}


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
