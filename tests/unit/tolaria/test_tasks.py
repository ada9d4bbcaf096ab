"""Tasks: what they may be, how units and metrics add up, and which may be called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper import plugins
from esper.errors import UsageError
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.tolaria.recipes.allowed import Allowed
from esper.tolaria.recipes.recipe import OWNER, Permit, TaskSection, load, references
from esper.tolaria.recipes.sources import modules_of
from esper.tolaria.step import tasks
from esper.tolaria.step.evaluation import evaluate, with_shadow
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION, REGRESSION, Batch, Metric, Outcome, Task
from tests.plugins import TASK, install
from tests.unit.kasmina.cases import graft, recipe, staged

PLACE = ("0", 1)


def growing(outputs: int = 2) -> GrowingModel:
    """A small network that can grow, with one TRAINING kernel."""
    torch.manual_seed(3)
    host = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, outputs))
    found = GrowingModel(germinate(host, seeds=3), training=KernelTraining())
    found.probe(torch.randn(3, 8))
    graft(found, PLACE)
    return found


def numbers(samples: int) -> Batch:
    """Inputs and targets of a regression."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 8, generator=draw)
    return inputs, torch.stack([inputs.sum(1), inputs[:, 0] * inputs[:, 1]], dim=1)


def _padded(model: Callable[[Tensor], Any], batch: Batch) -> Outcome:
    """The mean loss over the labels that count, as a language model's."""
    labels, logits = batch[1], model(batch[0])
    counts = labels >= 0
    right = (logits.detach().argmax(-1) == labels)[counts].sum()
    loss = functional.cross_entropy(logits[counts], labels[counts])
    return Outcome(loss, {"hits": right})


PADDED = Task(
    "padded", _padded, (Metric("hits"),), "hits", lambda batch: int((batch[1] >= 0).sum())
)


def test_a_regression_learns_and_is_measured_in_its_own_metric() -> None:
    """The loss falls, and validation gives the mean squared and the mean absolute error of the
    whole split, although its last batch is smaller.
    """
    model, split = growing(), numbers(130)
    stepper, state = Stepper(model, recipe(), 300, Method(REGRESSION)), staged("TRAINING", PLACE)
    first = evaluate(model, split, REGRESSION)
    told = [stepper.step(state, step, numbers(40), sample=False) for step in range(80)]
    last = evaluate(model, split, REGRESSION)
    assert last.loss < first.loss
    assert told[-1].metrics.keys() == {"mean_absolute_error"}
    assert model.kernels[PLACE].trained == 80
    with torch.no_grad():
        errors = model.module.eval()(split[0]) - split[1]
    assert last.loss == pytest.approx(errors.square().mean().item(), rel=1e-5)
    assert last.metrics["mean_absolute_error"] == pytest.approx(
        errors.abs().mean().item(), rel=1e-5
    )
    assert last.accuracy == 0
    assert with_shadow(model, split, REGRESSION, PLACE).loss != last.loss
    assert REGRESSION.told(last.loss, {"mean_absolute_error": 0.25}) == "mean absolute error 0.25"
    assert not REGRESSION.higher_is_better
    # a run that ends in its first epoch has measured nothing yet
    assert REGRESSION.fields(0.0, {})["score"] == 0.0


@pytest.mark.parametrize("parts", [2, 5])
def test_micro_batches_count_by_their_units(parts: int) -> None:
    """The loss of a step is the mean over all units, wherever a batch is cut: not over parts."""
    inputs, labels = torch.randn(12, 8), torch.randint(0, 2, (12,))
    labels[1:5] = -1
    found = []
    for accumulate in (1, parts):
        model = growing()
        settings = recipe(batch_size=12, accumulate=accumulate)
        stepper = Stepper(model, settings, 10, Method(PADDED))
        found.append(stepper.step(staged("TRAINING", PLACE), 0, (inputs, labels), sample=False))
    whole, split = found
    assert split.loss == pytest.approx(whole.loss, rel=1e-5)
    assert split.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
    assert split.metrics["hits"] == pytest.approx(whole.metrics["hits"])


def test_a_batch_without_units_is_refused() -> None:
    """Its loss would be NaN, and blamed on a kernel."""
    model, labels = growing(), torch.full((6,), -1)
    stepper = Stepper(model, recipe(), 10, Method(PADDED))
    with pytest.raises(UsageError, match="counts 0 units in a batch of 6 samples"):
        stepper.step(staged("PROBATIONARY", PLACE), 0, (torch.randn(6, 8), labels), sample=True)
    switches = model.switches
    assert not switches.fallback
    assert not switches.sampling
    assert not switches.notes.watching


def test_a_classification_is_what_it_was() -> None:
    """Cross entropy and the fraction that is right."""
    model = growing(5)
    batch = (torch.randn(20, 8), torch.randint(0, 5, (20,)))
    found = evaluate(model, batch, CLASSIFICATION, batch=7)
    with torch.no_grad():
        logits = model.module.eval()(batch[0])
    assert found.loss == pytest.approx(functional.cross_entropy(logits, batch[1]).item(), rel=1e-6)
    assert found.accuracy == (logits.argmax(-1) == batch[1]).sum().item() / 20
    assert CLASSIFICATION.told(0.1, found.metrics) == f"accuracy {found.accuracy:.1%}"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "My Task"}, "'My Task' is not a name for a task or metric"),
        ({"metrics": (Metric("a b"),)}, "'a b' is not a name"),
        ({"metrics": (Metric("hits"), Metric("hits"))}, "names a metric twice"),
        ({"metrics": (Metric("loss"),), "score": "loss"}, "names a metric twice"),
        ({"metrics": (Metric("a" * 65),)}, "is not a name for a task or metric"),
        ({"metrics": tuple(Metric(f"m{one}") for one in range(65))}, "has 65 metrics; 64 are"),
        ({"metrics": (Metric("accuracy", "%"),)}, "must be a fraction from 0 to 1"),
        ({"score": "f1"}, r"the score 'f1', which is none of its metrics \(hits\)"),
    ],
)
def test_a_task_that_nothing_could_show_is_refused(changed: dict[str, Any], sentence: str) -> None:
    """When it is made, not in the first epoch."""
    with pytest.raises(UsageError, match=sentence):
        replace(PADDED, **changed)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (lambda model, batch: model(batch[0]).mean(), "gave Tensor; it must give an esper.Outc"),
        (lambda model, batch: Outcome(model(batch[0]).mean()), "gave the metrics none"),
    ],
)
def test_a_step_that_gives_something_else_is_named(step: Any, sentence: str) -> None:
    """Whether a live kernel is there or not: it is not the kernel's fault."""
    for stage in ("TRAINING", "PROBATIONARY"):
        model = growing()
        stepper = Stepper(model, recipe(), 10, Method(replace(PADDED, step=step)))
        batch = (torch.randn(6, 8), torch.zeros(6, dtype=torch.long))
        with pytest.raises(UsageError, match=sentence):
            stepper.step(staged(stage, PLACE), 0, batch, sample=False)


def test_targets_of_another_shape_are_refused() -> None:
    """Torch would broadcast them, and train on another loss."""
    inputs, targets = numbers(8)
    with pytest.raises(UsageError, match=r"gives \[8, 2\] for targets \[8\]"):
        evaluate(growing(), (inputs, targets[:, 0]), REGRESSION)
    assert math.isfinite(evaluate(growing(), (inputs, targets), REGRESSION).loss)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a task, installed beside Esper."""
    groups = {plugins.TASKS: {"ranked": "RANKED"}}
    folder = install(tmp_path / "site", "esper_ranked", TASK, groups)
    monkeypatch.syspath_prepend(folder)
    tasks.known.cache_clear()
    yield folder
    tasks.known.cache_clear()


@pytest.mark.usefixtures("installed")
def test_an_installed_package_brings_a_task() -> None:
    """It is found by its name, and its source is among those that a run keeps."""
    assert tasks.task_of(TaskSection(name="ranked"), Permit()).score == "top_two"
    ranked = load("mnist1d", ["task=ranked"])
    assert modules_of(ranked) == ["esper_ranked"]
    assert modules_of(load("mnist1d")) == []
    Allowed().require(ranked)


def test_a_task_by_module_is_called_only_where_functions_may_be() -> None:
    """As the model and the data: not from a stranger's journal, and not for an operator."""
    name = "tests.unit.tolaria.test_tasks:PADDED"
    assert tasks.task_of(TaskSection(name=name), OWNER) is PADDED
    assert modules_of(load("mnist1d", [f"task={name}"])) == ["tests.unit.tolaria.test_tasks"]
    with pytest.raises(UsageError, match=f"--allow {name}"):
        tasks.task_of(TaskSection(name=name), Permit())
    with pytest.raises(UsageError, match=r"task\.name = .* is not a function that may be called"):
        Allowed().require(load("mnist1d", [f"task={name}"]))
    section = load("mnist1d", [f"task.name={name}"])
    with pytest.raises(UsageError, match=r"task\.name = .* is not a function that may be called"):
        Allowed().require(section)
    # a recipe of the list may say it in short or as a section
    assert references({"task": name}) == references({"task": {"name": name}}) == {"task.name": name}
    with pytest.raises(UsageError, match="is float, and must be a Task"):
        tasks.task_of(TaskSection(name="tests.waiting:PATIENCE_S"), OWNER)
    with pytest.raises(UsageError, match=r"no task 'nothing'. There are: classification, langua"):
        tasks.task_of(TaskSection(name="nothing"), OWNER)
