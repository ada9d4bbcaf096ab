"""Mistakes in data and model, found before the first step: one sentence that names split, sample
and remedy.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.tolaria.recipes.splits import Splits
from esper.tolaria.step.preflight import probe, require_usable
from esper.tolaria.step.tasks import (
    CLASSIFICATION,
    LANGUAGE_MODEL,
    MULTI_LABEL,
    REGRESSION,
    Task,
)
from tests.unit.tolaria.test_built_in_tasks import Host, drawn, whole

X, Y = drawn(120, 6), whole(4, 120)
GOOD = ((X, Y), (X + 1, Y), (X + 2, Y))


def looked_at(
    splits: tuple[Any, Any, Any], task: Task = CLASSIFICATION, host: nn.Module | None = None
) -> list[str]:
    """What is said of them."""
    model = GrowingModel(germinate(host or Host(4), seeds=2), training=KernelTraining())
    made = Splits(*splits)
    probe(model, made.train, task)
    return list(require_usable(model, task, made, 10))


def changed(tensor: Tensor, sample: int, value: float) -> Tensor:
    other = tensor.clone()
    other[sample] = value
    return other


NAN, INF = math.nan, math.inf
CASES: list[tuple[Task, Any, int, Any, str]] = [
    (
        CLASSIFICATION,
        None,
        0,
        (changed(X, 17, NAN), Y),
        r"train split has NaN in inputs at sample 17 \(and 0 others\): leave such samples out",
    ),
    (
        CLASSIFICATION,
        None,
        1,
        (changed(X, 3, INF), Y),
        "validation split has an infinite number in inputs at sample 3",
    ),
    (
        CLASSIFICATION,
        None,
        2,
        (changed(X, 0, -INF), Y),
        "test split has an infinite number in inputs",
    ),
    (
        REGRESSION,
        None,
        0,
        (X, changed(drawn(120, 4), 5, NAN)),
        "train split has NaN in labels at sample 5",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (X, changed(Y, 9, 4)),
        "train split has label 4 at sample 9, and the model has outputs for 0 to 3: number the",
    ),
    (CLASSIFICATION, None, 1, (X, changed(Y, 9, -1)), "validation split has label -1 at sample 9"),
    (CLASSIFICATION, None, 0, (X, Y + 1), "train split has label 4 at sample"),
    (
        CLASSIFICATION,
        None,
        0,
        (X, Y.float()),
        r"has labels of float32, \[120\]: give classes as whole numbers \[120\], by labels.long",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (X, Y[:, None]),
        r"has labels \[120, 1\], .* need \[120\]: give labels.squeeze\(1\)",
    ),
    (CLASSIFICATION, None, 2, (X, Y[:, None]), r"The test split has labels \[120, 1\]"),
    (
        CLASSIFICATION,
        None,
        0,
        (X, nn.functional.one_hot(Y, 4)),
        r"give labels.argmax\(1\), or probabilities",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (X, torch.ones(120, 4)),
        "are no probabilities at sample 0: .* task = multi_label",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (X, changed(drawn(120, 4).softmax(1), 8, 0.5)),
        "are no probabilities at sample 8",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (X, torch.full((120,), -100)),
        "has 120 of 120 samples whose labels are all -100",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (X, torch.cat([Y[:100], torch.full((20,), -100)])),
        "has 20 of 120 samples .* a batch of 10 may have none that counts: leave those",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        (drawn(120, 3, 6), whole(4, 120, 3)),
        "for tokens take task = language_model",
    ),
    (CLASSIFICATION, None, 0, ({"x": X, "labels": {"a": Y}}), "has dict for targets"),
    (
        CLASSIFICATION,
        Host(4, lambda logits: logits.sum(1)),
        0,
        (X, Y),
        r"The model gives \[3\] for the samples .* a number for each class",
    ),
    (
        MULTI_LABEL,
        None,
        0,
        (X, Y),
        r"gives \[3, 4\] for targets \[120\] of The train split: multi_label",
    ),
    (MULTI_LABEL, None, 0, (X, changed(whole(2, 120, 4), 6, 2)), "outside of 0 to 1 at sample 6"),
    (REGRESSION, None, 0, (X, drawn(120)), r"gives \[3, 4\] for targets \[120\]"),
    (REGRESSION, None, 1, (X, drawn(120, 1)), "The validation split: regression needs the same"),
    (LANGUAGE_MODEL, None, 0, (X, Y), r"language_model needs \[samples, tokens, vocabulary\]"),
    (
        LANGUAGE_MODEL,
        None,
        0,
        (drawn(120, 3, 6), changed(whole(4, 120, 3), 2, 7)),
        "has label 7 at sample 2",
    ),
    (
        LANGUAGE_MODEL,
        None,
        0,
        (drawn(120, 3, 6), drawn(120, 3)),
        r"has labels of float32: give tokens, labels.long\(\)",
    ),
    (
        CLASSIFICATION,
        None,
        1,
        (drawn(120, 5), Y),
        "called by task classification on the validation split, in its layer body, raised",
    ),
    (
        CLASSIFICATION,
        None,
        0,
        ({"y": X, "labels": Y}),
        "raised TypeError: .*unexpected keyword argument 'y'",
    ),
    (
        CLASSIFICATION,
        Host(4, lambda logits: logits.sum()),
        0,
        (X, Y),
        r"The model gives \[\] for the samples .* a number for each class",
    ),
    (CLASSIFICATION, None, 0, (X, Y + 0j), "has targets of complex64: this task needs real"),
    (
        CLASSIFICATION,
        None,
        0,
        (X.double(), Y),
        "raised RuntimeError: mat1 and mat2 must have the same dtype",
    ),
]


@pytest.mark.parametrize(("task", "host", "place", "split", "sentence"), CASES)
def test_a_mistake_is_named_before_the_first_step(
    task: Task, host: nn.Module | None, place: int, split: Any, sentence: str
) -> None:
    """Whatever split it is in."""
    splits: list[Any] = [split, split, split] if place == 0 else list(fitting(task))
    splits[place] = split
    with pytest.raises(UsageError, match=sentence) as caught:
        looked_at((splits[0], splits[1], splits[2]), task, host)
    assert "\n" not in str(caught.value)


def fitting(task: Task) -> tuple[Any, Any, Any]:
    """Splits without a mistake."""
    if task is REGRESSION:
        return ((X, drawn(120, 4)), (X + 1, drawn(120, 4)), (X + 2, drawn(120, 4)))
    return GOOD


@pytest.mark.parametrize(
    ("task", "splits"),
    [
        (CLASSIFICATION, GOOD),
        (CLASSIFICATION, tuple((x, y.int()) for x, y in GOOD)),
        (CLASSIFICATION, tuple((x, changed(y, 4, -100)) for x, y in GOOD)),
        (CLASSIFICATION, tuple((x, drawn(120, 4).softmax(1)) for x, _ in GOOD)),
        (REGRESSION, fitting(REGRESSION)),
        (MULTI_LABEL, tuple((x, whole(2, 120, 4)) for x, _ in GOOD)),
        (CLASSIFICATION, tuple((x, y.to(torch.uint16)) for x, y in GOOD)),
        (LANGUAGE_MODEL, tuple((drawn(120, 3, 6, seed=s), whole(4, 120, 3)) for s in range(3))),
    ],
)
def test_what_is_right_is_let_through_without_a_word(task: Task, splits: Any) -> None:
    """Checks that refuse good data would be worse than none."""
    assert looked_at(splits, task) == []


class Tokens(nn.Module):
    """A small language model, with a mask of attention that has minus infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.body(self.embedding(ids))))
        return logits if mask is None else logits + mask.clamp(min=-1).unsqueeze(-1)


def test_a_model_that_would_learn_to_copy_is_named() -> None:
    """Labels that are the inputs: shifted nowhere. Those of a masked model are not."""
    ids = whole(5, 60, 7)
    padded = ids.clone()
    padded[:, 5:] = -100
    for labels in (ids, padded):
        split = {"ids": ids, "labels": labels}
        with pytest.raises(UsageError, match=r"inputs for labels, .*set task.shift = true"):
            looked_at((split, split, split), LANGUAGE_MODEL, Tokens())
    masked = ids.clone()
    masked[:, ::2] = 0
    parts = [
        {"ids": (masked + step) % 5, "mask": torch.zeros(60, 7) - INF, "labels": ids}
        for step in range(3)
    ]
    assert looked_at((parts[0], parts[1], parts[2]), LANGUAGE_MODEL, Tokens()) == []


def test_what_is_strange_is_said_and_not_refused() -> None:
    """The same samples twice, and too few for any gate."""
    same = looked_at(((X, Y), (X, Y), (X.clone(), Y)))
    assert [sentence.partition(" splits are")[0] for sentence in same] == [
        "The train and validation",
        "The train and test",
        "The validation and test",
    ]
    (few,) = looked_at(((X, Y), (X[:50] + 1, Y[:50]), (X + 2, Y)))
    assert few == (
        "The validation split has 50 samples, one batch of 50: a gate compares batches, so no "
        "kernel can be kept; 51 are the least, and 500 make a good test."
    )
    assert looked_at(((X, Y), (X[:51] + 1, Y[:51]), (X + 2, Y))) == []


def test_looking_moves_nothing() -> None:
    """Neither the model nor a random stream."""
    host = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))
    torch.manual_seed(7)
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in host.state_dict().items()}
    assert looked_at(GOOD, CLASSIFICATION, host) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, host.state_dict()[name]) for name, one in before.items())
    assert host.training
