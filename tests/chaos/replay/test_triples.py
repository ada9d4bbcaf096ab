"""Random (recipe, seed, step): the state rebuilt from the journal is the one that the live run
wrote at that step, bit for bit.

ESPER_CHAOS_TRIPLES says how many (5), ESPER_CHAOS_SEED which. Runs of both recipes, lockstep and
live, take a snapshot every few steps; a state is rebuilt from the snapshot before it, without its
own, or from the first step. The report is one line of JSON on standard output, and a file in the
folder that ESPER_CHAOS_REPORT names.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.records import CheckpointTaken, SeedTransitioned
from esper.journal.reading import decoded, from_kafka
from esper.stack import running
from esper.tolaria.record.addresses import Address, Anchor
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.comparison import differing
from esper.tolaria.replay.reexecution import Archive, Reexecution
from esper.tolaria.session.progress import Progress
from tests.integration.run.whole import GROWING, esper
from tests.stackfixtures import access

TRIPLES = int(os.environ.get("ESPER_CHAOS_TRIPLES", "5"))
SEED = int(os.environ.get("ESPER_CHAOS_SEED", "20261126"))
A_RUN = 20  # triples that a run is good for
FROM_SCRATCH = 5  # every so many states are rebuilt from the first step
CLOCK = SystemClock()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 + 60 * TRIPLES)]


@dataclass(frozen=True, slots=True)
class Plan:
    """One live run."""

    run_id: str
    recipe: str
    settings: tuple[str, ...]


def plans(dice: random.Random) -> list[Plan]:
    """The runs: recipes in turn, each with settings of its own."""
    found = []
    for number in range(max(2, -(-TRIPLES // A_RUN))):
        recipe, epochs = (
            (("mnist1d", 24), ("digits", 16))[number % 2]
            if TRIPLES > A_RUN
            else (("mnist1d", 7), ("digits", 5))[number % 2]
        )
        chosen = (
            f"run.seed={dice.randrange(10_000)}",
            f"run.epochs={epochs}",
            f"run.accumulate={dice.choice((1, 1, 2))}",
            f"decisions={'lockstep' if number % 4 in (1, 2) else 'live'}",
            f"checkpoints.every_steps={dice.randrange(3, 12)}",
            f"checkpoints.every_epochs={dice.choice((0, 1, 3))}",
            f"telemetry.every_steps={dice.choice((5, 19, 50))}",
        )
        found.append(Plan(f"triple-{number}", recipe, (*GROWING, *chosen)))
    return found


def live(home: Path, plan: Plan) -> Archive:
    """The archive of a run that was trained for real."""
    overrides = [part for setting in plan.settings for part in ("--set", setting)]
    ended = esper(home, "run", plan.recipe, "--json", "--run-id", plan.run_id, *overrides)
    assert ended.returncode == 0, ended.stderr
    settings = Settings(home=home)
    endpoints = running(settings)
    assert endpoints is not None
    values = (one.value for one in from_kafka(access(settings), plan.run_id, clock=CLOCK))
    return Archived(settings, tuple(decoded(plan.run_id, values))).open(CLOCK)


def compared(archive: Archive, one: CheckpointTaken, *, from_scratch: bool) -> list[str]:
    """What differs between a snapshot that the run wrote, and the state rebuilt without it."""

    def usable(anchor: Anchor) -> bool:
        return not from_scratch and anchor.name != one.snapshot_id

    execution = Reexecution(archive, Progress(Console(file=io.StringIO())), usable=usable)
    rerun = execution.rebuild(Address(one.at_timeline, one.at_step, one.at_sequence))
    assert from_scratch == (rerun.begun == "") or not one.parent
    return differing(rerun.snapshot(), archive.tensors.read(one.address, one.sha256))


def test_random_states_are_rebuilt_bit_for_bit(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every tensor and every note of each state: parameters, optimizers, random streams, cursor,
    evidence, health, folded state.
    """
    dice = random.Random(SEED)  # noqa: S311  # a test that can be repeated
    chosen = plans(dice)
    archives = [(plan, live(home, plan)) for plan in chosen]
    told: list[dict[str, Any]] = []
    for number in range(TRIPLES):
        plan, archive = archives[number % len(archives)]
        one = dice.choice(snapshots(archive))
        from_scratch = number % FROM_SCRATCH == FROM_SCRATCH - 1
        odd = compared(archive, one, from_scratch=from_scratch)
        told.append(
            {
                "run": plan.run_id,
                "step": one.at_step,
                "sequence": one.at_sequence,
                "from_scratch": from_scratch,
                "differing": odd,
            }
        )
    report = {
        "seed": SEED,
        "triples": len(told),
        "identical": sum(not one["differing"] for one in told),
        "from_scratch": sum(one["from_scratch"] for one in told),
        "runs": [
            {"run": plan.run_id, "recipe": plan.recipe, "settings": plan.settings, **grown(archive)}
            for plan, archive in archives
        ],
        "states": told,
    }
    line = json.dumps(report)
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
    if folder := os.environ.get("ESPER_CHAOS_REPORT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"triples-{len(told)}-seed-{SEED}.json").write_text(f"{line}\n")
    assert [one for one in told if one["differing"]] == []
    assert sum(grown(archive)["grafts"] for _, archive in archives) > 0


def snapshots(archive: Archive) -> Sequence[CheckpointTaken]:
    """Snapshots that are not the run's first state."""
    return [
        event
        for event in archive.events
        if isinstance(event, CheckpointTaken) and event.at_step > 0
    ]


def grown(archive: Archive) -> dict[str, int]:
    """How often kernels were grafted, and how many snapshots there are."""
    grafts = sum(
        isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING"
        for event in archive.events
    )
    return {"grafts": grafts, "snapshots": len(snapshots(archive)), "events": len(archive.events)}
