"""Probe, validation and shadow passes leave a host as it was: whatever its forward moves, and
whatever its `train` and `eval` do.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from esper.errors import UsageError
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.seeded.structure import state_tensors
from esper.tolaria.step.evaluation import evaluate, with_shadow, without
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.unit.kasmina.cases import graft, recipe, staged
from tests.unit.kasmina.test_faults import SPOILS, spoilt

PLACE = ("first", 1)


class Middle(nn.Module):
    """What a forward does between two layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class MovingInPlace(Middle):
    """A buffer that each forward writes into, whatever the mode."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class MovingByName(MovingInPlace):
    """A buffer that each forward puts anew."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class MovingPastAutograd(MovingInPlace):
    def forward(self, x: Tensor) -> Tensor:
        self.mean.data.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class OwnNorm(nn.BatchNorm1d):
    """A norm of the user's own that keeps statistics by itself."""

    def __init__(self) -> None:
        super().__init__(6)

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        self.running_mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.running_mean


class Attributes(Middle):
    """A tensor and a number that are no buffers, and one that comes with the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.mean = 0, torch.zeros(6)
        self._seen: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.mean += 0.1 * x.detach().mean(0)
        self._seen = (*self._seen, self.count)
        self.scale = 1.0 + 0.1 * self.count
        return (x - self.mean) * self.scale


class Python(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.uniform(0.5, 1.5)  # noqa: S311  # what a user's model does


class Numpy(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.random.uniform(0.5, 1.5))  # noqa: NPY002  # the same


class Torch(Middle):
    """Draws in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.4)


class Generators(Middle):
    """Random generators of its own, of all three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.torch = torch.Generator().manual_seed(3)
        self.python, self.numpy = random.Random(3), np.random.default_rng(3)  # noqa: S311  # what a user's model has

    def __deepcopy__(self, memo: dict[int, Any]) -> Generators:
        return Generators()

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.rand(6, generator=self.torch) > 0.3
        return x * mask * (0.5 + self.python.random()) * (0.5 + float(self.numpy.random()))


def spectral() -> nn.Module:
    return parametrizations.spectral_norm(nn.Linear(6, 6))


def old_spectral() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(6, 6))


MOVING: dict[str, Callable[[], nn.Module]] = {
    "in place": MovingInPlace,
    "by name": MovingByName,
    "past autograd": MovingPastAutograd,
    "own norm": OwnNorm,
    "batch norm": lambda: nn.BatchNorm1d(6),
    "attributes": Attributes,
    "python": Python,
    "numpy": Numpy,
    "torch": Torch,
    "generators": Generators,
    "spectral_norm": spectral,
    "old spectral_norm": old_spectral,
}


class Net(nn.Module):
    def __init__(self, middle: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(3)
        random.seed(4)
        np.random.seed(5)  # noqa: NPY002  # the global stream is what is tested
        self.first, self.middle, self.last = nn.Linear(8, 6), middle(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.middle(self.first(x)))
        return logits


def batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(8, 8, generator=draw), torch.randint(0, 5, (8,), generator=draw)


def state_of_host(model: nn.Module) -> dict[str, object]:
    """Bits of parameters and buffers, attributes of the middle, and all random streams."""
    middle = model.get_submodule("middle")
    found: dict[str, object] = {
        key: value.clone() for key, value in state_tensors(model).items() if ".kernel_" not in key
    }
    for name in ("count", "mean", "_seen", "scale"):
        value = getattr(middle, name, None)
        found[f"attribute {name}"] = value.clone() if isinstance(value, Tensor) else value
    if isinstance(middle, Generators):
        found["own"] = (middle.torch.get_state(), middle.python.getstate())
        found["own numpy"] = str(middle.numpy.bit_generator.state)
    found["torch"] = torch.get_rng_state()
    found["python"], found["numpy"] = random.getstate(), str(np.random.get_state())  # noqa: NPY002  # the same
    return found


def same(before: dict[str, object], after: dict[str, object]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        now = after[key]
        if isinstance(value, Tensor):
            assert isinstance(now, Tensor)
            assert torch.equal(value, now), key
        elif key == "own":
            assert torch.equal(value[0], now[0])  # type: ignore[index]
            assert value[1] == now[1]  # type: ignore[index]
        else:
            assert value == now, key


@pytest.mark.parametrize("name", list(MOVING))
def test_probe_validation_and_shadow_passes_move_nothing(name: str) -> None:
    """Buffers in place, by name or past autograd, attributes, power iterations, random streams of
    torch, Python, numpy and of a module's own: as before, in training mode and out of it.
    """
    growing = GrowingModel(germinate(Net(MOVING[name]), seeds=3), training=KernelTraining())
    growing.module.train()
    growing(batch(0)[0])  # what comes with the first forward is there
    before = state_of_host(growing.module)
    growing.probe(batch(1)[0])
    same(before, state_of_host(growing.module))
    slot = graft(growing, PLACE)
    before = state_of_host(growing.module)
    growing.shadow_step(PLACE, 1, lambda: growing(batch(2)[0]).square().mean())
    assert not growing.switches.notes.raised
    assert any(True for _ in growing.kernels[PLACE].gradients())
    same(before, state_of_host(growing.module))
    split = (torch.cat([batch(step)[0] for step in range(4)]), torch.arange(32) % 5)
    figures = evaluate(growing, split, CLASSIFICATION, batch=8)
    same(before, state_of_host(growing.module))
    # the same draws: a paired test has no other difference than the kernel
    assert evaluate(growing, split, CLASSIFICATION, batch=8) == figures
    with_shadow(growing, split, CLASSIFICATION, PLACE)
    slot.live = True
    without(growing, split, CLASSIFICATION, PLACE)
    same(before, state_of_host(growing.module))


@pytest.mark.parametrize("name", list(MOVING))
def test_a_trajectory_beside_a_training_kernel_is_the_hosts_own(name: str) -> None:
    """Twelve steps with a TRAINING kernel and validations between them end as without: bits,
    attributes and streams.
    """
    ends = []
    for places in ((), (PLACE,)):
        growing = GrowingModel(germinate(Net(MOVING[name]), seeds=3), training=KernelTraining())
        growing.module.train()
        for place in places:
            graft(growing, place)
        stepper = Stepper(growing, recipe(), 12, Method(CLASSIFICATION))
        for step in range(12):
            figures = stepper.step(staged("TRAINING", *places), step, batch(step), sample=True)
            assert not figures.faults
            if places and step % 4 == 0:
                evaluate(growing, batch(step), CLASSIFICATION)
        ends.append(state_of_host(growing.module))
    same(*ends)


@pytest.mark.parametrize("name", list(MOVING))
def test_a_step_done_again_without_a_kernel_begins_where_the_first_did(name: str) -> None:
    """A live kernel that fails costs one more pass, which draws and moves what the first one did:
    the end is that of a run that had the seed on its fallback.
    """
    ends = []
    for forcing in (False, True):
        growing = GrowingModel(germinate(Net(MOVING[name]), seeds=3), training=KernelTraining())
        growing.module.train()
        module = spoilt(growing, PLACE, SPOILS["nan"][0])
        graft(growing, PLACE, module, alpha=0.5)
        stepper = Stepper(growing, recipe(), 6, Method(CLASSIFICATION))
        for step in range(6):
            module.spoils = step in (2, 3) and not forcing
            forced = frozenset({PLACE}) if step in (2, 3) and forcing else frozenset[Any]()
            stepper.step(
                staged("PROBATIONARY", PLACE), step, batch(step), sample=True, forced=forced
            )
        ends.append(state_of_host(growing.module))
    same(*ends)


class LowRank(nn.Linear):
    """Merges its low-rank part in evaluation, and takes it out again in training (as LoRA does)."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__(reads, writes)
        self.a, self.b = nn.Parameter(torch.randn(2, reads)), nn.Parameter(torch.randn(writes, 2))
        self.merged = False

    def train(self, mode: bool = True) -> LowRank:  # noqa: FBT001, FBT002  # torch's signature
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.b @ self.a
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        product = super().forward(input)
        return product if self.merged else product + input @ self.a.T @ self.b.T


class Frozen(nn.Module):
    """Keeps its norm in evaluation, whatever mode it is put in; says so by `eval` too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.evaluations = nn.BatchNorm1d(6), 0

    def train(self, mode: bool = True) -> Frozen:  # noqa: FBT001, FBT002  # torch's signature
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed


@pytest.mark.parametrize("kind", [lambda: LowRank(6, 6), Frozen], ids=["merging", "freezing"])
def test_a_users_train_and_eval_are_called_and_leave_no_bit(kind: Callable[[], nn.Module]) -> None:
    """After probe and validation, modes, attributes and parameters are as before to the bit, the
    user's own parameters still get gradients, and evaluation saw what torch's own would.
    """
    growing = GrowingModel(germinate(Net(kind), seeds=3), training=KernelTraining())
    module = growing.module.train()
    middle = module.get_submodule("middle")
    expected = copy.deepcopy(module).eval()(batch(5)[0])
    modes = [part.training for part in module.modules()]
    before = state_of_host(module)
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    for call in (
        lambda: growing.probe(batch(5)[0]),
        lambda: evaluate(growing, batch(5), CLASSIFICATION),
    ):
        call()
        assert torch.equal(seen.pop(), expected)
        assert [part.training for part in module.modules()] == modes
        same(before, state_of_host(module))
    handle.remove()
    assert not getattr(middle, "merged", False)
    functional.cross_entropy(growing(batch(6)[0]), batch(6)[1]).backward()
    assert all(parameter.grad is not None for parameter in middle.parameters())


def loss_of(growing: GrowingModel, data: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(growing(data[0]), data[1])


@pytest.mark.parametrize("again", [True, False], ids=["reentrant", "not reentrant"])
def test_kernels_behind_activation_checkpoints_learn(again: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """The shadow pass gives a kernel the gradients that it has without checkpoints, and the host's
    own stay as they are: whichever way the model's backward goes.
    """

    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            def body(y: Tensor) -> Tensor:
                return torch.relu(self.middle(y))

            if self.checkpoints:
                logits: Tensor = self.last(checkpoint(body, self.first(x), use_reentrant=again))
            else:
                logits = self.last(body(self.first(x)))
            return logits

        checkpoints = True

    found = []
    for checkpoints in (True, False):
        model = Checkpointed(lambda: nn.Linear(6, 6))
        model.checkpoints = checkpoints
        growing = GrowingModel(germinate(model, seeds=3), training=KernelTraining())
        assert growing.probe(batch(0)[0]) == {}
        place = ("middle", 1)
        graft(growing, place)
        loss = partial(loss_of, growing, batch(1))
        loss().backward()
        own = [parameter.grad.clone() for parameter in growing.host_parameters]  # type: ignore[union-attr]
        for _ in range(2):
            growing.shadow_step(place, 1, loss)
        assert not growing.switches.notes.raised
        for parameter, gradient in zip(growing.host_parameters, own, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, gradient)
        found.append([*growing.kernels[place].gradients()])
        assert len(found[-1]) == 4
    for left, right in zip(*found, strict=True):
        assert torch.equal(left, right)


def test_an_optimizer_within_backward_behind_reentrant_checkpoints_is_refused() -> None:
    """A shadow pass would step the host there: one sentence, and no kernel is blamed."""

    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(checkpoint(self.middle, self.first(x), use_reentrant=True))
            return logits

    growing = GrowingModel(
        germinate(Checkpointed(lambda: nn.Linear(6, 6)), seeds=3), training=KernelTraining()
    )
    growing.probe(batch(0)[0])
    growing.host_parameters[0].register_post_accumulate_grad_hook(lambda _: None)
    graft(growing, ("middle", 1))
    with pytest.raises(UsageError, match="use_reentrant=False"):
        growing.shadow_step(("middle", 1), 1, lambda: growing(batch(1)[0]).square().mean())
    assert not growing.switches.notes.raised
