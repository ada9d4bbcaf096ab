"""Hosts in float64, bfloat16 and float16 grow as those in float32 do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.checkpoint import Snapshot
from esper.checkpoint.tensors import open_tensors
from esper.config import Settings
from esper.kasmina import GrowingModel, KernelTraining, Place, germinate, harvest
from esper.kasmina.seeded.structure import state_tensors
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.record.snapshot_content import kernel_notes, model_tensors, restore_model
from esper.tolaria.step.evaluation import evaluate, parameters_digest, with_shadow, without
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.unit.kasmina.cases import CASES, Case, own_kernel, staged

TYPES = {"float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
STEPS = 6
EACH = pytest.mark.parametrize("dtype", TYPES.values(), ids=list(TYPES))
# instance norms have no float16 statistics on a CPU, in torch itself
HOSTS = pytest.mark.parametrize("name", [name for name in CASES if name != "strided"])


def settings() -> Recipe:
    raw: dict[str, Any] = {
        "name": "t",
        "model": "a:b",
        "data": "a:b",
        # its epsilon is nothing in float16; SGD is what such hosts are trained with
        "optimizer": {"name": "SGD", "learning_rate": 0.05, "arguments": {}, "clip_norm": 0.5},
        "kernels": {"shadow_passes": 2},
    }
    return Recipe.model_validate(raw)


class Trained:
    """A host of a type with a growing model around it, and what steps it."""

    def __init__(self, case: Case, dtype: torch.dtype, places: tuple[Place, ...]) -> None:
        self.case, self.dtype = case, dtype
        self.growing = GrowingModel(
            germinate(case.host().to(dtype), seeds=3), training=KernelTraining(warmup_steps=0)
        )
        self.growing.probe(case.inputs(3).to(dtype))
        for place in places:
            self.growing.graft(place, own_kernel(self.growing, place))
        self.stepper = Stepper(
            self.growing, settings(), STEPS, Method(CLASSIFICATION, torch.optim.SGD)
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(step))
        return self.case.inputs(8, step).to(self.dtype), labels

    def train(self, stage: str, steps: range) -> None:
        state = staged(stage, *self.growing.kernels)
        self.growing.follow(state, steps[0])
        for step in steps:
            figures = self.stepper.step(state, step, self.batch(step), sample=True)
            assert not figures.faults

    def host(self) -> dict[str, Tensor]:
        return {
            key: value.clone()
            for key, value in state_tensors(self.growing.module).items()
            if ".kernel_" not in key
        }


@EACH
@HOSTS
def test_a_host_of_any_type_trains_as_alone_while_its_kernels_learn(
    name: str, dtype: torch.dtype
) -> None:
    """Beside TRAINING kernels no bit of the host moves otherwise than without; no kernel fails,
    each learns, in float64 beside float64 and in float32 else; statistics are figures.
    """
    case = CASES[name]
    alone = Trained(case, dtype, ())
    alone.train("TRAINING", range(STEPS))
    beside = Trained(case, dtype, case.places)
    first = {
        place: copy.deepcopy(grown.slot.kernel.state_dict())
        for place, grown in beside.growing.kernels.items()
    }
    beside.train("TRAINING", range(STEPS))
    for key, value in alone.host().items():
        assert value.dtype == dtype or not value.is_floating_point()
        assert torch.equal(value, beside.host()[key]), key
    for place, grown in beside.growing.kernels.items():
        after = grown.slot.kernel.state_dict()
        assert any(not torch.equal(value, after[key]) for key, value in first[place].items())
        own = torch.float64 if dtype == torch.float64 else torch.float32
        assert {value.dtype for value in after.values()} == {own}
        figures = beside.growing.read_statistics()[place]
        assert figures.gradient_norm > 0
        assert figures.activation_variance > 0


@EACH
@HOSTS
def test_live_kernels_are_blended_in_the_hosts_type_and_harvested_alike(
    name: str, dtype: torch.dtype
) -> None:
    """A live kernel changes its own chunk, gives the host's type, and the harvest computes the same
    bits; gates have figures of it.
    """
    case = CASES[name]
    world = Trained(case, dtype, case.places)
    growing, module = world.growing, world.growing.module.eval()
    split = (case.inputs(20).to(dtype), torch.arange(20) % 5)
    place = case.places[0]
    alone = evaluate(growing, split, CLASSIFICATION, batch=5)
    standing = with_shadow(growing, split, CLASSIFICATION, place)
    assert standing.failed == ()
    assert standing.loss != alone.loss
    for grown in growing.kernels.values():
        grown.slot.live = grown.slot.fossilised = True
        grown.slot.alpha.fill_(0.3)
    live = evaluate(growing, split, CLASSIFICATION, batch=5)
    assert live.failed == ()
    assert live.loss != alone.loss
    assert without(growing, split, CLASSIFICATION, place).loss != live.loss
    with torch.no_grad():
        output = module(split[0])
        assert output.dtype == dtype
        # kernels that are linear maps of Linear layers become part of the weight, and round once
        exact = {"float64": 1e-12}.get(str(dtype).removeprefix("torch."), 0.0)
        assert torch.allclose(harvest(module)(split[0]), output, rtol=exact, atol=exact)
    world.train("PROBATIONARY", range(2))


@EACH
def test_a_run_of_any_type_goes_on_from_its_snapshot_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """Through the tensor store: types and bits of host, kernels and optimizers come back, and the
    steps after are those of the run that was not interrupted.
    """
    case = CASES["grouped"]
    through = Trained(case, dtype, case.places)
    through.train("TRAINING", range(3))
    notes = {"kernels": kernel_notes(through.growing), "stepper": through.stepper.state_dict()}
    tensors = model_tensors(through.growing, through.stepper.host_optimizer)
    store = open_tensors(Settings(home=tmp_path), "family")
    snapshot = Snapshot(
        {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(notes))
    )
    stored = store.write(snapshot)
    read = store.read(stored.address, stored.sha256)
    assert {k: v.dtype for k, v in read.tensors.items()} == {k: v.dtype for k, v in tensors.items()}

    resumed = Trained(case, dtype, ())
    state = staged("TRAINING", *case.places)
    restore_model(resumed.growing, resumed.stepper.host_optimizer, read, state=state, step=3)
    resumed.stepper.load_state_dict(read.notes["stepper"])
    for world in (through, resumed):
        world.train("TRAINING", range(3, STEPS))
    digests = {parameters_digest(world.growing.module) for world in (through, resumed)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "batchless", [(12,), (4, 9, 9), (4, 21)], ids=["features", "image", "signal"]
)
def test_inputs_without_a_batch_dimension_grow(batchless: tuple[int, ...]) -> None:
    """A model that is given one sample at a time: dormant as the plain one, its kernel learns,
    statistics are those of the batch of one.
    """
    torch.manual_seed(1)
    layer = [nn.Linear(12, 6), nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3)][len(batchless) - 1]
    plain = nn.Sequential(layer, nn.Tanh())
    growing = GrowingModel(germinate(copy.deepcopy(plain), seeds=2), training=KernelTraining())
    x = torch.randn(batchless, generator=torch.Generator().manual_seed(2))
    assert growing.probe(x) == {}
    assert torch.equal(growing.module(x), plain(x))
    place = ("0", 1)
    growing.graft(place, own_kernel(growing, place))
    found = []
    for sample in (x, x[None]):
        with growing.switches.live_pass(watching=True, sampling=True):
            growing.module(sample)
        found.append(growing.read_statistics()[place])
        growing.shadow_step(place, 1, lambda sample=sample: growing.module(sample).square().sum())  # type: ignore[misc]
        assert not growing.switches.notes.raised
        growing.optimise({place: growing.kernels[place].norm(1.0)}, 1.0)
        growing.zero_gradients()
    assert found[0] == found[1]
    assert growing.kernels[place].stepped == 2


def test_losses_of_hosts_in_half_precision_are_summed_in_float32() -> None:
    """What the loss is computed of is float32: a mean over many in half precision would stand
    still.
    """
    growing = GrowingModel(
        germinate(nn.Sequential(nn.Linear(4, 3)).bfloat16()), training=KernelTraining()
    )
    output = growing(torch.randn(5, 4).bfloat16())
    assert output.dtype == torch.float32
    functional.cross_entropy(output, torch.zeros(5, dtype=torch.long)).backward()
    assert growing.host_parameters[0].grad is not None
