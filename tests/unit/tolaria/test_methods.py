"""Optimizer and schedule of a recipe: the host moves as in a plain loop of torch's, a snapshot
holds all of it, and what cannot work is refused before the first step.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from esper import plugins
from esper.checkpoint import Snapshot
from esper.errors import UsageError
from esper.kasmina import GrowingModel, germinate
from esper.kasmina.growth import KernelTraining
from esper.lifecycle import RunState
from esper.tolaria.recipes.allowed import Allowed
from esper.tolaria.recipes.recipe import OWNER, Permit, Recipe, load, validated
from esper.tolaria.recipes.sources import modules_of
from esper.tolaria.record.snapshot_content import kernel_notes, model_tensors, restore_model
from esper.tolaria.run.trainee import total_steps
from esper.tolaria.step import optimizers, schedules
from esper.tolaria.step.method import method_of
from esper.tolaria.step.stepping import Stepper
from tests.plugins import install
from tests.unit.kasmina.cases import graft, staged
from tests.unit.tolaria.laboratory import GROWTH, Laboratory, data, recipe

STEPS = 12
HERE = "tests.unit.tolaria.test_methods"
PLACE = ("0", 1)


def host() -> nn.Module:
    """A small classifier; all of its parameters are matrices, which Muon wants."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 12, bias=False), nn.Tanh(), nn.Linear(12, 3, bias=False))


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The samples of a step."""
    draw = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 8, generator=draw)
    return inputs, (inputs[:, :3] + inputs[:, 3:6]).argmax(1)


def chosen(**sections: Any) -> Recipe:
    """A recipe with these sections."""
    return validated({"name": "t", "model": "a:b", "data": "a:b", **sections})


class Trained:
    """A growing model that a recipe's method steps."""

    def __init__(
        self, settings: Recipe, *, steps: int = STEPS, make: Callable[[], nn.Module] = host
    ) -> None:
        self.growing = GrowingModel(germinate(make(), seeds=3), training=KernelTraining())
        self.growing.probe(torch.randn(3, 8))
        self.stepper = Stepper(self.growing, settings, steps, method_of(settings, OWNER))
        self.state, self.step = RunState("r", status="RUNNING"), 0
        self.rates: list[list[float]] = []

    def train(self, steps: int) -> list[float]:
        """The losses of so many steps."""
        losses = []
        for _ in range(steps):
            done = self.stepper.step(self.state, self.step, batch(self.step), sample=False)
            self.rates.append([one["lr"] for one in self.stepper.host_optimizer.param_groups])
            losses.append(done.loss)
            self.step += 1
        return losses

    def everything(self) -> dict[str, Tensor]:
        """Every tensor of the state, copied."""
        living = model_tensors(self.growing, self.stepper.host_optimizer)
        return {name: tensor.clone() for name, tensor in living.items()}

    def snapshot(self) -> Snapshot:
        """A snapshot as one reads it: notes went through JSON."""
        notes = {"kernels": kernel_notes(self.growing), "stepper": self.stepper.state_dict()}
        return Snapshot(self.everything(), json.loads(json.dumps(notes)))

    def restore(self, snapshot: Snapshot, step: int) -> None:
        """Make it what the snapshot holds."""
        restore_model(
            self.growing, self.stepper.host_optimizer, snapshot, state=self.state, step=step
        )
        self.stepper.load_state_dict(snapshot.notes["stepper"])
        self.step = step


class Restless(torch.optim.SGD):
    """An optimizer that keeps figures in its state and moves a value of its groups."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Descend by a factor that depends on the steps so far."""
        for group in self.param_groups:
            group["momentum"], group["pair"] = group["momentum"] * 0.9, (group["momentum"], 1.0)
            for parameter in group["params"]:
                kept = self.state[parameter]
                kept["count"] = kept.get("count", 0) + 1
        super().step()


def restless(groups: list[dict[str, Any]], momentum: float = 0.5) -> Optimizer:
    """Made by a function, as a user's would be."""
    assert all(set(one) >= {"params", "param_names", "lr"} for one in groups)
    return Restless(groups, momentum=momentum)


NEEDED: dict[str, dict[str, Any]] = {f"{HERE}:restless": {"momentum": 0.9}}
OPTIMIZERS = [*sorted(optimizers.known()), f"{HERE}:restless", f"{HERE}:Restless"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_from_a_snapshot_bit_for_bit(name: str) -> None:
    """Tensors of any shape, figures and what it moves in its groups come back: into an optimizer
    that has been somewhere else in between.
    """
    torch.set_num_threads(1)
    settings = chosen(
        optimizer={
            "name": name,
            "groups": [{"match": ["2.*"], "learning_rate": 2e-3}],
            "arguments": NEEDED.get(name, {}),
        }
    )
    first = Trained(settings)
    first.train(5)
    kept = first.snapshot()
    expected = first.train(STEPS - 5)
    second = Trained(settings)
    second.train(9)
    second.restore(kept, 5)
    assert second.train(STEPS - 5) == expected
    found, wanted = second.everything(), first.everything()
    assert found.keys() == wanted.keys()
    assert [one for one in wanted if not torch.equal(found[one], wanted[one])] == []
    assert second.stepper.state_dict() == first.stepper.state_dict()
    assert not torch.equal(wanted["model/0.weight"], dict(host().named_parameters())["0.weight"])


def test_the_default_adds_nothing_to_a_snapshot() -> None:
    """AdamW holds tensors alone: a snapshot is what it was before there were others."""
    trained = Trained(chosen())
    trained.train(3)
    assert trained.stepper.state_dict() == {"scaler": {}}
    restless = Trained(chosen(optimizer={"name": f"{HERE}:restless"}))
    restless.train(3)
    notes = restless.stepper.state_dict()["optimizer"]
    assert notes["figures"] == {"0/count": 3, "1/count": 3}
    assert notes["groups"]["0/momentum"] == pytest.approx(0.5 * 0.9**3)


def plainly(
    make: Callable[[nn.Module], tuple[Optimizer, LRScheduler]], steps: int
) -> tuple[dict[str, Tensor], list[list[float]]]:
    """Parameters and rates of a loop that knows nothing of Esper."""
    model, rates = host(), []
    optimizer, scheduler = make(model)
    for step in range(steps):
        inputs, labels = batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
        if step + 1 < steps:
            scheduler.step()
    return {name: one.detach() for name, one in model.named_parameters()}, rates


def test_the_host_moves_as_in_a_plain_loop_of_torch() -> None:
    """SGD with momentum, two groups and a scheduler: the same rates, the same bits."""
    settings = chosen(
        optimizer={
            "name": "SGD",
            "learning_rate": 0.5,
            "weight_decay": 0.01,
            "arguments": {"momentum": 0.9, "nesterov": True},
            "groups": [{"match": ["2.*"], "weight_decay": 0.0, "learning_rate": 0.25}],
        },
        schedule={"name": "StepLR", "arguments": {"step_size": 4, "gamma": 0.5}},
    )
    trained = Trained(settings)
    trained.train(STEPS)

    def make(model: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = torch.optim.SGD(
            [
                {"params": [model.get_parameter("0.weight")], "weight_decay": 0.01},
                {"params": [model.get_parameter("2.weight")], "lr": 0.25, "weight_decay": 0.0},
            ],
            lr=0.5,
            momentum=0.9,
            nesterov=True,
        )
        return optimizer, lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)

    parameters, rates = plainly(make, STEPS)
    assert trained.rates == rates
    assert rates[0] == [0.5, 0.25]
    assert rates[-1] == [0.125, 0.0625]
    living = trained.growing.module.state_dict()
    assert [name for name, one in parameters.items() if not torch.equal(living[name], one)] == []


SCHEDULED: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 7]},
    "ExponentialLR": {"gamma": 0.8},
    "ConstantLR": {},
    "LinearLR": {},
    "PolynomialLR": {"total_iters": 9},
    "CosineAnnealingLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.5, "cycle_momentum": False},
    "SWALR": {"swa_lr": 0.1, "anneal_epochs": 6},
}
LENGTHS = {"CosineAnnealingLR": {"T_max": STEPS}, "OneCycleLR": {"total_steps": STEPS}}


@pytest.mark.parametrize("name", sorted(set(schedules.known()) - set(schedules.BUILT_IN)))
def test_a_scheduler_of_torch_gives_the_rates_that_it_gives_torch(name: str) -> None:
    """The length of the run is filled in."""
    settings = chosen(
        optimizer={"name": "SGD", "learning_rate": 0.5},
        schedule={"name": name, "arguments": SCHEDULED[name]},
    )
    trained = Trained(settings)
    trained.train(STEPS)

    def make(model: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        kind = getattr(lr_scheduler, name)
        return optimizer, kind(optimizer, **SCHEDULED[name], **LENGTHS.get(name, {}))

    _, rates = plainly(make, STEPS)
    assert trained.rates == [pytest.approx(one, rel=1e-12) for one in rates]
    with warnings.catch_warnings():  # the rates do not depend on the steps before: a run resumes
        warnings.simplefilter("error")
        again = Trained(settings)
    again.step = STEPS - 1
    again.train(1)
    assert again.rates == trained.rates[-1:]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", f"{HERE}:stairs"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_a_schedule_is_a_factor_of_all_rates(name: str, warmup: int) -> None:
    """Groups and kernels follow it; a warm-up rises to where it begins."""
    settings = chosen(
        optimizer={"learning_rate": 1.0, "groups": [{"match": ["2.*"], "learning_rate": 0.5}]},
        schedule={"name": name, "warmup_steps": warmup},
    )
    trained = Trained(settings, steps=10 + warmup)
    graft(trained.growing, PLACE)
    trained.state = staged("TRAINING", PLACE)
    trained.train(10 + warmup)
    after = {
        "cosine": [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)],
        "linear": [1 - step / 10 for step in range(10)],
        "constant": [1.0] * 10,
    }.get(name, [1.0] * 5 + [0.5] * 5)
    rising = [(step + 1) / (warmup + 1) for step in range(warmup)]
    assert [one[0] for one in trained.rates] == pytest.approx([*rising, *after])
    assert [one[1] for one in trained.rates] == pytest.approx(
        [0.5 * one for one in (*rising, *after)]
    )
    (group,) = trained.growing.kernels[PLACE].optimizer.param_groups
    warm = KernelTraining()  # kernels warm up by themselves, too
    assert group["lr"] == pytest.approx(
        warm.learning_rate * after[-1] * min(1.0, (10 + warmup) / warm.warmup_steps)
    )


def stairs(step: int, total_steps: int) -> float:
    """Half of the rate from the middle on."""
    return 1.0 if step < total_steps / 2 else 0.5


def test_final_is_where_a_schedule_ends() -> None:
    """`final` is a fraction of the learning rate."""
    for name in ("cosine", "linear"):
        trained = Trained(chosen(schedule={"name": name, "arguments": {"final": 0.1}}))
        assert trained.stepper._fractions(0)[0] == 1
        assert trained.stepper._fractions(STEPS)[0] == pytest.approx(0.1)


def closure_wanted(groups: Any) -> Optimizer:
    """LBFGS, by another name."""
    return torch.optim.LBFGS([one for group in groups for one in group["params"]])


def stranger(groups: Any) -> Optimizer:
    """An optimizer of something else."""
    return torch.optim.SGD([*groups[0]["params"], nn.Parameter(torch.zeros(2))])


def rateless(groups: Any) -> Optimizer:
    """An optimizer whose rate is a tensor."""
    return torch.optim.SGD([{**group, "lr": torch.tensor(0.1)} for group in groups], foreach=False)


def nothing(groups: Any) -> None:
    """No optimizer."""


class Hoarder(torch.optim.SGD):
    """Keeps what no snapshot can hold."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Keep a list of gradients."""
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["seen"] = [torch.zeros(1)]


def broken(step: int, total_steps: int) -> float:
    """Raises late in the run."""
    return 1 / (total_steps - 2 - step)


def negative(step: int, total_steps: int) -> float:
    """Below zero late in the run."""
    return 1 - 2 * step / total_steps


NUMBER = 3


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"optimizer": {"name": "Sdg"}},
            r"no optimizer 'Sdg'; did you mean \w+\? .*SGD",
        ),
        ({"optimizer": {"name": "Optimizer"}}, "no optimizer 'Optimizer'"),
        ({"optimizer": {"name": "LBFGS"}}, "it asks for the loss several times a step"),
        ({"optimizer": {"name": "SparseAdam"}}, "sparse gradients alone"),
        ({"optimizer": {"name": f"{HERE}:closure_wanted"}}, "its step asks for a closure"),
        ({"optimizer": {"name": f"{HERE}:stranger"}}, "has other parameters than the groups"),
        ({"optimizer": {"name": f"{HERE}:rateless"}}, "a group whose lr is Tensor"),
        ({"optimizer": {"name": f"{HERE}:nothing"}}, "gave NoneType, and must give"),
        ({"optimizer": {"name": f"{HERE}:NUMBER"}}, "is int: give a class"),
        ({"optimizer": {"name": f"{HERE}:missing"}}, "has no function missing"),
        ({"optimizer": {"name": "SGD", "arguments": {"speed": 1}}}, "does not fit SGD: .*speed"),
        ({"optimizer": {"name": "SGD", "arguments": {"momentum": -1}}}, "Invalid momentum value"),
        ({"optimizer": {"arguments": {"lr": 1}}}, "it is optimizer.learning_rate in a recipe"),
        ({"optimizer": {"name": "Rprop", "weight_decay": 0.1}}, "takes no weight_decay: leave"),
        ({"optimizer": {"groups": [{"match": ["nope*"]}]}}, r"groups\[0\] matches no parameter"),
        (
            {"optimizer": {"groups": [{"match": ["0.*"]}, {"match": ["0.weight"]}]}},
            r"groups\[1\] matches no parameter .* that an earlier group has not taken",
        ),
        ({"schedule": {"name": "cosin"}}, "no schedule 'cosin'; did you mean cosine?"),
        ({"schedule": {"name": f"{HERE}:NUMBER"}}, "is int: give a function"),
        ({"schedule": {"name": "cosine", "arguments": {"end": 0}}}, "does not fit cosine: .*end"),
        *(
            ({"schedule": {"name": name}}, f"{name}' cannot be used: .* Name a function of yours")
            for name in schedules.UNSUITED
        ),
        ({"schedule": {"warmup_steps": STEPS}}, "is not less than the 12 steps"),
        ({"schedule": {"name": f"{HERE}:broken"}}, "raised ZeroDivisionError for step 10 of 12"),
        ({"schedule": {"name": f"{HERE}:negative"}}, "for step 7 of 12: a factor"),
        ({"schedule": {"name": "StepLR"}}, "does not fit StepLR .*step_size"),
        (
            {
                "schedule": {
                    "name": "OneCycleLR",
                    "arguments": {"max_lr": 1, "cycle_momentum": True},
                }
            },
            "a schedule moves learning rates alone: set cycle_momentum = false",
        ),
        (
            {
                "schedule": {
                    "name": "OneCycleLR",
                    "arguments": {"max_lr": 1, "total_steps": 5},
                }
            },
            "ends after 6 of 12 steps",
        ),
    ],
)
def test_what_cannot_train_is_refused_before_the_first_step(
    sections: dict[str, Any], sentence: str
) -> None:
    """In one sentence, which says what to change."""
    with pytest.raises(UsageError, match=sentence):
        Trained(chosen(**sections))


def test_muon_says_that_it_takes_matrices() -> None:
    """What an optimizer refuses of the model is told in its own words."""

    def biased() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 3))

    with pytest.raises(UsageError, match=r"Muon.*2D parameters"):
        Trained(chosen(optimizer={"name": "Muon"}), make=biased)


class Counting(torch.optim.SGD):
    """Counts where no snapshot looks."""

    steps = 0

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Count in an attribute."""
        self.steps = self.steps + 1
        super().step()


class Elsewhere(torch.optim.SGD):
    """Keeps state that belongs to no parameter."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Keep it under a name."""
        super().step()
        self.state["all"] = {"count": torch.zeros(())}  # type: ignore[index]


class Numbered(torch.optim.SGD):
    """Keeps state under a number, which JSON makes a text of."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Keep it."""
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter][7] = torch.zeros(())


class Failing(torch.optim.SGD):
    """Raises when it is stepped."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Raise."""
        raise RuntimeError("not today")


def tensor_in_group(groups: Any) -> Optimizer:
    """A value of a group that is a tensor."""
    return torch.optim.SGD([{**group, "scale": torch.ones(3)} for group in groups])


def leaving(groups: Any) -> Optimizer:
    """Leaves a parameter out."""
    return torch.optim.SGD(groups[0]["params"][:1])


def backwards(groups: Any) -> Optimizer:
    """A learning rate below zero."""
    made = torch.optim.SGD(groups)
    made.param_groups[0]["lr"] = -0.1
    return made


class Free(torch.optim.SGD):
    """Takes whatever it is given."""

    def __init__(self, params: Any, **more: Any) -> None:
        super().__init__(params, **more)


class Without(Optimizer):
    """Takes no learning rate."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (f"{HERE}:Hoarder", {}, "keeps seen, of type list, which no snapshot can hold"),
        (f"{HERE}:Counting", {}, "counts in its attribute steps, which no snapshot can"),
        (f"{HERE}:Elsewhere", {}, "keeps state under 'all', which is no parameter"),
        (f"{HERE}:Numbered", {}, "keeps 7, of type Tensor, which no snapshot can hold"),
        (f"{HERE}:Failing", {}, r"cannot step with these arguments \(RuntimeError: not today\)"),
        (f"{HERE}:tensor_in_group", {}, "keeps scale, of type Tensor"),
        (f"{HERE}:leaving", {}, "has other parameters than the groups"),
        (f"{HERE}:backwards", {}, "a group whose lr is -0.1"),
        (f"{HERE}:Without", {}, "takes no lr, so that no learning rate could reach it"),
        ("AdamW", {"amsgrad": "False"}, "amsgrad = 'False' is a text"),
        ("SGD", {"nesterov": "false", "momentum": 0.9}, "nesterov = 'false' is a text"),
        ("SGD", {"dampening": "x"}, "dampening = 'x' is a text"),
        ("SGD", {"foreach": "no"}, "foreach = 'no' is a text"),
        ("NAdam", {"betas": [0.9, 0.99, 0.999]}, "cannot step|refuses"),
        ("builtins:dict", {}, "has other|does not say what it takes|gave dict"),
        ("builtins:int", {}, "does not say what it takes|gave int|refuses|takes no lr"),
        ("..:SGD", {}, "has no module before the colon"),
    ],
)
def test_an_optimizer_is_rehearsed_before_the_run(
    name: str, arguments: dict[str, Any], sentence: str
) -> None:
    """What raises, keeps what a snapshot cannot hold, or would not learn, is named at once."""
    with pytest.raises(UsageError, match=sentence):
        Trained(chosen(optimizer={"name": name, "arguments": arguments}))


def test_a_rehearsal_moves_nothing() -> None:
    """Neither the model nor the random streams; a class with any keywords is taken."""
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    before = dict(host().named_parameters())
    torch.manual_seed(5)
    trained = Trained(chosen(optimizer={"name": f"{HERE}:Free"}))
    torch.manual_seed(5)
    again = Trained(chosen(optimizer={"name": f"{HERE}:restless"}))
    assert trained.stepper.state_dict() == again.stepper.state_dict() == {"scaler": {}}
    for name, parameter in before.items():
        assert torch.equal(parameter, again.growing.module.get_parameter(name))
    torch.manual_seed(5)
    assert torch.rand(()) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("ExponentialLR", {"gamma": -1}, "for step 1 of 12: a factor"),
        ("StepLR", {"step_size": 3, "gamma": -1}, "for step 3 of 12: a factor"),
        ("CosineAnnealingLR", {"eta_min": -1}, "a factor of the learning rate"),
        ("ExponentialLR", {"gamma": 1e200}, "a factor of the learning rate"),
        ("cosine", {"final": 1e308}, "a factor of the learning rate"),
        ("MultiStepLR", {"milestones": "57"}, "milestones = '57' is a text"),
        ("MultiStepLR", {"milestones": ["a"]}, "milestones = 'a' is a text"),
        (f"{HERE}:huge", {}, "a factor of the learning rate"),
        (f"{HERE}:truth", {}, "gave True"),
        ("builtins:max", {}, "does not say what it takes"),
    ],
)
def test_a_schedule_is_looked_at_before_the_run(
    name: str, arguments: dict[str, Any], sentence: str
) -> None:
    """Below zero, beyond any sense, or a text where there should be a number."""
    with pytest.raises(UsageError, match=sentence):
        Trained(chosen(schedule={"name": name, "arguments": arguments}))


def huge(step: int, total_steps: int) -> int:
    """More than a float holds."""
    return 10**400


def truth(step: int, total_steps: int) -> bool:
    """No number."""
    return True


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.learning_rate=inf",
        "optimizer.weight_decay=inf",
        "optimizer.arguments.momentum=nan",
        "kernels.learning_rate=inf",
        "gates.z=nan",
        "schedule.arguments.final=inf",
    ],
)
def test_no_number_of_a_recipe_is_infinite(override: str) -> None:
    """It would train to NaN, and be rolled back until it gives up."""
    with pytest.raises(UsageError, match="finite"):
        load("mnist1d", [override])


def test_groups_say_what_is_trained_and_take_names_with_brackets() -> None:
    """A pattern of a frozen layer matches nothing; a name that is typed as it stands matches."""

    def half() -> nn.Module:
        made = host()
        made.get_parameter("0.weight").requires_grad = False
        return made

    with pytest.raises(UsageError, match=r"that is trained .* the model trains 2.weight"):
        Trained(chosen(optimizer={"groups": [{"match": ["0.*"]}]}), make=half)

    def frozen() -> nn.Module:
        return host().requires_grad_(requires_grad=False)

    with pytest.raises(UsageError, match="Every parameter of the model is frozen"):
        Trained(chosen(), make=frozen)

    def bracketed() -> nn.Module:
        made = nn.Sequential(nn.Linear(8, 12, bias=False), nn.Tanh())
        made.add_module("a[0]", nn.Linear(12, 3, bias=False))
        return made

    trained = Trained(
        chosen(optimizer={"groups": [{"match": ["a[0].weight"], "learning_rate": 0.5}]}),
        make=bracketed,
    )
    assert [group["lr"] for group in trained.stepper.host_optimizer.param_groups] == [1e-3, 0.5]


def test_a_batch_larger_than_the_split_is_refused() -> None:
    """There would be no step."""
    settings = chosen(run={"batch_size": 1_000})
    with pytest.raises(UsageError, match=r"run.batch_size = 1000 is more than the 160 training"):
        total_steps(settings, data().train)


def test_a_killed_run_with_its_own_optimizer_and_schedule_ends_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    """Momentum, groups and OneCycleLR, kernels in all stages, killed three times."""
    settings = recipe(
        optimizer={
            "name": f"{HERE}:restless",
            "learning_rate": 0.05,
            "groups": [{"match": ["*.bias", "norm.*"], "weight_decay": 0.0}],
        },
        schedule={"name": "OneCycleLR", "arguments": {"max_lr": 0.1, "cycle_momentum": False}},
    )
    expected, _ = Laboratory(tmp_path / "whole", settings, GROWTH).run()
    killed = Laboratory(tmp_path / "killed", settings, GROWTH)
    killed.killed_at(0)
    for step in (3, 21, 44):
        killed.killed_at(step, resumed=True)
    found, _ = killed.run(resumed=True)
    assert found == expected
    usual, _ = Laboratory(tmp_path / "usual", recipe(), GROWTH).run()
    assert found.digest != usual.digest


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with an optimizer and a schedule, installed beside Esper."""
    source = (
        "import torch\n\n\ndef make(groups, **more):\n    return torch.optim.SGD(groups, **more)\n"
        "\n\ndef halves(step, total_steps):\n    return 0.5\n"
    )
    groups = {plugins.OPTIMIZERS: {"own": "make"}, plugins.SCHEDULES: {"halves": "halves"}}
    folder = install(tmp_path / "site", "esper_own", source, groups)
    monkeypatch.syspath_prepend(folder)
    caches = (optimizers.known, schedules.known)
    for cache in caches:
        cache.cache_clear()
    yield folder
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("installed")
def test_an_installed_package_brings_an_optimizer_and_a_schedule() -> None:
    """They are found by name, and their source is among those that a run keeps."""
    settings = chosen(
        model="esper.tolaria.recipes.mnist1d:model",
        data="esper.tolaria.recipes.mnist1d:data",
        optimizer={"name": "own", "learning_rate": 1.0},
        schedule={"name": "halves"},
    )
    assert modules_of(settings) == ["esper_own"]
    for permit in (Permit(), Permit(frozenset({"own", "halves"}))):
        with pytest.raises(UsageError, match=r"--allow optimizer.name=own"):
            method_of(settings, permit)
    both = Permit(frozenset({"optimizer.name=own", "schedule.name=halves"}))
    assert method_of(settings, both) == method_of(settings, OWNER)
    with pytest.raises(UsageError, match=r"optimizer.name = 'own' is not a function that may be"):
        Allowed().require(settings)
    trained = Trained(settings)
    trained.train(1)
    assert isinstance(trained.stepper.host_optimizer, torch.optim.SGD)
    assert trained.rates == [[0.5]]


@pytest.mark.parametrize(
    ("group", "name", "what", "sentence"),
    [
        (plugins.OPTIMIZERS, "SGD", "make", "has the name of one of Esper's or torch's own"),
        (plugins.OPTIMIZERS, "LBFGS", "make", "has the name of one of Esper's or torch's own"),
        (plugins.SCHEDULES, "cosine", "make", "has the name of one of Esper's or torch's own"),
        (plugins.SCHEDULES, "own", "NUMBER", "is int, and has to be a function or class"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, what: str, sentence: str
) -> None:
    """Before anything is trained with what it brings."""
    source = "def make(groups):\n    return None\n\n\nNUMBER = 3\n"
    monkeypatch.syspath_prepend(
        install(tmp_path / "site", "esper_wrong", source, {group: {name: what}})
    )
    known = optimizers.known if group == plugins.OPTIMIZERS else schedules.known
    known.cache_clear()
    with pytest.raises(UsageError, match=f"{name}' of package esper_wrong .* {sentence}"):
        known()


@pytest.mark.parametrize("section", ["optimizer", "schedule"])
def test_code_by_module_is_called_only_where_functions_may_be(section: str) -> None:
    """As the model and the data: not from a stranger's journal, and not for an operator."""
    name = f"{HERE}:{'restless' if section == 'optimizer' else 'stairs'}"
    settings = load("mnist1d", [f"{section}.name={name}"])
    assert settings.references[f"{section}.name"] == name
    assert modules_of(settings) == [HERE]
    for permit in (Permit(), Permit(frozenset({name}))):
        with pytest.raises(UsageError, match=f"--allow {section}.name={name}"):
            method_of(settings, permit)
    assert inspect.isfunction(getattr(method_of(settings, OWNER), section))
    with pytest.raises(UsageError, match=rf"{section}.name = .* is not a function that may be"):
        Allowed().require(settings)


def test_a_copy_of_a_recipe_with_parts_is_the_same() -> None:
    """Groups and arguments survive JSON, as a journal has them."""
    settings = chosen(
        optimizer={"name": "SGD", "arguments": {"momentum": 0.9}, "groups": [{"match": ["a"]}]}
    )
    assert Recipe.model_validate(json.loads(settings.canonical())) == settings
    assert copy.deepcopy(settings) == settings
