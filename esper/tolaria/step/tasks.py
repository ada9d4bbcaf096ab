"""What a run optimises: a task says how a model is called on a batch, the loss of that, and the
metrics that people compare runs by.

Training, shadow passes, validation and a loop of one's own all ask the same task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from torch import Tensor
from torch.nn import functional

from esper.errors import UsageError
from esper.plugins import TASKS, together
from esper.tolaria.recipes.recipe import Permit, function

Batch = tuple[Tensor, Tensor]
"""Inputs [B, ...] and targets [B, ...]."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST: Final = 64  # metrics of a task: events take some more


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its unit, and whether more of it is better."""

    name: str
    unit: str = ""
    higher_is_better: bool = True


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
    return len(batch[1])


@dataclass(frozen=True, slots=True)
class Task:
    """A task.

    `step(model, batch)` calls the model and gives an `Outcome`; it draws no random numbers but
    torch's, and keeps no state, or the run could not be re-executed. `units` is the number of
    things that the loss of a batch is a mean over: samples, unless it says otherwise. `score` names
    the metric by which runs are compared; without one it is the loss.

    Raises:
        UsageError: a name is none, a metric is there twice, or the score is no metric.
    """

    name: str
    step: Callable[[Callable[[Tensor], Any], Batch], Outcome]
    metrics: tuple[Metric, ...] = ()
    score: str = "loss"
    units: Callable[[Batch], int] = samples

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

    def count(self, batch: Batch) -> int:
        """The units of a batch.

        Raises:
            UsageError: there are none, so that its loss would be the mean of nothing.
        """
        units = self.units(batch)
        if units < 1:
            raise UsageError(
                f"Task {self.name} counts {units} units in a batch of {len(batch[1])} samples: "
                "leave out samples without any, or take larger batches."
            )
        return units

    def scored(self, loss: float, metrics: Mapping[str, float]) -> float:
        """The score that has these figures."""
        return loss if self.score == "loss" else metrics[self.score]

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

    def outcome(self, model: Callable[[Tensor], Any], batch: Batch) -> Outcome:
        """The outcome of `step`.

        Raises:
            UsageError: it is none, or lacks a metric that the task has.
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
        return outcome


def _classify(model: Callable[[Tensor], Any], batch: Batch) -> Outcome:
    logits, labels = model(batch[0]), batch[1]
    return Outcome(
        functional.cross_entropy(logits, labels),
        {"accuracy": (logits.detach().argmax(-1) == labels).sum()},
    )


def _regress(model: Callable[[Tensor], Any], batch: Batch) -> Outcome:
    predicted, target = model(batch[0]), batch[1]
    if predicted.shape != target.shape:  # broadcasting would train on another loss, silently
        raise UsageError(
            f"The model gives {list(predicted.shape)} for targets {list(target.shape)}: regression "
            "needs the same shape of both."
        )
    errors = (
        (predicted.detach() - target).abs().flatten(1).mean(1)
        if target.dim() > 1
        else (predicted.detach() - target).abs()
    )
    return Outcome(functional.mse_loss(predicted, target), {"mean_absolute_error": errors.sum()})


CLASSIFICATION: Final = Task(
    "classification", _classify, (Metric("accuracy", "fraction"),), "accuracy"
)
"""Class logits [B, classes] and labels [B]: cross entropy in nats, and accuracy."""
REGRESSION: Final = Task(
    "regression",
    _regress,
    (Metric("mean_absolute_error", "of the target", higher_is_better=False),),
    "mean_absolute_error",
)
"""Outputs of the targets' shape: mean squared error, and the mean absolute one."""
BUILT_IN: Final[Mapping[str, Task]] = {task.name: task for task in (CLASSIFICATION, REGRESSION)}


@cache
def known() -> Mapping[str, Task]:
    """Esper's own tasks and those of installed packages, by name.

    Raises:
        UsageError: a package's cannot be used; the package is named.
    """
    return together(TASKS, Task, BUILT_IN)


def task_of(name: str, permit: Permit) -> Task:
    """The task that a recipe names: one of `known`, or `module:attribute`.

    Raises:
        UsageError: there is none of the name, it is no task, or `permit` does not cover it.
    """
    if ":" in name:
        target: Any = function(name, "task", permit)
        if not isinstance(target, Task):
            raise UsageError(f"task = {name!r} is {type(target).__name__}, and must be a Task.")
        return target
    if name not in known():
        raise UsageError(
            f"There is no task {name!r}. There are: {', '.join(sorted(known()))}; a package that "
            f"is installed may bring others (entry points {TASKS})."
        )
    return known()[name]
