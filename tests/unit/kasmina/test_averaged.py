"""Averages of weights follow what a model grows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel as OfTorch
from torch.optim.swa_utils import get_ema_multi_avg_fn

import esper
from esper.errors import UsageError
from esper.kasmina import AveragedModel, GrowingModel, KernelTraining, germinate, harvest
from tests.unit.kasmina.cases import CASES, Case
from tests.unit.kasmina.test_model_state import families, foundry_slot

DECAY = 0.5


def growing(case: Case) -> GrowingModel:
    """A model of this kind, all seeds dormant."""
    found = GrowingModel(germinate(case.host(), seeds=3), training=KernelTraining())
    found.probe(case.inputs(3))
    return found


def averaged(model: nn.Module) -> AveragedModel:
    """An average of its weights."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))


def moved(model: nn.Module, seed: int) -> None:
    """Move every parameter, as an optimizer does."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def graft(found: GrowingModel, number: int, seed: int, alpha: float) -> None:
    """A live kernel in a seed of one of the case's layers."""
    layer = list(found.layers)[number]
    family = families(found.shapes()[layer, seed][2])[1]
    slot = foundry_slot(found, (layer, seed), family, alpha)
    slot.live = slot.fossilised = True


@pytest.mark.parametrize("name", list(CASES))
def test_an_average_has_the_kernels_of_its_model(name: str) -> None:
    """Host and kernels are averaged by name, each from when it came; a seed before one that has a
    kernel may get its own later; one that is given up is gone.
    """
    case = CASES[name]
    found = growing(case)
    model, average = found.module, averaged(found.module)
    weights = dict[str, Tensor]()
    x = case.inputs(3)

    def update(seed: int) -> None:
        moved(model, seed)
        average.update_parameters(model)
        now = {key: one.detach() for key, one in model.named_parameters()}
        for key in weights.keys() - now.keys():
            del weights[key]
        for key, one in now.items():
            # the first weights are the first average, and so are those of a kernel
            weights[key] = (
                weights[key] * DECAY + one * (1 - DECAY) if key in weights else one.clone()
            )
        own = dict(average.module.named_parameters())
        assert own.keys() == weights.keys()
        for key, one in own.items():
            torch.testing.assert_close(one, weights[key])

    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: graft(found, 0, 1, 0.4),
        lambda: graft(found, 1, 2, 0.8),
        lambda: graft(found, 0, 0, 0.2),
        lambda: found.release((next(iter(found.layers)), 1)),
    ]
    for seed, change in enumerate(changes):
        change()
        update(2 * seed)
        update(2 * seed + 1)
    # as the model would compute with these weights
    same = copy.deepcopy(model)
    with torch.no_grad():
        for key, one in same.named_parameters():
            one.copy_(weights[key])
    average.eval()
    torch.testing.assert_close(average(x), same.eval()(x))
    torch.testing.assert_close(harvest(average.module)(x), average(x))


def test_a_state_gives_the_average_back() -> None:
    """Into one of a model that was just made, and into one with other kernels, as after a
    rollback.
    """
    case = CASES["sequence"]
    found = growing(case)
    average = averaged(found.module)
    graft(found, 0, 1, 0.4)
    average.update_parameters(found.module)
    graft(found, 0, 0, 0.6)
    average.update_parameters(found.module)
    state = {name: one.clone() for name, one in average.state_dict().items()}
    x = case.inputs(3)
    wanted = average.eval()(x)
    fresh, other = averaged(growing(case).module), growing(case)
    graft(other, 1, 0, 0.5)
    graft(other, 0, 1, 0.9)
    changed = averaged(other.module)
    for one in (fresh, changed):
        one.load_state_dict(state)
        assert torch.equal(one.eval()(x), wanted)
        assert int(one.n_averaged) == 2
        moved(found.module, 3)
        one.train().update_parameters(found.module)


def test_another_model_is_refused() -> None:
    """Before a number is changed; torch's own class says nothing of it or fails within."""
    average = esper.AveragedModel(germinate(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))))
    with pytest.raises(UsageError, match=r"seeded layers are 0 there and 0, 1 here"):
        average.update_parameters(germinate(nn.Sequential(nn.Linear(8, 8))))
    assert isinstance(average, OfTorch)
    assert int(average.n_averaged) == 0
