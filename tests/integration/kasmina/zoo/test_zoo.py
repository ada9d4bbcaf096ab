"""Models of other people grow: dormant seeds change no bit, kernels run and learn where they are,
and a harvest computes what the grown model does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.kasmina import GrowingModel, KernelTraining, Place, germinate, harvest
from esper.kasmina.seeded.structure import state_tensors
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.commands import ROOT
from tests.integration.kasmina.zoo.models import CLASSES, ZOO, Member
from tests.integration.kasmina.zoo.table import row
from tests.unit.kasmina.cases import own_kernel, state_of

STEPS = 20


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """One thread, so that bits are the same everywhere; what libraries warn of is theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(before)


def batches(member: Member, count: int = STEPS, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (member.inputs(generator, size), torch.randint(0, CLASSES, (size,), generator=generator))
        for _ in range(count)
    ]


def stepper_of(growing: GrowingModel) -> Stepper:
    recipe = Recipe.model_validate(
        {"name": "z", "model": "a:b", "data": "a:b", "optimizer": {"clip_norm": 0.5}}
    )
    return Stepper(growing, recipe, STEPS, Method(CLASSIFICATION))


def grown_places(growing: GrowingModel) -> tuple[Place, Place]:
    """The last seed of the first and of the last layer."""
    names = list(growing.layers)
    return tuple(
        (name, len(growing.layers[name].seeds.chunks) - 1) for name in (names[0], names[-1])
    )  # type: ignore[return-value]


@pytest.mark.parametrize("name", list(ZOO))
def test_it_grows(name: str) -> None:
    """Dormant, it is the plain model bit for bit; a TRAINING kernel learns and moves no bit of it
    over 20 steps; a live one changes what it gives; harvested, it gives the same.
    """
    member = ZOO[name]
    plain = member.model()
    seeded = germinate(copy.deepcopy(plain), seeds=2)
    growing = GrowingModel(seeded, training=KernelTraining())
    data = batches(member)
    growing.probe(data[0][0][:3])
    # a layer that a forward does not reach is no fault of the probe's; all others have seeds
    rows = {row.name: row for row in esper.inventory(seeded)}
    for layer, word in member.without.items():
        assert word in rows[layer].reason
    hosts = [row for row in rows.values() if not row.reason.startswith("no kind")]
    assert len([row for row in hosts if row.seeds]) == len(growing.layers)
    assert {row.name for row in hosts if not row.seeds} == set(member.without)

    for training in (False, True):
        outputs = []
        for model in (plain, seeded):
            model.train(training)
            torch.manual_seed(11)
            outputs.append(model(data[0][0]))
        assert torch.equal(*outputs), "a dormant model differs from the plain one"

    # twenty steps beside TRAINING kernels are those without any
    places = grown_places(growing)
    alone = GrowingModel(germinate(copy.deepcopy(plain), seeds=2), training=KernelTraining())
    alone.probe(data[0][0][:3])
    ends = []
    for one, grafts in ((alone, ()), (growing, places)):
        for place in grafts:
            one.graft(place, own_kernel(one, place))
        first = [copy.deepcopy(one.kernels[place].slot.kernel.state_dict()) for place in grafts]
        state = state_of(**{f"s{layer}_{seed}": "TRAINING" for layer, seed in grafts})
        stepper = stepper_of(one)
        one.module.train()
        for step, batch in enumerate(data):
            figures = stepper.step(state, step, batch, sample=step % 5 == 0)
            assert not figures.faults
        for place, before in zip(grafts, first, strict=True):
            after = one.kernels[place].slot.kernel.state_dict()
            assert any(not torch.equal(value, after[key]) for key, value in before.items())
        own = {
            key: value for key, value in state_tensors(one.module).items() if ".kernel_" not in key
        }
        ends.append(own)
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key
    assert any(row.gradient_norm > 0 for row in growing.read_statistics().values())

    # live, kernels show in what it gives, and in its harvest
    seeded.eval()
    with torch.no_grad():
        host = seeded(data[0][0])
        for place in places:
            slot = growing.kernels[place].slot
            slot.live = slot.fossilised = True
            slot.alpha.fill_(0.5)
        live = seeded(data[0][0])
        assert not torch.equal(live, host)
        assert torch.allclose(harvest(seeded)(data[0][0]), live, rtol=1e-4, atol=1e-5)
    assert not growing.switches.notes.raised
    state = state_of(**{f"s{layer}_{seed}": "PROBATIONARY" for layer, seed in places})
    seeded.train()
    figures = stepper_of(growing).step(state, 0, data[1], sample=True)
    assert not figures.faults


def test_every_kind_of_a_library_has_a_model_here() -> None:
    """A kind of layers of a library (`OPTIONAL`) is grown by a model of that library."""
    from esper.kasmina.seeded.built_in_hosts import OPTIONAL  # noqa: PLC0415

    kinds = set()
    for member in ZOO.values():
        growing = GrowingModel(germinate(member.model()), training=KernelTraining())
        kinds |= {layer.seeds.kind.name for layer in growing.layers.values()}
    assert set(OPTIONAL) <= kinds


@pytest.mark.parametrize("name", list(ZOO))
def test_the_table_of_the_documentation_is_true(name: str) -> None:
    """What it says of a model is what the inventory says."""
    assert row(name) in (ROOT / "docs" / "models.md").read_text().splitlines()


def test_recurrent_layers_are_named_as_no_kind() -> None:
    """The inventory has a row for a layer that cannot have seeds, and says so."""
    rows = {row.name: row for row in esper.inventory(germinate(ZOO["lstm"].model()))}
    assert rows["lstm"].reason.startswith("no kind of Esper's: its output follows from a state")
    assert isinstance(ZOO["lstm"].model().lstm, nn.LSTM)
