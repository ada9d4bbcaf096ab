"""What a layer says of itself, and the commands for its seeds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch

from esper.clock import ManualClock
from esper.errors import UsageError
from esper.events import Origin
from esper.events.records import KernelPublished
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.interface import LayerCommands, get_layer_stats
from esper.kasmina.vetting import Vetting
from esper.lifecycle import Context, Guardrails, SeedState, decide, evolve
from esper.lifecycle.commands import Adapt, Move, RunCommand
from tests.unit.kasmina.cases import CASES, KERNEL_ID, graft, staged

CASE = CASES["strided"]
PLACE = CASE.places[0]
GEOMETRY = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 9x9"


def published(**change: object) -> KernelPublished:
    fields = {
        "kernel_id": KERNEL_ID, "blueprint_id": "b", "family": "conv2d", "in_features": 3, "out_features": 3, "tap": "LAYER_INPUT",
        "blend": "LERP", "parameters": 1, "flops": 1, "address": "a", "sha256": "0", "size_bytes": 1, "tags": (), "parents": (),
        "latency_us": 1.0, "geometry": GEOMETRY,
    }  # fmt: skip
    return KernelPublished(**Origin("", "foundry", "0" * 32, ManualClock()).envelope("k"), **{**fields, **change})  # type: ignore[arg-type]


def grown() -> GrowingModel:
    growing = GrowingModel(germinate(CASE.host(), seeds=3), training=KernelTraining())
    growing.probe(CASE.inputs(3))
    return growing


def test_layer_stats_count_calls_and_kernels() -> None:
    """Calls, runs of kernels and their ratio, and each seed's stage, weight, errors and runs are those of what ran."""
    growing = grown()
    state = staged("PROBATIONARY", PLACE)
    begun = get_layer_stats(growing, state, "0").forward_calls
    graft(growing, PLACE)
    growing.follow(state, 0)
    growing.switches.sampling = True
    for _ in range(3):
        growing(CASE.inputs(2))
    growing.switches.sampling = False
    growing.kernels[PLACE].errors = 2
    growing.follow(staged("TRAINING", PLACE), 1)
    growing(CASE.inputs(2))
    found = get_layer_stats(growing, state, "0", cache={"hits": 3.0})
    assert (found.kind, found.geometry, found.cache) == ("Conv2d", GEOMETRY, {"hits": 3.0})
    assert (found.forward_calls - begun, found.kernel_executions) == (4, 3)
    assert found.execution_ratio == pytest.approx(3 / found.forward_calls)
    seed = found.seeds[PLACE[1]]
    assert (seed.stage, seed.execution, seed.kernel_id, seed.alpha, seed.errors, seed.executions) == (
        "PROBATIONARY", "ACTIVE", KERNEL_ID, 0.5, 2, 3,
    )  # fmt: skip
    assert seed.latency_us > 0
    assert (found.seeds[0].stage, found.seeds[0].executions) == ("DORMANT", 0)
    with pytest.raises(UsageError, match="There is no seeded layer nowhere; there are 0, 4, 8"):
        get_layer_stats(growing, state, "nowhere")


def test_commands_change_what_the_journal_says_and_nothing_else() -> None:
    """load_kernel, set_seed_alpha and unload_kernel go through the lifecycle as trusted commands; tensors wait for `follow`."""
    growing = grown()
    state = replace(staged("DORMANT", PLACE), sequence=1, seeds=(SeedState(*PLACE),))
    context = Context(Origin("r", "trainer", "0" * 32, ManualClock()), 0, Guardrails(cooldown=0))
    answered: list[str] = []

    def do(command: RunCommand) -> None:
        nonlocal state
        for event in decide(state, command, context):
            answered.append(event.NAME)
            state = evolve(state, event)

    numbers = itertools.count()
    vetting = Vetting(MappingProxyType({KERNEL_ID: published()}), growing.shapes())
    commands = LayerCommands(do=do, vetting=lambda: vetting, name=lambda: f"command-{next(numbers)}")
    before = {key: value.clone() for key, value in growing.module.state_dict().items()}
    commands.load_kernel(*PLACE, KERNEL_ID)
    assert (state.seeds[0].stage, state.seeds[0].alpha_target, state.seeds[0].family) == ("GERMINATED", 1.0, "conv2d")
    do(Move(layer=PLACE[0], seed=PLACE[1], to_stage="TRAINING", reason="loaded"))
    do(Move(layer=PLACE[0], seed=PLACE[1], to_stage="BLENDING", reason="better"))
    commands.set_seed_alpha(*PLACE, 0.2)
    assert state.seeds[0].alpha_target == 0.2
    commands.unload_kernel(*PLACE)
    assert state.seeds[0].stage == "CULLED"
    assert answered.count("AdaptationApplied") == 3
    commands.load_kernel("nowhere", 0, KERNEL_ID)
    commands.load_kernel(*PLACE, "missing")
    assert answered[-2:] == ["AdaptationRejected", "AdaptationRejected"]
    assert not growing.kernels
    for key, value in growing.module.state_dict().items():
        assert torch.equal(value, before[key])


def test_commands_are_trusted_and_named() -> None:
    """Each command has its own id; the journal is told that a person or a service stands behind it."""
    said: list[Adapt] = []
    commands = LayerCommands(do=said.append, vetting=lambda: Vetting({}, {}), name=iter("ab").__next__)
    commands.unload_kernel("x", 1)
    commands.set_seed_alpha("x", 1, 0.5)
    assert [(one.source.command_id, one.command, one.alpha, one.trusted) for one in said] == [
        ("a", "CULL", -1.0, True),
        ("b", "SET_ALPHA", 0.5, True),
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"in_features": 4}, "reads 4 features and writes 3; this seed needs 3 and 3."),
        ({"geometry": ""}, f"is made for features; layer 0 is {GEOMETRY}."),
        ({"geometry": "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 9x9"}, f"is made for conv2d k3x3 s1x1 p1x1 d1x1 g1 in 9x9; layer 0 is {GEOMETRY}."),
        ({"tap": "HOST_CHUNK", "geometry": "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 5x5"}, ""),
    ],
)
def test_vetting_names_what_does_not_fit(change: dict[str, object], sentence: str) -> None:
    """A kernel of other channels or of another geometry is refused in a sentence that names them."""
    kernel = published(**change)
    refusal = Vetting({KERNEL_ID: kernel}, grown().shapes()).refusal("GERMINATE", PLACE, KERNEL_ID)
    assert refusal.endswith(sentence)
    assert bool(refusal) == bool(sentence)
