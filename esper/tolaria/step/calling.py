"""A task's call of the model, where whatever raises is the user's: the sentence says in which layer
and on which line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from esper.blame import mistake
from esper.errors import EsperError, UsageError
from esper.kasmina import GrowingModel
from esper.tolaria.step.tasks import Batch, Outcome, Task, output_of

T = TypeVar("T")


def outcome_of(growing: GrowingModel, task: Task, batch: Batch, where: str = "") -> Outcome:
    """The task's outcome for a batch; `where` says on what, such as ` on the test split`.

    Raises:
        UsageError: the model or the task raised.
    """
    return _called(growing, task, where, lambda: task.outcome(growing, batch))


def output_by(growing: GrowingModel, task: Task, batch: Batch, where: str = "") -> Tensor:
    """What the model gives for a batch, as `outcome_of` but without the loss."""
    return _called(growing, task, where, lambda: output_of(growing, batch))


def blamed(growing: GrowingModel, task: Task, error: BaseException, where: str = "") -> UsageError:
    """What to tell the user when model or task raised `error`."""
    layer = _layer(error, growing.module)
    inside = f" in its layer {layer}," if layer else ""
    return mistake(f"The model, called by task {task.name}{where},{inside}", error)


def _called(growing: GrowingModel, task: Task, where: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except EsperError:
        raise
    except (Exception, SystemExit) as error:
        raise blamed(growing, task, error, where) from error


def _layer(error: BaseException, module: nn.Module) -> str:
    """The innermost layer whose forward raised; empty where it was the model's own, or none."""
    # by identity: modules may define equality
    names = {id(layer): name for name, layer in module.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found
