"""Claims about people's commands and what Tamiyo tells of runs."""

from __future__ import annotations

import json

import pytest

from esper.clock import ManualClock
from esper.events import Origin
from esper.events.records import SeedCommand
from esper_processors.tamiyo import run_views
from esper_processors.tamiyo.command_log import Commands, Order
from esper_processors.tamiyo.deciding.performance import Performance
from tests.unit.nissa.journal import Run
from tests.unit.tamiyo.world import Family, World

ORDER = Order(
    command="GERMINATE", layer="0", seed=1, kernel_id="k", reason="a trial", expires_s=60.0
)


def asked(clock: ManualClock) -> SeedCommand:
    """A command that a person gave now."""
    return ORDER.event(Origin("r", "tamiyo", "0" * 32, clock), "ada")


@pytest.mark.parametrize("answer_first", [True, False])
def test_a_command_is_pending_until_the_journal_answers(*, answer_first: bool) -> None:
    """Its state is PENDING, then that of the journal's answer with its reason, whichever of the two
    is read first; EXPIRED if none comes in time.
    """
    clock = ManualClock()
    command = asked(clock)
    answer = Run("r", clock).answered(
        command.event_id, refused="Seed 0[1] rests.", topic=SeedCommand.TOPIC
    )
    commands = Commands()
    commands.take(command)
    found = commands.find(command.event_id, clock.now_us())
    assert found is not None
    assert (found["status"], found["reason"], found["answer"]) == ("PENDING", "a trial", None)
    clock.advance(61)
    late = commands.find(command.event_id, clock.now_us())
    assert late is not None
    assert late["status"] == "EXPIRED"
    both = Commands()
    for event in (answer, command) if answer_first else (command, answer):
        both.take(event)
    told = both.find(command.event_id, clock.now_us())
    assert told is not None
    assert (told["status"], told["answer"]["reason"]) == ("REJECTED", "Seed 0[1] rests.")


def test_answers_to_tamiyos_own_decisions_are_none_to_commands() -> None:
    """An AdaptationApplied for a decision of a review is not found as a command, and neither is
    what nobody gave.
    """
    commands = Commands()
    commands.take(Run("r", ManualClock()).answered("d"))
    assert commands.find("d", 0) is None
    assert commands.find("nothing", 0) is None


def test_two_commands_of_one_moment_differ_by_who_gave_them() -> None:
    """The id depends on time, actor and target, so that nobody's command is taken for another's."""
    clock = ManualClock()
    origin = Origin("r", "tamiyo", "0" * 32, clock)
    assert ORDER.event(origin, "ada").event_id != ORDER.event(origin, "bob").event_id
    assert asked(clock).event_id == asked(clock).event_id


def test_the_overview_shows_arms_trials_and_decisions_with_evidence() -> None:
    """After thirty packets a run has arms with a posterior of their trials, and its decisions
    newest first with evidence as objects, all of it JSON.
    """
    families = {
        "0": (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03), Family("linear", 0.0))
    }
    world = World({"0": 40}, families, policy={"first_epoch": 1, "every_epochs": 1})
    for _ in range(30):
        world.turn()
    told = json.loads(json.dumps(run_views.full("run", world.row, Performance({}))))
    best = next(arm for arm in told["arms"] if arm["family"] == "conv1d")
    assert best["successes"] > 0
    assert best["posterior"]["success"][0] >= 1 + 2 * best["successes"]
    assert told["packet"] == 29
    found = run_views.decisions({"run": world.row}, limit=500)
    assert [one["packet"] for one in found] == list(range(29, -1, -1))
    germinated = [
        command for one in found for command in one["commands"] if command["command"] == "GERMINATE"
    ]
    assert germinated
    assert all(
        command["evidence"]["strategy"] in ("SPECIALIZE", "DIVERSIFY") for command in germinated
    )
    assert len(run_views.decisions({"run": world.row}, limit=3)) == 3


@pytest.mark.parametrize("bandit", ["ucb", "epsilon-greedy", "performance-weighted"])
def test_every_bandit_finds_the_family_that_matters(bandit: str) -> None:
    """Whichever bandit the recipe asks for, the family that gains a fifth of the loss is germinated
    and kept within 80 epochs.
    """
    families = {
        "0": (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03), Family("linear", 0.0))
    }
    world = World(
        {"0": 40}, families, policy={"first_epoch": 1, "every_epochs": 1, "bandit": bandit}
    )
    for _ in range(80):
        world.turn()
    kept = {seed.family for seed in world.seeds["0"] if seed.stage == "FOSSILIZED"}
    assert "conv1d" in kept
