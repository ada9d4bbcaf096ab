"""What users write wrong: models, data functions, tasks, optimizers and schedules that a recipe of
`test_mistakes` names. The line that raises is marked with `# here`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper import Metric, Outcome, Splits, Task

NUMBER = 3
X, Y = torch.randn(120, 6), torch.arange(120) % 4


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def data() -> Splits:
    return Splits((X, Y), (X + 1, Y), (X + 2, Y))


# models


def net_raises() -> nn.Module:
    raise ValueError("no weights")  # here


def net_divides() -> nn.Module:
    return nn.Linear(6, 1 // 0)  # here


def net_exits() -> nn.Module:
    sys.exit("bad host")  # here


def net_needs(width: int) -> nn.Module:
    return nn.Linear(6, width)


def net_number() -> int:
    return 3


def net_class() -> type[nn.Module]:
    return nn.Identity


def net_nothing() -> None:
    net()


def net_without_layers() -> nn.Module:
    return nn.Sequential(nn.ReLU())


def net_narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 4))


def net_frozen() -> nn.Module:
    return net().requires_grad_(requires_grad=False)


class Raises(nn.Module):
    """A forward with a mistake of its own."""

    def __init__(self, *, only_training: bool = False, batch: int = 0) -> None:
        super().__init__()
        self.body, self.only_training, self.batch = net(), only_training, batch

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x)
        if (self.training or not self.only_training) and len(x) >= self.batch:
            return z.view(len(x), 3, 7)  # here
        return z


def forward_raises() -> nn.Module:
    return Raises()


def training_raises() -> nn.Module:
    return Raises(only_training=True)


def batch_raises() -> nn.Module:
    return Raises(batch=50)


class Shaped(nn.Module):
    """A model whose outputs have a form of their own."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.form = net(), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.body(x))


def gives_dict() -> nn.Module:
    return Shaped(lambda z: {"a": z, "b": z})


def gives_none() -> nn.Module:
    return Shaped(lambda _: None)


def gives_text() -> nn.Module:
    return Shaped(lambda _: "text")


def gives_vector() -> nn.Module:
    return Shaped(lambda z: z.sum(1))


def gives_detached() -> nn.Module:
    return Shaped(lambda z: z.detach())


# data


def data_raises() -> Splits:
    return {"train": data()}["test"]  # here


def data_reads() -> Splits:
    return Splits(*Path("/nowhere/train.csv").read_text())  # here


def data_exits() -> Splits:
    sys.exit(3)  # here


def data_tuple() -> Any:
    return (X, Y), (X, Y), (X, Y)


def data_none() -> None:
    return None


def data_numpy() -> Splits:
    part = (X.numpy(), Y.numpy())
    return Splits(part, part, part)


def data_pair() -> Splits:
    return Splits((X, Y), (X, Y))  # type: ignore[call-arg]  # here


def data_uneven() -> Splits:
    return Splits((X, Y[:-1]), (X, Y), (X, Y))


def data_empty() -> Splits:
    return Splits((X, Y), (X[:0], Y[:0]), (X, Y))


def data_tiny() -> Splits:
    return Splits((X[:9], Y[:9]), (X, Y), (X, Y))


def data_nan() -> Splits:
    bad = X.clone()
    bad[7, 2] = float("nan")
    return Splits((X, Y), (bad, Y), (X, Y))


def data_infinite() -> Splits:
    return Splits((X / 0, Y), (X, Y), (X, Y))


def data_from_one() -> Splits:
    return Splits((X, Y + 1), (X, Y + 1), (X, Y + 1))


def data_negative() -> Splits:
    return Splits((X, Y - 1), (X, Y), (X, Y))


def data_floats() -> Splits:
    return Splits((X, Y.float()), (X, Y), (X, Y))


def data_column() -> Splits:
    return Splits((X, Y[:, None]), (X, Y), (X, Y))


def data_one_hot() -> Splits:
    return Splits((X, functional.one_hot(Y, 4)), (X, Y), (X, Y))


def data_double() -> Splits:
    return Splits((X.double(), Y), (X, Y), (X, Y))


def data_test_wide() -> Splits:
    return Splits((X, Y), (X, Y), (torch.randn(120, 7), Y))


def data_test_label() -> Splits:
    return Splits((X, Y), (X, Y), (X, Y + 7))


def data_unlabelled() -> Splits:
    return Splits((X, Y), (X, torch.full_like(Y, -100)), (X, Y))


def data_mapping() -> Splits:
    part = {"input_ids": X, "labels": Y}
    return Splits(part, part, part)


def data_no_labels() -> Splits:
    part = {"input": X, "target": Y}
    return Splits(part, part, part)


@cache
def data_cached() -> Splits:
    return data()


data_partial = partial(data)


# tasks


def _loss(model: Callable[..., Any], batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def _raises(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(_loss(model, batch), {"hits": batch[2]})  # here


def _number(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(_loss(model, batch).item())  # type: ignore[arg-type]  # the mistake


def _vector(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(functional.cross_entropy(model(batch[0]), batch[1], reduction="none"))


def _detached(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(_loss(model, batch).detach())


def _plain_metric(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(_loss(model, batch), {"hits": 3})  # type: ignore[dict-item]  # the mistake


def _vector_metric(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(_loss(model, batch), {"hits": torch.ones(3)})


def _units(_batch: Any) -> int:
    return 1 // 0  # here


def _step(model: Callable[..., Any], batch: Any) -> Outcome:
    return Outcome(_loss(model, batch))


RAISES = Task("raises", _raises, (Metric("hits"),))
TENSOR = Task("tensor", _loss)  # type: ignore[arg-type]  # the mistake
NUMBER_LOSS = Task("number", _number)
VECTOR = Task("vector", _vector)
DETACHED = Task("detached", _detached)
PLAIN_METRIC = Task("plain", _plain_metric, (Metric("hits"),))
VECTOR_METRIC = Task("vector_metric", _vector_metric, (Metric("hits"),))
UNITS = Task("units", _step, units=_units)


# optimizers and schedules


class Explodes(torch.optim.SGD):
    """An optimizer that raises in its third step: the first is the rehearsal's."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        """Count in the class, which no look at the instance sees."""
        Explodes.steps += 1
        if Explodes.steps > 2:
            raise ArithmeticError("too far")  # here
        return super().step(closure)


def make_explodes(groups: Iterable[Any]) -> torch.optim.Optimizer:
    Explodes.steps = 0
    return Explodes(groups)


def make_raises(_groups: Any) -> torch.optim.Optimizer:
    raise KeyError("momentum")  # here


def make_nothing(_groups: Any) -> None:
    return None


def fraction_raises(step: int, _total: int) -> float:
    return 1 / (5 - step)  # here


def fraction_negative(step: int, _total: int) -> float:
    return -1.0 * step
