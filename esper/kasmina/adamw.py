"""AdamW for a process that compiles nothing: torch's own, bit for bit, without the compiler that it
would import.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.optim import AdamW, Optimizer

# unwrapped: torch hides the plain functions under torch._disable_dynamo, which imports the compiler
_add_param_group: Final = inspect.unwrap(Optimizer.add_param_group)
_step: Final = inspect.unwrap(AdamW.step)
_zero_grad: Final = inspect.unwrap(Optimizer.zero_grad)


class EagerAdamW(AdamW):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) as torch has it, called past the guards
    that keep torch.compile away from an optimizer.

    Each of those guards imports torch._dynamo when it is first passed: 900 modules, a third of the
    time from `kill -9` to the next step.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        _add_param_group(self, param_group)

    # step's own switch of gradient recording came off with its other wrappers
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """As torch's."""
        loss: float | None = _step(self, closure)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  # torch's signature
        """As torch's."""
        _zero_grad(self, set_to_none)
