"""Claims about what the policy decides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.events.records import EpochReviewed, Stage
from esper.lifecycle import IN_TRAINING
from esper.policies import ScheduleSettings
from esper_processors.tamiyo.deciding.bandits import Beta, generator
from esper_processors.tamiyo.deciding.features import ACTIVE, ArmKey
from esper_processors.tamiyo.deciding.plan import uniform
from esper_processors.tamiyo.deciding.policy_state import ArmRecord, PolicyState, Trial, observe
from esper_processors.tamiyo.deciding.schedule import confidence, decide
from tests.samples import EXAMPLES
from tests.unit.tamiyo.world import Family, World, seed_state

FAMILIES = {
    "0": (
        Family("linear", 0.0),
        Family("low_rank", 0.01),
        Family("mlp", 0.03),
        Family("conv1d", 0.25, blend="LERP"),
        Family("gate", 0.0, "HOST_CHUNK"),
    ),
    "2": (
        Family("linear", 0.0),
        Family("low_rank", 0.0),
        Family("mlp", 0.02),
        Family("conv1d", 0.0),
        Family("gate", 0.0, "HOST_CHUNK"),
    ),
    "4": (
        Family("linear", 0.0),
        Family("low_rank", 0.0),
        Family("mlp", 0.0),
        Family("conv1d", 0.0),
        Family("gate", 0.0, "HOST_CHUNK"),
    ),
}
RECIPE = {
    "first_epoch": 4,
    "every_epochs": 1,
    "last_fraction": 0.7,
    "max_active": 6,
    "max_training": 3,
}


def digits(run_seed: int, **changed: Any) -> World:
    """Three layers and five families, of which one on one layer is worth something."""
    return World(
        {"0": 40, "2": 100, "4": 100}, FAMILIES, run_seed=run_seed, policy=RECIPE, **changed
    )


@pytest.mark.parametrize("decisions", ["LOCKSTEP", "LIVE"])
def test_the_one_useful_arm_is_found_and_used(decisions: str) -> None:
    """Within 60 epochs a conv1d kernel of the first layer is live, and in the end that layer has
    more of it than of all others together.
    """
    first, chunks = [], []
    for run_seed in range(8):
        world = digits(run_seed, decisions=decisions)
        found = world.epochs
        for _ in range(world.epochs):
            world.turn()
            if any(
                seed.stage in ("BLENDING", "SHADOWING") and seed.family == "conv1d"
                for seed in world.seeds["0"]
            ):
                found = min(found, world.epoch)
        first.append(found)
        chunks.append(
            sum(seed.stage == "FOSSILIZED" and seed.family == "conv1d" for seed in world.seeds["0"])
        )
    assert max(first) <= 60
    assert sum(chunks) / len(chunks) >= 3
    assert min(chunks) >= 2


@given(
    run_seed=st.integers(0, 1000),
    max_training=st.integers(0, 4),
    max_active=st.integers(0, 5),
    first=st.integers(0, 9),
    every=st.integers(1, 5),
)
@settings(max_examples=15 * EXAMPLES, deadline=None)
def test_schedule_and_limits_are_kept(
    run_seed: int, max_training: int, max_active: int, first: int, every: int
) -> None:
    """Nothing germinates outside the schedule.

    No more seeds train or are active than the recipe allows; each command is a probability.
    """
    policy = {
        "max_training": max_training,
        "max_active": max_active,
        "first_epoch": first,
        "every_epochs": every,
        "last_fraction": 0.5,
    }
    world = World(
        {"0": 40, "2": 100},
        {name: FAMILIES[name] for name in ("0", "2")},
        run_seed=run_seed,
        policy=policy,
        epochs=50,
    )
    for epoch in range(50):
        review = world.turn()
        check_commands(review)
        germinations = [command for command in review.commands if command.command == "GERMINATE"]
        if germinations:
            assert epoch >= first
            assert (epoch - first) % every == 0
            assert epoch <= 25
        stages = [seed.stage for seeds in world.seeds.values() for seed in seeds]
        assert sum(stage in IN_TRAINING for stage in stages) <= max_training
        assert sum(stage in ACTIVE for stage in stages) <= max_active


def check_commands(review: EpochReviewed) -> None:
    """What holds of every command: probabilities above the guardrails, readable evidence, one
    command a seed.
    """
    assert review.reason.endswith(".")
    places = [(command.layer, command.seed) for command in review.commands]
    assert len(set(places)) == len(places)
    for command in review.commands:
        assert 0.7 < command.confidence <= 1
        assert 0 <= command.urgency <= 1
        assert command.urgency > 0.6 or command.command != "GERMINATE"
        assert json.loads(command.evidence)


def test_an_arm_that_has_shown_nothing_is_tried_once_at_a_time() -> None:
    """The first germinations are of different arms, however many seeds may train."""
    for run_seed in range(10):
        world = digits(run_seed, epoch=4)
        commands = world.turn().commands
        assert len({(command.layer, command.family) for command in commands}) == len(commands) == 3


def test_it_is_too_late_when_no_kernel_can_be_blended_any_more() -> None:
    """With fewer epochs left than a graft takes, urgency falls below the guardrail and nothing is
    germinated, though the schedule allows it.
    """
    world = World(
        {"0": 40}, {"0": FAMILIES["0"]}, policy={**RECIPE, "last_fraction": 1.0}, epoch=114
    )
    review = world.turn()
    assert not review.commands
    assert "urgency" in review.reason


def carried(stage: Stage, **changed: Any) -> tuple[World, PolicyState]:
    """A world whose seed 1 carries a trial that Tamiyo knows, in `stage`."""
    world = World(
        {"0": 40},
        {"0": FAMILIES["0"]},
        epoch=30,
        policy={"max_training": 0, "cull_training_after_steps": 100},
    )
    trial = Trial(
        decision_id="d",
        layer="0",
        seed=1,
        family="mlp",
        kernel_id="k",
        context="c",
        packet=10,
        epoch=10,
        stage=stage,
        learned="success",
    )
    fields = {
        "stage": stage,
        "decision_id": "d",
        "family": "mlp",
        "kernel_id": "k",
        "stage_epoch": 20,
        **changed,
    }
    world.seeds["0"][1] = seed_state(1, **fields)
    return world, PolicyState(packet=29, trials={"d": trial})


def commands_after(world: World, state: PolicyState, packets: int) -> list[tuple[str, float]]:
    """Commands for seed 1, with confidence, after that many packets like the present one."""
    found: list[tuple[str, float]] = []
    for _ in range(packets):
        packet = world.packet()
        state, _ = observe(state, packet)
        plan = decide(
            state, packet, ScheduleSettings(**world.policy), uniform, generator(0, world.epoch, "v")
        )
        found = [(command.command, command.confidence) for command in plan.commands]
        world.epoch += 1
    return found


def test_a_kernel_with_a_significant_gap_is_kept() -> None:
    """PROBATIONARY for long enough with a gap of three standard errors and the model leaning on it:
    FOSSILISE, at P(gap > 0).
    """
    found = commands_after(
        *carried("PROBATIONARY", shadow_gap=0.06, shadow_gap_error=0.02, dependence=0.1), 1
    )
    assert [name for name, _ in found] == ["FOSSILISE"]
    assert found[0][1] == pytest.approx(0.99865, abs=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"shadow_gap": 0.02, "shadow_gap_error": 0.02, "dependence": 0.1},
        {"shadow_gap": 0.06, "shadow_gap_error": 0.02, "dependence": -0.1},
        {"shadow_gap": 0.06, "shadow_gap_error": 0.02, "dependence": 0.1, "stage_epoch": 29},
        {"shadow_gap": 0.0, "shadow_gap_error": 0.0, "dependence": 0.1},
    ],
)
def test_a_kernel_without_evidence_is_not_kept(changed: dict[str, Any]) -> None:
    """No FOSSILISE without a significant gap, while the model does better without the kernel, too
    early, or before anything was measured.
    """
    assert commands_after(*carried("PROBATIONARY", **changed), 1) == []


def test_a_live_kernel_that_keeps_hurting_is_culled() -> None:
    """One validation that is better without the kernel is no evidence, two are: P = 7/8 that it
    hurts more often than not.
    """
    assert (
        commands_after(
            *carried("SHADOWING", shadow_gap=0.05, shadow_gap_error=0.02, dependence=-0.02), 1
        )
        == []
    )
    assert commands_after(
        *carried("SHADOWING", shadow_gap=0.05, shadow_gap_error=0.02, dependence=-0.02), 2
    ) == [("CULL", 0.875)]


def training(gaps: list[float], **policy: Any) -> list[str]:
    """Commands for a kernel in TRAINING after these gaps, one an epoch of 35 shadow steps, each
    known to 0.005 nats.
    """
    world, state = carried("TRAINING")
    world.policy = {"max_training": 0, **policy}
    state = replace(state, trials={"d": replace(state.trials["d"], learned="")})
    found: list[str] = []
    for look, gap in enumerate(gaps, 1):
        fields: dict[str, Any] = {
            "trained_steps": 35 * look,
            "shadow_gap": gap,
            "shadow_gap_error": 0.005,
        }
        world.seeds["0"][1] = replace(world.seeds["0"][1], **fields)
        packet = world.packet()
        state, _ = observe(state, packet)
        plan = decide(
            state, packet, ScheduleSettings(**world.policy), uniform, generator(0, world.epoch, "v")
        )
        found = [command.command for command in plan.commands]
        world.epoch += 1
    return found


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([-0.129], []),
        ([-0.129, -0.052], []),
        ([-0.129, -0.052, 0.018], []),
        ([0.0, 0.002], ["CULL"]),
        ([-0.057, -0.015, -0.014], ["CULL"]),
        ([0.05, 0.06], []),
        ([-0.02, -0.06], ["CULL"]),
    ],
)
def test_a_kernel_in_training_is_given_up_by_its_forecast(
    gaps: list[float], expected: list[str]
) -> None:
    """A kernel that loses but gains fast is left alone, as is one that wins.

    One that stands still below what an untried arm promises is culled.

    The gaps are those of real kernels on MNIST-1D: a convolution on the first layer that turned out
    to be worth 0.12 nats, and useless ones.
    """
    assert training(gaps) == expected


def test_no_kernel_is_given_up_before_its_time_or_for_nothing() -> None:
    """Culling waits for the steps that the recipe names, and stops when nothing can be germinated
    in the place.
    """
    useless = [0.0, 0.001, 0.0]
    assert training(useless, cull_training_after_steps=106) == []
    assert training(useless, cull_training_after_steps=105) == ["CULL"]
    assert training(useless, last_fraction=0.2) == []


def test_kernels_beyond_the_budget_or_of_other_families_are_left_alone() -> None:
    """Only kernels within the parameter budget and of the families that the recipe names are
    germinated.
    """
    for policy in ({"parameter_budget": 4999}, {"families": ["attention"]}):
        review = World({"0": 40}, {"0": FAMILIES["0"]}, policy={**RECIPE, **policy}, epoch=4).turn()
        assert not review.commands
        assert review.reason == "No kernel of the catalogue fits a dormant seed."
    review = World(
        {"0": 40}, {"0": FAMILIES["0"]}, policy={**RECIPE, "families": ["gate"]}, epoch=4
    ).turn()
    assert {command.family for command in review.commands} == {"gate"}


def test_a_refused_germination_is_forgotten_in_time() -> None:
    """When no seed shows a germination it counts as refused: in lockstep at the next packet, live
    after one more, since answers may be late.
    """
    for decisions, packets in (("LOCKSTEP", 1), ("LIVE", 2)):
        world = digits(1, decisions=decisions, epoch=4)
        world.ask()
        world.policy = {**RECIPE, "max_training": 0}
        pending = []
        for _ in range(3):
            world.epoch += 1
            world.ask()
            pending.append(len(world.row.state.trials))
        assert pending == [3] * (packets - 1) + [0] * (4 - packets)
        assert not world.row.state.arms


def test_a_kernel_that_did_harm_lowers_confidence() -> None:
    """Kernels that passed the gate and were culled for harm bring an arm's confidence below the
    guardrail; failures at the gate do not.
    """
    key = ArmKey("0", "mlp")
    failed = PolicyState(arms={key: ArmRecord(failures=3)})
    harmed = PolicyState(arms={key: replace(ArmRecord(successes=2), harmed=2)})
    assert confidence(failed, key, Beta(1, 4), 2.0) > 0.7
    assert confidence(harmed, key, Beta(3, 1), 2.0) < 0.7


def test_confidence_and_learning_use_the_runs_own_gate() -> None:
    """A gate that lets more pass by chance lowers confidence.

    A gap above the gate of this run, not above the default one, is a success.
    """
    untried, key = PolicyState(), ArmKey("0", "mlp")
    assert (
        confidence(untried, key, Beta(), 3.0)
        > confidence(untried, key, Beta(), 2.0)
        > confidence(untried, key, Beta(), 1.0)
    )
    for gate_z, learned in ((1.5, "success"), (3.0, "failure")):
        world = digits(1, epoch=4)
        first = world.packet()
        world.ask(replace(first, gate_z=gate_z))
        trial = next(iter(world.row.state.trials.values()))
        shown = seed_state(
            trial.seed,
            stage="BLENDING",
            decision_id=trial.decision_id,
            trained_steps=80,
            shadow_gap=0.2,
            shadow_gap_error=0.1,
        )
        world.seeds[trial.layer][trial.seed] = shown
        world.epoch += 1
        world.ask(replace(world.packet(), gate_z=gate_z))
        assert world.row.state.trials[trial.decision_id].learned == learned


def test_no_more_is_germinated_than_the_trainer_accepts() -> None:
    """The recipe's own limit of adaptations in an epoch bounds one answer."""
    for per_epoch in (1, 2):
        world = digits(1, epoch=4)
        world.policy = {**RECIPE, "max_training": 8, "max_active": 8}
        world.ask(replace(world.packet(), per_epoch=per_epoch))
        assert len(world.row.state.trials) == per_epoch
