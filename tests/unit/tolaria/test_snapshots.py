"""A snapshot of everything that a step reads: training goes on from it with the very bits that it
would have had.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.checkpoint import Snapshot
from esper.errors import CorruptError
from esper.events.geometry import parse
from esper.events.records import Stage
from esper.karn import Budget, families_for, generate
from esper.kasmina import GrowingModel, KernelTraining, Place, Slot, germinate
from esper.kasmina.numerics import Numerics
from esper.kernels.build import module_of
from esper.lifecycle import EXECUTION, RunState, SeedState
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.record.snapshot_content import (
    RunSnapshot,
    address,
    health_notes,
    kernel_notes,
    model_tensors,
    place_of,
    random_notes,
    restore_health,
    restore_model,
    restore_random,
)
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION
from esper.urza.local import LocalStore
from tests.tensorstores import tensors_in

SEEDS: tuple[tuple[str, int, Stage], ...] = (
    ("0", 0, "TRAINING"),
    ("0", 1, "BLENDING"),
    ("0", 2, "FOSSILIZED"),
    ("4", 0, "TRAINING"),
    ("4", 1, "DORMANT"),
    ("4", 2, "DORMANT"),
)
BEFORE, AFTER = 25, 50


def host(kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "linear":
        return nn.Sequential(
            nn.Linear(8, 12),
            nn.BatchNorm1d(12),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(12, 6),
        )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(12, 6, 1),
        head,
    )


def batch(kind: str, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    shape = (32, 8) if kind == "linear" else (16, 3, 6, 6)
    return torch.randn(*shape, generator=generator), torch.randint(
        0, 6, (shape[0],), generator=generator
    )


def slot(growing: GrowingModel, place: Place) -> Slot:
    """A real kernel for a seed; another family for each seed of a layer."""
    reads, width, geometry = growing.shapes()[place]
    layer = parse(geometry)
    made = [
        generate(
            in_features=reads,
            out_features=width,
            family=family,
            budget=Budget.of(5_000, 36),
            seed=place[1],
            geometry=layer,
        )
        for family in families_for(layer.kind)
    ]
    found = [ir for ir in made if ir is not None]
    ir = found[place[1] % len(found)]
    return Slot(
        f"{place[1]}a" * 32,
        ir.family,
        module_of(ir),
        ir.blend,
        ir.tap,
        ir.alpha_target,
        ir.geometry.text,
    )


class World:
    """A growing model and its stepper, at some step."""

    def __init__(self, kind: str, run: dict[str, Any]) -> None:
        raw = {
            "name": "t",
            "model": "a:b",
            "data": "a:b",
            "run": run,
            "kernels": {"shadow_passes": 1, "warmup_steps": 40},
        }
        self.kind, self.recipe = kind, Recipe.model_validate(raw)
        numerics = Numerics(self.recipe.run.precision, self.recipe.run.channels_last)
        module = germinate(numerics.place(host(kind)), seeds=3)
        self.growing = GrowingModel(
            module, training=KernelTraining(blend_steps=60, warmup_steps=40), numerics=numerics
        )
        self.growing.probe(batch(kind, 0)[0])
        self.stepper = Stepper(self.growing, self.recipe, 100, Method(CLASSIFICATION))
        self.step = 0
        self.state = RunState(
            "r",
            status="RUNNING",
            seeds=tuple(
                SeedState(
                    layer,
                    index,
                    stage=stage,
                    execution=EXECUTION[stage],
                    kernel_id="" if stage == "DORMANT" else f"{index}a" * 32,
                    alpha_target=0.7,
                )
                for layer, index, stage in SEEDS
            ),
        )

    def grow(self) -> None:
        for layer, index, stage in SEEDS:
            if stage != "DORMANT":
                self.growing.graft((layer, index), slot(self.growing, (layer, index)))
        self.growing.follow(self.state, self.step)

    def train(self, steps: int) -> list[tuple[float, ...]]:
        """Losses, norms and health figures of so many steps."""
        found = []
        for _ in range(steps):
            figures = self.stepper.step(
                self.state, self.step, batch(self.kind, self.step), sample=True
            )
            self.step += 1
            self.growing.follow(self.state, self.step)
            health = [
                self.growing.health[place].observe(one, recovering=False)
                for place, one in self.growing.read_statistics().items()
            ]
            found.append((figures.loss, figures.gradient_norm, figures.learning_rate, *health))
            assert not figures.faults
        return found

    def snapshot(self) -> Snapshot:
        notes = {
            "kernels": kernel_notes(self.growing),
            "health": health_notes(self.growing),
            "random": random_notes(),
            "stepper": self.stepper.state_dict(),
        }
        return Snapshot(model_tensors(self.growing, self.stepper.host_optimizer), notes)

    def restore(self, snapshot: Snapshot, step: int) -> None:
        self.step = step
        restore_model(
            self.growing, self.stepper.host_optimizer, snapshot, state=self.state, step=step
        )
        self.stepper.load_state_dict(snapshot.notes["stepper"])
        restore_health(self.growing, snapshot.notes["health"])
        restore_random(snapshot.notes["random"], snapshot.tensors)

    def everything(self) -> dict[str, Tensor]:
        return {
            name: tensor.clone()
            for name, tensor in model_tensors(self.growing, self.stepper.host_optimizer).items()
        }


def draws() -> tuple[float, float, float]:
    """One number of each global random stream."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: S311, NPY002  # the global streams


@pytest.mark.parametrize(
    ("kind", "run"),
    [
        ("linear", {}),
        ("linear", {"precision": "bfloat16", "accumulate": 2}),
        ("linear", {"precision": "float16"}),
        ("conv", {"channels_last": True}),
        ("conv", {"accumulate": 2}),
    ],
)
def test_training_goes_on_bit_for_bit(kind: str, run: dict[str, Any], tmp_path: Path) -> None:
    """50 steps after a restore are the 50 steps without one: losses, every tensor, both optimizers,
    scaler, health, random streams.

    The model has kernels in TRAINING, BLENDING and FOSSILIZED; the one that it is restored into was
    trained elsewhere before.
    """
    torch.set_num_threads(1)
    first = World(kind, run)
    first.train(3)
    first.grow()
    first.train(BEFORE - 3)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global stream
    tensors = tensors_in(LocalStore(tmp_path))
    stored = tensors.write(first.snapshot())
    expected, numbers = first.train(AFTER), draws()

    second = World(kind, run)
    second.grow()
    second.train(7)
    second.restore(tensors.read(stored.address, stored.sha256), BEFORE)
    assert second.train(AFTER) == expected
    assert draws() == numbers
    found, wanted = second.everything(), first.everything()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert second.growing.health == first.growing.health
    assert second.stepper.state_dict() == first.stepper.state_dict()
    assert second.growing.kernels.keys() == first.growing.kernels.keys()
    for place, grown in first.growing.kernels.items():
        assert second.growing.kernels[place].state_dict() == grown.state_dict()
    assert {place: grown.slot.kernel_id for place, grown in second.growing.kernels.items()} == {
        place: grown.slot.kernel_id for place, grown in first.growing.kernels.items()
    }
    assert first.growing.kernels["0", 0].trained > 20


def test_a_seed_that_the_snapshot_has_empty_is_empty(tmp_path: Path) -> None:
    """Restored to a moment before any graft, a grown model is the host alone."""
    world = World("linear", {})
    plain = world.snapshot()
    tensors = tensors_in(LocalStore(tmp_path))
    stored = tensors.write(plain)
    world.grow()
    world.train(5)
    world.state = RunState(
        "r", status="RUNNING", seeds=tuple(SeedState(layer, index) for layer, index, _ in SEEDS)
    )
    world.restore(tensors.read(stored.address, stored.sha256), 0)
    assert world.growing.kernels == {}
    fresh = World("linear", {})
    assert all(
        torch.equal(tensor, world.everything()[name])
        for name, tensor in fresh.everything().items()
        if name.startswith("model/")
    )


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    """A layer that is missing, too much, or of another shape is named."""
    world = World("linear", {})
    snapshot = world.snapshot()
    for change, name in (
        ({"model/0.weight": torch.zeros(3)}, "0.weight"),
        ({"model/extra": torch.zeros(3)}, "extra"),
    ):
        other = Snapshot({**snapshot.tensors, **change}, snapshot.notes)
        with pytest.raises(
            CorruptError,
            match=(
                rf"^The snapshot is of another model: {name} is not the same in both; resume "
                r"with the code that the run began with"
            ),
        ):
            world.restore(other, 0)
    fewer = Snapshot(
        {key: value for key, value in snapshot.tensors.items() if key != "model/4.bias"},
        snapshot.notes,
    )
    with pytest.raises(CorruptError, match=r"another model: 4\.bias"):
        world.restore(fewer, 0)


def test_a_kernel_without_a_blueprint_is_no_part_of_a_snapshot() -> None:
    """A module that somebody put into a slot by hand cannot be made again."""
    world = World("linear", {})
    world.growing.graft(
        ("0", 0), Slot("0a" * 32, "mine", nn.Linear(8, 4), "LERP", "LAYER_INPUT", 1.0)
    )
    with pytest.raises(
        CorruptError,
        match=r"^The kernel 0a0a.* has no blueprint, so it cannot be part of a snapshot",
    ):
        world.snapshot()


def test_notes_are_json_and_addresses_come_back() -> None:
    """Everything beside the tensors is plain JSON; the name of a layer may hold a colon."""
    world = World("linear", {"precision": "float16"})
    world.grow()
    notes = dict(world.snapshot().notes)
    assert json.loads(json.dumps(notes)) == json.loads(json.dumps(notes, sort_keys=True))
    assert place_of(address(("a:b.c", 3))) == ("a:b.c", 3)


@pytest.mark.parametrize("lacking", ["state", "cursor", "random"])
def test_a_snapshot_that_lacks_something_is_named(lacking: str) -> None:
    """What no run has taken is no fault of Esper: it says what is not there."""
    whole = RunSnapshot({}, "{}", {}, {}, {}, {}, {}, {}).packed
    assert RunSnapshot.of(whole).packed == whole
    less = Snapshot({}, {name: note for name, note in whole.notes.items() if name != lacking})
    with pytest.raises(CorruptError, match=f"^The snapshot has no {lacking}: it is not one that"):
        RunSnapshot.of(less)
