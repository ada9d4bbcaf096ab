"""Esper's own tasks: their loss, their metrics and their units, against torch's own figures; and
how batches and outputs of any structure get through step and evaluation.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import UsageError
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.numerics import Numerics
from esper.tolaria.recipes.recipe import OWNER, TaskSection, load
from esper.tolaria.step.evaluation import evaluate
from esper.tolaria.step.method import Method
from esper.tolaria.step.preflight import probe, require_fit
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import (
    CLASSIFICATION,
    LANGUAGE_MODEL,
    MULTI_LABEL,
    REGRESSION,
    Batch,
    Outcome,
    Task,
    classification,
    language_model,
    output_of,
    task_of,
)
from tests.unit.kasmina.cases import recipe, staged

PLACE = ("body", 0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(most: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(seed))


class Host(nn.Module):
    """A linear layer over the last dimension, with outputs and inputs in whatever form."""

    def __init__(
        self,
        outputs: int,
        form: Callable[[Tensor], Any] = lambda logits: logits,
        *,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, outputs)
        self.form, self.dense = form, dense

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        logits = self.head(torch.relu(self.body(x if mask is None else x * mask)))
        return self.form(logits.movedim(-1, 1) if self.dense else logits)


def growing(host: nn.Module, task: Task, split: Batch) -> GrowingModel:
    torch.manual_seed(0)
    found = GrowingModel(germinate(copy.deepcopy(host), seeds=2), training=KernelTraining())
    probe(found, split, task)
    return found


def measured(host: nn.Module, task: Task, split: Batch, batch: int = 7) -> dict[str, float]:
    """Loss and metrics of a split, in batches that do not fit it."""
    model = growing(host, task, split)
    require_fit(model, task, split, "The split", 4)
    found = evaluate(model, split, task, batch=batch)
    return {"loss": found.loss, **found.metrics}


def close(found: dict[str, float], **wanted: Any) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(float(value), rel=1e-5), key


def test_labels_of_minus_100_count_in_neither_loss_nor_accuracy() -> None:
    """Also where they fill a whole batch of the evaluation."""
    host, x, y = Host(4), drawn(60, 6), whole(4, 60)
    y[20:45] = -100
    counts = y != -100
    logits = host(x).detach()
    for batch in (7, 10, 50):
        split, task = (x, y), classification()
        model = growing(host, task, split)
        found = evaluate(model, split, task, batch=batch)
        assert found.loss == pytest.approx(functional.cross_entropy(logits, y).item(), rel=1e-5)
        right = (logits.argmax(1) == y)[counts].double().mean().item()
        assert found.metrics["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("shape", [(5,), (4,), (3, 5), (4, 4)])
def test_dense_outputs_have_their_classes_in_the_second_dimension(shape: tuple[int, ...]) -> None:
    """Sequences and images, also where another dimension is as long as there are classes."""
    x, y = drawn(20, *shape, 6), whole(4, 20, *shape)
    y[3] = -100
    y[5, 0] = -100
    host = Host(4, dense=True)
    logits = host(x).detach()
    counts = y != -100
    close(
        measured(host, CLASSIFICATION, (x, y)),
        loss=functional.cross_entropy(logits, y),
        accuracy=(logits.argmax(1) == y)[counts].double().mean(),
    )


def test_soft_labels_are_probabilities() -> None:
    """Right is the class that both hold for the likeliest."""
    host, x, y = Host(4), drawn(20, 6), drawn(20, 4, seed=1).softmax(1)
    logits = host(x).detach()
    close(
        measured(host, CLASSIFICATION, (x, y)),
        loss=functional.cross_entropy(logits, y),
        accuracy=(logits.argmax(1) == y.argmax(1)).double().mean(),
    )


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_whole_numbers_of_any_type_are_labels(kind: torch.dtype) -> None:
    """And give the same figures."""
    x, y = drawn(20, 6), whole(4, 20)
    torch.manual_seed(5)
    host = Host(4)
    found = measured(host, CLASSIFICATION, (x, y.to(kind)))
    close(found, loss=functional.cross_entropy(host(x).detach(), y), accuracy=found["accuracy"])


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16])
def test_labels_of_every_class_count_in_any_type(kind: torch.dtype) -> None:
    """In uint8, -100 would be 156, and 256 classes would be none."""
    x, y = drawn(300, 6), torch.arange(300) % 256
    torch.manual_seed(5)
    host = Host(256)
    assert measured(host, CLASSIFICATION, (x, y.to(kind))) == measured(host, CLASSIFICATION, (x, y))
    assert CLASSIFICATION.count((x, y.to(kind))) == 300


def test_one_label_a_sample_may_be_there_or_not() -> None:
    """Outputs [B] and labels [B]: both metrics are the fraction that is right."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.body(inputs)
            return found.squeeze(-1)

    host, x, y = One(), drawn(20, 6), whole(2, 20)
    right = ((host(x) > 0) == y.bool()).double().mean()
    loss = functional.binary_cross_entropy_with_logits(host(x), y.float()).detach()
    close(measured(host, MULTI_LABEL, (x, y)), loss=loss, exact_match=right, label_accuracy=right)


def test_smoothing_and_weights_are_torchs() -> None:
    """The weighted loss is the sum of weights over labels, over the number of labels: so batches
    add up.
    """
    host, x, y = Host(3), drawn(20, 6), whole(3, 20)
    y[4] = -100
    logits = host(x).detach()
    smoothed = classification(label_smoothing=0.2)
    wanted = functional.cross_entropy(logits, y, label_smoothing=0.2)
    assert measured(host, smoothed, (x, y))["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    weighted = classification(class_weights=(1.0, 0.0, 3.0))
    weights = torch.tensor([1.0, 0.0, 3.0])
    total = functional.cross_entropy(logits, y, weight=weights, reduction="sum").item()
    assert measured(host, weighted, (x, y))["loss"] == pytest.approx(total / 19, rel=1e-5)
    with pytest.raises(UsageError, match="class_weights has 3 weights, and the model gives 4"):
        measured(Host(4), weighted, (x, y))


def test_several_labels_may_be_right() -> None:
    """Exact match counts a sample whose labels are all right."""
    host, x, y = Host(3), drawn(20, 6), whole(2, 20, 3)
    logits = host(x).detach()
    y[:5] = (logits > 0).long()[:5]
    hits = (logits > 0) == y.bool()
    wanted = {
        "loss": functional.binary_cross_entropy_with_logits(logits, y.float()),
        "exact_match": hits.all(1).double().mean(),
        "label_accuracy": hits.double().mean(),
    }
    for labels in (y, y.float(), y.bool()):
        close(measured(host, MULTI_LABEL, (x, labels)), **wanted)
    assert wanted["exact_match"] >= 0.25


@pytest.mark.parametrize("shift", [False, True])
def test_a_language_model_is_measured_over_tokens(shift: bool) -> None:  # noqa: FBT001  # a case
    """The loss is in nats a token, the perplexity that of the whole split, not a mean over
    batches; padding counts nowhere.
    """
    x, y = drawn(12, 5, 6), whole(7, 12, 5)
    y[2, 1:], y[3], y[7, 3:] = -100, -100, -100
    host = Host(7)
    logits = host(x).detach()
    logits, labels = (logits[:, :-1], y[:, 1:]) if shift else (logits, y)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    found = measured(host, language_model(shift=shift), (x, y), batch=5)
    counts = labels != -100
    close(
        found,
        loss=loss,
        perplexity=math.exp(loss),
        accuracy=(logits.argmax(-1) == labels)[counts].double().mean(),
    )
    assert LANGUAGE_MODEL.score == "loss"
    assert not LANGUAGE_MODEL.higher_is_better


def test_whole_targets_of_a_regression_have_a_gradient() -> None:
    """Torch has none of a loss in whole numbers."""
    x, y = drawn(20, 6), whole(9, 20, 2)
    model = growing(Host(2), REGRESSION, (x, y))
    stepper = Stepper(model, recipe(batch_size=20), 10, Method(REGRESSION))
    state = staged("DORMANT", PLACE)
    first, *_, last = [stepper.step(state, step, (x, y), sample=False).loss for step in range(9)]
    assert last < first


def test_micro_batches_of_padded_labels_add_up() -> None:
    """The gradient of a step is that of the whole batch, also where a part has no label at all."""
    x, y = drawn(12, 6), whole(4, 12)
    y[:4] = -100
    host, found = Host(4), []
    for accumulate in (1, 3, 6):
        model = growing(host, CLASSIFICATION, (x, y))
        stepper = Stepper(
            model, recipe(batch_size=12, accumulate=accumulate), 10, Method(CLASSIFICATION)
        )
        found.append(stepper.step(staged("DORMANT", PLACE), 0, (x, y), sample=False))
    for one in found[1:]:
        assert one.loss == pytest.approx(found[0].loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(found[0].gradient_norm, rel=1e-4)
        assert one.metrics == pytest.approx(found[0].metrics)


@dataclass
class Output(OrderedDict[str, Any]):
    """What Hugging Face's models give: a mapping with attributes, made of keywords."""

    logits: Tensor
    hidden: Any = None
    loss: Any = field(default=None)

    def __post_init__(self) -> None:
        """Fill the mapping."""
        self["logits"] = self.logits
        self["hidden"] = self.hidden


class Named(NamedTuple):
    """An output whose parts have names."""

    scores: Tensor
    more: Any


@dataclass(frozen=True)
class Plain:
    """An output that is no mapping."""

    logits: Tensor


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, logits * 2),
    "list": lambda logits: [logits],
    "mapping": lambda logits: {"logits": logits, "more": logits * 2},
    "one tensor": lambda logits: {"out": logits},
    "model output": lambda logits: Output(logits, (logits,)),
    "named tuple": lambda logits: Named(logits, None),
    "encoding": lambda logits: UserDict({"logits": logits}),
    "object": Plain,
}
X, Y = drawn(24, 6), whole(4, 24)
MASK = whole(2, 24, 6, seed=4).float()
BATCHES: dict[str, tuple[Batch, bool]] = {
    "pair": ((X, Y), False),
    "mapping": ({"x": X, "mask": MASK, "labels": Y}, True),
    "mapping and labels": (({"mask": MASK, "x": X}, Y), True),
    "encoding": (UserDict({"x": X, "mask": MASK, "labels": Y}), True),
    "tuple and labels": (((X, MASK), Y), True),
    "three": ((X, MASK, Y), True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", BATCHES)
def test_batches_and_outputs_of_any_structure_train(form: str, batch: str) -> None:
    """A mapping's inputs come as keywords; loss and figures are those of the plain form."""
    data, masked = BATCHES[batch]
    wanted = ((X * MASK if masked else X), Y)
    figures = []
    for host, one in ((Host(4, FORMS[form]), data), (Host(4), wanted)):
        with torch.no_grad():
            for parameter in host.parameters():
                parameter.copy_(drawn(*parameter.shape, seed=9))
        model = growing(host, CLASSIFICATION, one)
        stepper = Stepper(model, recipe(batch_size=24, accumulate=2), 10, Method(CLASSIFICATION))
        told = [stepper.step(staged("DORMANT", PLACE), step, one, sample=True) for step in range(3)]
        figures.append([(figure.loss, figure.accuracy) for figure in told])
        figures[-1].append((evaluate(model, one, CLASSIFICATION).loss, 0.0))
    assert figures[0] == figures[1]


@pytest.mark.parametrize("form", FORMS)
def test_outputs_in_half_precision_are_made_full(form: str) -> None:
    """In every structure that a task reads; an object of a class of one's own stays as it is."""
    model = GrowingModel(
        germinate(Host(4, FORMS[form]), seeds=2),
        training=KernelTraining(),
        numerics=Numerics("bfloat16"),
    )
    kind = output_of(model, (X, Y)).dtype
    assert kind == (torch.bfloat16 if form == "object" else torch.float32)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (lambda logits: {"a": logits, "b": logits}, "gives dict of a, b: let it give a tensor"),
        (lambda logits: logits.tolist(), "gives list: let it give a tensor"),
        (lambda _: None, "gives NoneType"),
    ],
)
def test_an_output_that_no_task_reads_is_named(form: Any, sentence: str) -> None:
    """With what to do."""
    with pytest.raises(UsageError, match=sentence):
        growing(Host(4, form), CLASSIFICATION, (X, Y))


def test_a_mapping_without_labels_is_named() -> None:
    """And an own task reads whatever it likes, in five lines."""
    data = {"x": X, "mask": MASK, "target": Y}
    with pytest.raises(UsageError, match="A batch has x, mask, target, and no labels: put the t"):
        growing(Host(4), CLASSIFICATION, data)

    def step(model: Callable[..., Any], batch: Batch) -> Outcome:
        return Outcome(
            functional.cross_entropy(model(batch["x"], mask=batch["mask"]), batch["target"])
        )

    own = Task("own", step)
    assert measured(Host(4), own, data).keys() == {"loss"}


TASKS = [
    (
        {"name": "regression", "label_smoothing": 0.1},
        "task.label_smoothing is not for regression, but for classification and language_model",
    ),
    (
        {"name": "language_model", "class_weights": [1, 2]},
        "task.class_weights is not for language_model, but for classification",
    ),
    ({"shift": True}, "task.shift is not for classification, but for language_model"),
    ({"name": "clasification"}, "did you mean classification"),
    (
        {"name": "tests.unit.tolaria.test_tasks:PADDED", "shift": True},
        "task.shift is not for tests",
    ),
]


@pytest.mark.parametrize(("section", "sentence"), TASKS)
def test_an_argument_that_a_task_does_not_take_is_named(section: Any, sentence: str) -> None:
    """And for which it is."""
    with pytest.raises(UsageError, match=sentence):
        task_of(TaskSection(**section), OWNER)


def test_a_recipe_says_a_task_in_short_or_as_a_section() -> None:
    """What has no arguments is written as before: journals say the same task alike."""
    assert '"task":"classification"' in load("digits").canonical()
    assert load("digits", ["task=regression"]).task == TaskSection(name="regression")
    smoothed = load("digits", ["task=classification", "task.label_smoothing=0.1"])
    assert '"task":{"label_smoothing":0.1,"name":"classification"}' in smoothed.canonical()
    assert type(smoothed).model_validate_json(smoothed.canonical()) == smoothed
    weighted = load("digits", ["task.class_weights=[1.0, 2.0]"])
    assert type(weighted).model_validate_json(weighted.canonical()) == weighted
    made = task_of(smoothed.task, OWNER)
    assert made.name == "classification"
    assert made is not CLASSIFICATION
    for change, sentence in (
        ("task.label_smoothing=1", "task.label_smoothing = 1 does not fit"),
        ("task.label_smoothing=true", "does not fit"),
        ("task.class_weights=[-1]", "task.class_weights.0 = -1 does not fit"),
        ("task.smoothing=0.1", "Did you mean task.label_smoothing"),
        ("task=3", "does not fit"),
    ):
        with pytest.raises(UsageError, match=sentence):
            load("digits", [change])
