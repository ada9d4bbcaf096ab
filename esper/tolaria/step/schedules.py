"""Schedules of learning rates: the factor that each parameter group's rate has at a step.

A schedule has no state: its factors are a function of the step, so that a run can be resumed,
re-executed and forked at any. Those of torch, which have state, are played once on an optimizer
that moves nothing, and their factors are kept.
"""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from esper.blame import located
from esper.errors import UsageError, printable
from esper.plugins import SCHEDULES, plugged_functions
from esper.tolaria.recipes.recipe import Permit, ScheduleSection
from esper.tolaria.step.named_parts import part_of, require_types, signature_of

MakeSchedule = Callable[..., Any]
"""`fraction(step, total_steps, **arguments)`, or a class of torch's schedulers."""
Fractions = Callable[[int], Sequence[float]]
_LENGTHS: Final = ("total_steps", "T_max")
"""Arguments of torch's schedulers that are the steps of the run, where the recipe gives none."""
_LOOKED_AT: Final = 100_000  # steps that are looked at before the first, of longer runs some
_LARGEST: Final = 1e6  # a factor beyond it is a mistake, and times a rate soon no number


def cosine(step: int, total_steps: int, final: float = 0.0) -> float:
    """From 1 to `final` by a half cosine over `total_steps`, `final` after them (SGDR, Loshchilov
    and Hutter 2017, arXiv:1608.03983, without restarts).
    """
    return final + (1 - final) * (
        0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))
    )


def linear(step: int, total_steps: int, final: float = 0.0) -> float:
    """From 1 to `final` in equal steps over `total_steps`, `final` after them."""
    return 1 + (final - 1) * min(step, total_steps) / total_steps


def constant(_step: int, _total_steps: int) -> float:
    """1 throughout."""
    return 1.0


_INSTEAD: Final = "Name a function of yours, module:name, of step and total_steps."
_OBJECTS: Final = (
    f"cannot be used: it is made of Python objects, which a recipe cannot write. {_INSTEAD}"
)
UNSUITED: Final = {
    "ChainedScheduler": _OBJECTS,
    "LambdaLR": _OBJECTS,
    "MultiplicativeLR": _OBJECTS,
    "SequentialLR": _OBJECTS,
    "ReduceLROnPlateau": (
        "cannot be used: it asks for a metric, and a schedule is a function of the step. "
        f"{_INSTEAD}"
    ),
}
"""Classes of torch.optim.lr_scheduler that no recipe can name, and why."""
BUILT_IN: Final[Mapping[str, MakeSchedule]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
}


@cache
def own() -> Mapping[str, MakeSchedule]:
    """Esper's own schedules and torch's schedulers, by name."""
    makers: dict[str, MakeSchedule] = dict(BUILT_IN)
    makers |= {
        name: kind
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type)
        and issubclass(kind, LRScheduler)
        and name not in {"LRScheduler", "_LRScheduler", *UNSUITED}
    }
    return makers


@cache
def known() -> Mapping[str, MakeSchedule]:
    """Esper's own schedules, torch's schedulers, and those of installed packages, by name.

    Raises:
        UsageError: a package's cannot be used; the package is named.
    """
    return {**own(), **plugged_functions(SCHEDULES, own().keys() | UNSUITED.keys())}


def schedule_of(name: str, permit: Permit) -> MakeSchedule:
    """The schedule that a recipe names: one of `known`, or `module:attribute`.

    Raises:
        UsageError: there is none of the name, it cannot be called, or `permit` does not cover it.
    """
    return part_of(
        "schedule",
        name,
        permit,
        own=own(),
        known=known,
        unsuited=UNSUITED,
        wanted="a function of step and total_steps",
    )


def fractions_of(
    settings: ScheduleSection, make: MakeSchedule, total_steps: int, rates: Sequence[float]
) -> Fractions:
    """The factors of the rates of the parameter groups, by step from 0; `rates` are the groups' own
    learning rates.

    Raises:
        UsageError: the warm-up is as long as the run, or the schedule does not take the arguments,
            raises, or gives what is no factor.
    """
    require_types("schedule", settings.name, make, settings.arguments)
    warmup = settings.warmup_steps
    if warmup and warmup >= total_steps:
        raise UsageError(
            f"schedule.warmup_steps = {warmup} is not less than the {total_steps} steps of the "
            "run; lower it, or train longer."
        )
    steps = max(total_steps - warmup, 1)
    if isinstance(make, type) and issubclass(make, LRScheduler):
        after: Fractions = _Played(settings, make, steps, rates)
    else:
        after = _function(settings, make, steps, len(rates))
    # before the first step: a schedule that fails near the end would cost the whole run
    played = isinstance(after, _Played)
    for step in range(min(steps, _LOOKED_AT)) if played else _spread(steps):
        after(step)
    if not warmup:
        return after
    # the first step of a warm-up moves the model, too
    return lambda step: (
        [(step + 1) / (warmup + 1) * fraction for fraction in after(0)]
        if step < warmup
        else after(step - warmup)
    )


def _spread(steps: int) -> range:
    return range(0, steps, max(1, steps // _LOOKED_AT))


def _function(
    settings: ScheduleSection, fraction: MakeSchedule, total_steps: int, groups: int
) -> Fractions:
    try:
        signature_of("schedule", settings.name, fraction).bind(0, total_steps, **settings.arguments)
    except TypeError as error:
        raise UsageError(f"schedule.arguments does not fit {settings.name}: {error}.") from None

    def at(step: int) -> Sequence[float]:
        try:
            value = fraction(step, total_steps, **settings.arguments)
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"schedule.name = {settings.name!r} raised {type(error).__name__} for step {step} "
                f"of {total_steps}: {printable(str(error))}{located(error)}"
            ) from error
        return [_factor(settings.name, value, step, total_steps)] * groups

    return at


def _factor(name: str, value: object, step: int, total_steps: int) -> float:
    # `not`, so that NaN is refused: it compares false with everything
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        raise UsageError(
            f"schedule.name = {name!r} gave {printable(repr(value))[:100]} for step {step} of "
            f"{total_steps}: a factor of the learning rate is a number from 0 to {_LARGEST:,.0f}."
        )
    return float(value)


class _Played:
    """The factors of a torch scheduler, which is stepped as far as was asked for: so a long run
    begins no later than a short one.
    """

    def __init__(
        self,
        settings: ScheduleSection,
        kind: type[LRScheduler],
        total_steps: int,
        rates: Sequence[float],
    ) -> None:
        self._name = settings.name
        self._rates = rates
        takes = inspect.signature(kind).parameters
        lengths = {
            name: total_steps
            for name in _LENGTHS
            # only where torch leaves it open: two sources for the run's length could disagree
            if name in takes and takes[name].default in (None, inspect.Parameter.empty)
        }
        self._optimizer = _Still(
            [{"params": [torch.zeros(())], "lr": rate} for rate in rates], {"lr": rates[0]}
        )
        # momentum is no learning rate: a scheduler that cycles it, too, would do half its work
        still = {"cycle_momentum": False} if "cycle_momentum" in takes else {}
        arguments = {**lengths, **still, **settings.arguments}
        if arguments.get("cycle_momentum"):
            raise UsageError(
                f"schedule.name = {self._name!r} cannot cycle momentum, since a schedule moves "
                "learning rates alone: set cycle_momentum = false."
            )
        self._scheduler = self._made(kind, arguments)
        self._steps = total_steps
        self._seen = [array("d") for _ in rates]
        self._look()

    def __call__(self, step: int) -> Sequence[float]:
        """The factors at `step`; after the last of the run they stay."""
        # not one step more than the run has: OneCycleLR refuses it
        last = min(step, self._steps - 1)
        while len(self._seen[0]) <= last:
            # torch warns of a scheduler that is stepped before its optimizer
            self._optimizer.step()
            try:
                self._scheduler.step()
            except Exception as error:
                raise UsageError(
                    f"schedule.name = {self._name!r} ends after {len(self._seen[0])} of "
                    f"{self._steps} steps ({printable(str(error))}): change schedule.arguments."
                ) from error
            self._look()
        return [factors[last] for factors in self._seen]

    def _made(self, kind: type[LRScheduler], arguments: Mapping[str, Any]) -> LRScheduler:
        step = inspect.signature(kind.step).parameters
        if any(
            parameter.default is inspect.Parameter.empty
            for name, parameter in step.items()
            if name != "self"
        ):
            raise UsageError(
                f"schedule.name = {self._name!r} asks for a metric at each step, and a schedule "
                "is a function of the step: name another."
            )
        try:
            return kind(self._optimizer, **arguments)
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"schedule.arguments does not fit {self._name} ({type(error).__name__}: "
                f"{printable(str(error))}): change schedule.arguments."
            ) from error

    def _look(self) -> None:
        for factors, group, rate in zip(
            self._seen, self._optimizer.param_groups, self._rates, strict=True
        ):
            # factors, not rates: the kernels multiply their own rate by the same factor
            present = group["lr"]
            factor = present / rate if isinstance(present, int | float) else present
            factors.append(_factor(self._name, factor, len(factors), self._steps))


class _Still(Optimizer):
    """An optimizer that moves nothing: a scheduler sets its rates."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""
