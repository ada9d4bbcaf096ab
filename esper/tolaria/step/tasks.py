"""What a run optimises: a task says how a model is called on a batch, the loss of that, and the
metrics that people compare runs by.

Training, shadow passes, validation and a loop of one's own all ask the same task.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from esper.blame import own_code
from esper.errors import UsageError
from esper.plugins import TASKS, together
from esper.tolaria.recipes.recipe import Permit, TaskSection, function
from esper.tolaria.recipes.structures import Structure, called, leaves, size

Batch = Structure
"""A structure of tensors [B, ...]: inputs and targets, as a split has them."""
LABELS: Final = "labels"
"""The targets in a batch that is a mapping."""
IGNORED: Final = -100
"""A label that counts in no loss and no metric, as in torch and Hugging Face."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_UNITS: Final = 2**53  # counts above it are no exact floats
_MOST: Final = 64  # metrics of a task: events take some more


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its unit, and whether more of it is better.

    `final` makes the metric of its mean over all units, where it is no mean itself: a perplexity is
    the exponential of a mean.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    final: Callable[[float], float] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task makes of a batch.

    `loss` is a scalar, the mean over the batch's units, whose `backward` trains the model. `sums`
    has for each metric the *sum* over these units, a scalar without gradient: so that batches of
    any sizes add up to the metric of a whole split.
    """

    loss: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)


def samples(batch: Batch) -> int:
    """The number of samples in a batch."""
    return size(batch)


def parted(batch: Batch) -> tuple[Structure, Structure]:
    """The inputs and the targets of a batch: those under `labels` of a mapping, else its last.

    Raises:
        UsageError: a mapping has no `labels`.
    """
    if isinstance(batch, Mapping):
        if LABELS not in batch:
            raise UsageError(
                f"A batch has {', '.join(map(str, batch))}, and no {LABELS}: put the targets under "
                f"{LABELS}, or name a task of your own."
            )
        return {key: part for key, part in batch.items() if key != LABELS}, batch[LABELS]
    *inputs, targets = batch
    return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets


def output_of(model: Callable[..., Any], batch: Batch) -> Tensor:
    """What the model gives for the inputs of a batch, which a mapping has by keyword: a tensor, the
    `logits` of an object or mapping, the first of a tuple, or the only tensor in a mapping.

    Raises:
        UsageError: it gives something else.
    """
    output: Any = called(model, parted(batch)[0])
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else None
    logits = getattr(output, "logits", None) if logits is None else logits
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    tensors = list(leaves(output)) if isinstance(output, Mapping) else []
    if len(tensors) == 1:
        return tensors[0][1]
    what = f"{type(output).__name__} of {', '.join(map(str, output))}" if tensors else ""
    raise UsageError(
        f"The model gives {what or type(output).__name__}: let it give a tensor, or `logits`, or "
        "name a task of your own that reads what it gives."
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A task.

    `step(model, batch)` calls the model and gives an `Outcome`; it draws no random numbers but
    torch's, and keeps no state, or the run could not be re-executed. `units` is the number of
    things that the loss of a batch is a mean over: samples, unless it says otherwise. `score` names
    the metric by which runs are compared; without one it is the loss. `examine(output, split, what,
    batch)` looks at a whole split before the first step: `output` is the model's for its first
    samples, `what` names the split, `batch` is the number of samples of a step.

    Raises:
        UsageError: a name is none, a metric is there twice, or the score is no metric.
    """

    name: str
    step: Callable[[Callable[..., Any], Batch], Outcome]
    metrics: tuple[Metric, ...] = ()
    score: str = "loss"
    units: Callable[[Batch], int] = samples
    examine: Callable[[Tensor, Batch, str, int], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing could show or compare."""
        names = [metric.name for metric in self.metrics]
        for name in (self.name, *names):
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"{name!r} is not a name for a task or metric: take lower-case letters, digits "
                    "and underscores, a letter first, 64 at most."
                )
        if len(set(names)) != len(names) or "loss" in names:
            raise UsageError(
                f"Task {self.name} names a metric twice (and every task has `loss`): name each "
                "once."
            )
        if len(names) > _MOST:
            raise UsageError(
                f"Task {self.name} has {len(names)} metrics; {_MOST} are the most that events take."
            )
        # events have a field of that name, with these bounds
        if any(metric.name == "accuracy" and metric.unit != "fraction" for metric in self.metrics):
            raise UsageError(
                f"The metric accuracy of task {self.name} must be a fraction from 0 to 1: give "
                'it the unit "fraction", or another name.'
            )
        if self.score not in (*names, "loss"):
            raise UsageError(
                f"Task {self.name} has the score {self.score!r}, which is none of its metrics "
                f"({', '.join(names) or 'none'}) nor loss; name one of them."
            )

    def counted(self, batch: Batch) -> int:
        """The units of a batch, which may be none.

        Raises:
            UsageError: the task's own function raises, or gives no whole number.
        """
        units: object = own_code(f"units of task {self.name}", lambda: self.units(batch))
        if not isinstance(units, int):
            raise UsageError(
                f"units of task {self.name} gave {type(units).__name__}: give a whole number, by "
                "int(...)."
            )
        if units > _MOST_UNITS:
            raise UsageError(f"units of task {self.name} gave {units:.1e}: a batch has fewer.")
        return units

    def count(self, batch: Batch) -> int:
        """The units of a batch.

        Raises:
            UsageError: there are none, so that its loss would be the mean of nothing.
        """
        units = self.counted(batch)
        if units < 1:
            raise UsageError(
                f"Task {self.name} counts {units} units in a batch of {size(batch)} samples: "
                "leave out samples without any, or take larger batches."
            )
        return units

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        """The metrics whose means over all units these are."""
        return {metric.name: self._final(metric, means[metric.name]) for metric in self.metrics}

    def _final(self, metric: Metric, mean: float) -> float:
        if (final := metric.final) is None:
            return mean
        what = f"final of metric {metric.name} of task {self.name}"
        value: object = own_code(what, lambda: final(mean))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{what} gave {type(value).__name__}: give a number.")
        return float(value)

    def scored(self, loss: float, metrics: Mapping[str, float]) -> float:
        """The score that has these figures; 0 before anything was measured."""
        return loss if self.score == "loss" else metrics.get(self.score, 0.0)

    def fields(self, loss: float, metrics: Mapping[str, float]) -> dict[str, Any]:
        """What events have of these figures."""
        return {
            "metrics": dict(metrics),
            "score": self.scored(loss, metrics),
            "score_name": self.score,
            "higher_is_better": self.higher_is_better,
        }

    def told(self, loss: float, metrics: Mapping[str, float]) -> str:
        """The score as people read it, with its name: fractions in percent."""
        units = {metric.name: metric.unit for metric in self.metrics}
        value = self.scored(loss, metrics)
        text = f"{value:.1%}" if units.get(self.score) == "fraction" else f"{value:.4g}"
        return f"{self.score.replace('_', ' ')} {text}"

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the score is better."""
        # the loss is in no list of metrics, so a task scored by it gives False
        return any(metric.higher_is_better for metric in self.metrics if metric.name == self.score)

    def outcome(self, model: Callable[..., Any], batch: Batch) -> Outcome:
        """The outcome of `step`.

        Raises:
            UsageError: it is none, lacks a metric that the task has, or what it has is no scalar.
        """
        outcome = self.step(model, batch)
        if not isinstance(outcome, Outcome) or outcome.sums.keys() != {
            metric.name for metric in self.metrics
        }:
            result = (
                f"the metrics {', '.join(sorted(outcome.sums)) or 'none'}"
                if isinstance(outcome, Outcome)
                else type(outcome).__name__
            )
            raise UsageError(
                f"The step of task {self.name} gave {result}; it must give an esper.Outcome "
                f"with the metrics {', '.join(metric.name for metric in self.metrics) or 'none'}."
            )
        for what, value in (("a loss", outcome.loss), *outcome.sums.items()):
            # a vector would be a mean over something else, further down
            if not isinstance(value, Tensor) or value.dim():
                of = what if what == "a loss" else f"the metric {what}"
                shape = list(value.shape) if isinstance(value, Tensor) else ""
                raise UsageError(
                    f"The step of task {self.name} gave {of} "
                    f"{shape or f'that is {type(value).__name__}'}: it must be a tensor without a "
                    "dimension."
                )
        return outcome


# -- classification
# ------------------------------------------------------------------------------------


def classification(*, label_smoothing: float = 0.0, class_weights: tuple[float, ...] = ()) -> Task:
    """Class logits [B, C, ...] and labels [B, ...] of 0 to C-1, or probabilities [B, C, ...]: cross
    entropy in nats, and accuracy. Labels of -100 count in neither.

    Args:
        label_smoothing: the part of each label that is spread over all classes (Szegedy et al.
            2016, arXiv:1512.00567).
        class_weights: the weight of each class in the loss, which is their sum over the labels
            divided by the number of labels: micro-batches then add up. torch divides by the sum of
            weights.
    """
    weights = _Weights(class_weights)

    def step(model: Callable[..., Any], batch: Batch) -> Outcome:
        logits, labels = output_of(model, batch), parted(batch)[1]
        soft = labels.is_floating_point()
        labels = labels if soft else labels.long()
        if class_weights:
            total = functional.cross_entropy(
                logits,
                labels,
                weight=weights.beside(logits),
                reduction="sum",
                label_smoothing=label_smoothing,
            )
            loss = total / _counted(labels, soft=soft)
        else:
            loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        best = logits.detach().argmax(_CLASSES)
        # -100 is no class, so it is never right
        hits = best == (labels.argmax(_CLASSES) if soft else labels)
        return Outcome(loss, {"accuracy": hits.sum()})

    def examine(output: Tensor, split: Batch, what: str, batch: int) -> None:
        _require_labels(output, parted(split)[1], what, batch)
        if class_weights and len(class_weights) != output.shape[_CLASSES]:
            raise UsageError(
                f"task.class_weights has {len(class_weights)} weights, and the model gives "
                f"{output.shape[_CLASSES]} classes: give one for each."
            )

    accuracy = (Metric("accuracy", "fraction"),)
    return Task("classification", step, accuracy, "accuracy", _labels, examine)


_CLASSES: Final = 1  # the dimension of classes, as cross_entropy has it


@dataclass(frozen=True, slots=True)
class _Weights:
    """Weights of classes, as a tensor where it is wanted."""

    values: tuple[float, ...]
    made: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def beside(self, logits: Tensor) -> Tensor:
        """On the device of `logits`, in its type: copied once, not in each step."""
        key = (logits.device, logits.dtype)
        if key not in self.made:
            self.made[key] = torch.tensor(self.values, device=logits.device, dtype=logits.dtype)
        return self.made[key]


def _counted(labels: Tensor, *, soft: bool) -> Tensor | int:
    """The labels that count, without a wait for the device."""
    if soft:
        return labels.numel() // labels.shape[_CLASSES]
    return (labels != IGNORED).sum().clamp(min=1)


def _labels(batch: Batch) -> int:
    """The labels of a batch that count."""
    labels = parted(batch)[1]
    if labels.is_floating_point():
        return int(labels.numel() // labels.shape[_CLASSES])
    return int((_whole(labels) != IGNORED).sum())


def _whole(labels: Tensor) -> Tensor:
    """Labels that can be compared with any number: in uint8, -100 would be 156."""
    return labels.long()


def _require_labels(output: Tensor, labels: Any, what: str, batch: int) -> None:
    """Refuse labels that cannot be those of the model's outputs."""
    labels = _tensor(labels, what)
    if output.dim() < 2:
        raise UsageError(
            f"The model gives {list(output.shape)} for the samples of {what}: "
            "classification needs a number for each class, [samples, classes]."
        )
    classes, wanted = output.shape[_CLASSES], (len(labels), *output.shape[2:])
    if labels.is_floating_point():
        if labels.shape[1:] != output.shape[1:]:
            raise UsageError(
                f"{what} has labels of {_type(labels)}, {list(labels.shape)}: give classes as "
                f"whole numbers {list(wanted)}, by labels.long(), or probabilities of the model's "
                f"{classes} classes; for numbers take task = regression."
            )
        _require_probabilities(labels, what)
        return
    labels = _whole(labels)
    if labels.shape != wanted:
        raise UsageError(
            f"{what} has labels {list(labels.shape)}, and the model's outputs "
            f"{[len(labels), *output.shape[1:]]} need {list(wanted)}: {_reshaped(output, labels)}."
        )
    _require_range(labels, classes, what)
    _require_counted(labels, what, batch)


def _reshaped(output: Tensor, labels: Tensor) -> str:
    """How labels of a wrong shape are mended."""
    if labels.shape[1:] == output.shape[1:]:
        return "give labels.argmax(1), or probabilities by labels.float()"
    if labels.dim() > 1 and labels.shape[1] == 1 and labels.dim() == output.dim():
        return "give labels.squeeze(1)"
    if output.dim() > 2 and labels.shape[1:] == output.shape[1:-1]:
        return "classes are in the second dimension; for tokens take task = language_model"
    return "the classes are in the second dimension of the outputs"


def _require_probabilities(labels: Tensor, what: str) -> None:
    off = (labels.sum(_CLASSES) - 1).abs() > _ROUNDING
    wrong = off.flatten(1).any(1) if off.dim() > 1 else off
    wrong = wrong | (labels < 0).flatten(1).any(1)
    if (sample := _first(wrong)) is not None:
        raise UsageError(
            f"{what} has labels that are no probabilities at sample {sample}: each is 0 or more, "
            "and those of all classes add up to 1; where several classes may be right, take "
            "task = multi_label."
        )


_ROUNDING: Final = 1e-3  # a sum of half-precision probabilities is off by so much


def _require_range(labels: Tensor, classes: int, what: str) -> None:
    wrong = ((labels < 0) | (labels >= classes)) & (labels != IGNORED)
    if (sample := _first(wrong.flatten(1).any(1) if wrong.dim() > 1 else wrong)) is not None:
        label = labels[sample][wrong[sample]].flatten()[0].item()
        raise UsageError(
            f"{what} has label {label} at sample {sample}, and the model has outputs for 0 to "
            f"{classes - 1}: number the labels from 0, or let the model give more ({IGNORED} "
            "leaves a label out)."
        )


def _require_counted(labels: Tensor, what: str, batch: int) -> None:
    empty = (labels == IGNORED).flatten(1).all(1) if labels.dim() > 1 else labels == IGNORED
    if (count := int(empty.sum())) >= min(batch, len(labels)):
        raise UsageError(
            f"{what} has {count} of {len(labels)} samples whose labels are all {IGNORED}, so that "
            f"a batch of {min(batch, len(labels))} may have none that counts: leave those samples "
            "out."
        )


def _first(wrong: Tensor) -> int | None:
    """The first sample for which it is true."""
    places = wrong.nonzero()
    return int(places[0, 0]) if len(places) else None


def _tensor(targets: Any, what: str) -> Tensor:
    if not isinstance(targets, Tensor):
        raise UsageError(
            f"{what} has {type(targets).__name__} for targets: this task needs one tensor; name a "
            "task of your own for others."
        )
    if targets.is_complex():
        raise UsageError(
            f"{what} has targets of {_type(targets)}: this task needs real numbers, such as "
            "torch.view_as_real(...) of them."
        )
    return targets


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# -- others
# ------------------------------------------------------------------------------------------------


def _multi_label(model: Callable[..., Any], batch: Batch) -> Outcome:
    logits, labels = output_of(model, batch), parted(batch)[1]
    _require_same(logits, labels, "multi_label")
    wanted = labels.to(logits.dtype)
    # one label a sample has no dimension of labels
    right = ((logits.detach() > 0) == (wanted > _HALF)).reshape(len(wanted), -1)
    return Outcome(
        functional.binary_cross_entropy_with_logits(logits, wanted),
        {"exact_match": right.all(1).sum(), "label_accuracy": right.double().mean(1).sum()},
    )


_HALF: Final = 0.5  # a label of at least this probability is there, as a logit above 0


def _examine_multi_label(output: Tensor, split: Batch, what: str, _batch: int) -> None:
    labels = _tensor(parted(split)[1], what)
    _require_same(output, labels, "multi_label", what)
    # uint16 and its like have no comparison
    labels = labels if labels.is_floating_point() else _whole(labels)
    wrong = ((labels < 0) | (labels > 1)).reshape(len(labels), -1).any(1)
    if (sample := _first(wrong)) is not None:
        raise UsageError(
            f"{what} has labels outside of 0 to 1 at sample {sample}: multi_label needs a 1 for "
            "each label that is there, and 0 for the others."
        )


def _regress(model: Callable[..., Any], batch: Batch) -> Outcome:
    predicted, target = output_of(model, batch), parted(batch)[1]
    _require_same(predicted, target, "regression")
    # torch has no gradient of a loss in whole numbers
    target = target if target.is_floating_point() else target.to(predicted.dtype)
    errors = (
        (predicted.detach() - target).abs().flatten(1).mean(1)
        if target.dim() > 1
        else (predicted.detach() - target).abs()
    )
    return Outcome(functional.mse_loss(predicted, target), {"mean_absolute_error": errors.sum()})


def _examine_regression(output: Tensor, split: Batch, what: str, _batch: int) -> None:
    _require_same(output, _tensor(parted(split)[1], what), "regression", what)


def _require_same(predicted: Tensor, target: Tensor, task: str, what: str = "") -> None:
    """Refuse targets of another shape: broadcasting would train on another loss, silently."""
    if predicted.shape[1:] != target.shape[1:]:
        raise UsageError(
            f"The model gives {list(predicted.shape)} for targets {list(target.shape)}"
            f"{f' of {what}' if what else ''}: {task} needs the same shape of both."
        )


def language_model(*, label_smoothing: float = 0.0, shift: bool = False) -> Task:
    """Logits [B, T, V] and labels [B, T]: the cross entropy of the token that each position has to
    give, in nats a token, and perplexity. Labels of -100 count in neither.

    Args:
        label_smoothing: as of a classification; it is part of the loss, not of the perplexity.
        shift: the labels are the inputs themselves, as Hugging Face's collators give them: each
            position has to give the token after it, and the first label is left out.
    """

    def aligned(batch: Batch) -> Tensor:
        labels: Tensor = parted(batch)[1]
        return labels[:, 1:] if shift else labels

    def step(model: Callable[..., Any], batch: Batch) -> Outcome:
        logits, labels = output_of(model, batch), aligned(batch).long()
        logits = (logits[:, :-1] if shift else logits).flatten(0, -2)
        loss = functional.cross_entropy(logits, labels.flatten(), label_smoothing=label_smoothing)
        surprise = functional.cross_entropy(logits.detach(), labels.flatten(), reduction="sum")
        hits = (logits.detach().argmax(-1) == labels.flatten()).sum()
        return Outcome(loss, {"perplexity": surprise, "accuracy": hits})

    def examine(output: Tensor, split: Batch, what: str, batch: int) -> None:
        inputs, labels = parted(split)
        labels = _tensor(labels, what)
        if output.dim() < 3 or labels.shape[1:] != output.shape[1:-1]:
            raise UsageError(
                f"The model gives {list(output.shape)} for labels {list(labels.shape)} of {what}: "
                "language_model needs [samples, tokens, vocabulary] for [samples, tokens]."
            )
        if labels.is_floating_point():
            raise UsageError(f"{what} has labels of {_type(labels)}: give tokens, labels.long().")
        labels = _whole(labels)
        _require_range(labels, output.shape[-1], what)
        _require_counted(labels[:, 1:] if shift else labels, what, batch)
        counts = labels != IGNORED
        own = any(
            one.shape == labels.shape and torch.equal(one[counts], labels[counts])
            for _, one in leaves(inputs)
        )
        if own and not shift:
            raise UsageError(
                f"{what} has its inputs for labels, so that a model learns to copy: give the "
                "tokens that come next, or set task.shift = true."
            )

    perplexity = Metric("perplexity", higher_is_better=False, final=_perplexity)
    return Task(
        "language_model",
        step,
        (perplexity, Metric("accuracy", "fraction")),
        "loss",
        lambda batch: int((_whole(aligned(batch)) != IGNORED).sum()),
        examine,
    )


def _perplexity(nats: float) -> float:
    # beyond it there is no float64
    return math.exp(min(nats, 700.0))


CLASSIFICATION: Final = classification()
MULTI_LABEL: Final = Task(
    "multi_label",
    _multi_label,
    (Metric("exact_match", "fraction"), Metric("label_accuracy", "fraction")),
    "exact_match",
    examine=_examine_multi_label,
)
"""Logits [B, C] and labels [B, C] of 0 and 1, of which several may be there: binary cross entropy,
the fraction of samples whose labels are all right, and of labels that are.
"""
REGRESSION: Final = Task(
    "regression",
    _regress,
    (Metric("mean_absolute_error", "of the target", higher_is_better=False),),
    "mean_absolute_error",
    examine=_examine_regression,
)
"""Outputs of the targets' shape: mean squared error, and the mean absolute one."""
LANGUAGE_MODEL: Final = language_model()
BUILT_IN: Final[Mapping[str, Task]] = {
    task.name: task for task in (CLASSIFICATION, LANGUAGE_MODEL, MULTI_LABEL, REGRESSION)
}
_MADE: Final[Mapping[str, Callable[..., Task]]] = {
    "classification": classification,
    "language_model": language_model,
}
"""Makers of the tasks that take arguments of a recipe, by name."""


@cache
def known() -> Mapping[str, Task]:
    """Esper's own tasks and those of installed packages, by name.

    Raises:
        UsageError: a package's cannot be used; the package is named.
    """
    return together(TASKS, Task, BUILT_IN)


def task_of(section: TaskSection, permit: Permit) -> Task:
    """The task that a recipe names: one of `known`, or `module:attribute`.

    Raises:
        UsageError: there is none of the name, it is no task, it does not take the arguments, or
            `permit` does not cover it.
    """
    name, arguments = section.name, section.arguments
    make = _MADE.get(name)
    takes = set(signature(make).parameters) if make else set()
    if left := sorted(arguments.keys() - takes):
        others = [one for one, made in _MADE.items() if left[0] in signature(made).parameters]
        raise UsageError(
            f"task.{left[0]} is not for {name}, but for {' and '.join(others)}: leave it out, or "
            "name one of these."
        )
    if make and arguments:
        return make(**arguments)
    if ":" in name:
        target: Any = function(name, "task.name", permit)
        if not isinstance(target, Task):
            raise UsageError(
                f"task.name = {name!r} is {type(target).__name__}, and must be a Task."
            )
        return target
    if name not in known():
        near = difflib.get_close_matches(name, known(), n=1)
        raise UsageError(
            f"There is no task {name!r}{f'; did you mean {near[0]}?' if near else '.'} There "
            f"are: {', '.join(sorted(known()))}; a package that is installed may bring others "
            f"(entry points {TASKS})."
        )
    return known()[name]
