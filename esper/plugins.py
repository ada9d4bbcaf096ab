"""What packages outside of Esper bring in: entry points of a group, by name.

A package names them in its own metadata (`[project.entry-points."esper.families"]`), and whoever
installs it beside Esper runs its code: there is no other way in.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

from esper.errors import UsageError, printable

T = TypeVar("T")
TASKS: Final = "esper.tasks"
"""The group of tasks, each under its own name."""
OPTIMIZERS: Final = "esper.optimizers"
"""The group of optimizers: classes, or functions that make one of parameter groups."""
SCHEDULES: Final = "esper.schedules"
"""The group of schedules: functions of step and total steps, or classes of torch's schedulers."""


def plugged(group: str, kind: type[T]) -> dict[str, T]:
    """What installed packages offer in `group`, by name, sorted; each is loaded now.

    Raises:
        UsageError: one cannot be loaded, is no `kind`, or has the name of another; the package is
            named.
    """
    found: dict[str, T] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        whose = f"{point.name!r} of package {_package(point)} (entry point group {group})"
        if point.name in found:
            raise UsageError(f"Two packages offer {whose}: uninstall one of them.")
        try:
            offered = point.load()
        except Exception as error:
            raise UsageError(
                f"{whose} cannot be loaded ({type(error).__name__}: {printable(str(error))}): "
                "mend or uninstall that package."
            ) from error
        if not isinstance(offered, kind):
            raise UsageError(
                f"{whose} is {type(offered).__name__}, and has to be a {kind.__name__}: mend or "
                "uninstall that package."
            )
        found[point.name] = offered
    return found


def plugged_functions(group: str) -> dict[str, Callable[..., Any]]:
    """What installed packages offer in `group`, by name, each to be called.

    Raises:
        UsageError: as `plugged` does, or one cannot be called.
    """
    found: dict[str, Callable[..., Any]] = {}
    for name, offered in plugged(group, object).items():
        if not callable(offered):
            raise UsageError(
                f"{name!r} of entry point group {group} is {type(offered).__name__}, and has to be "
                "a function or class: mend or uninstall the package that brings it."
            )
        found[name] = offered
    return found


def values_of(group: str, name: str) -> list[str]:
    """What the entry points of a name stand for, as `module:attribute`; nothing is loaded."""
    return sorted(point.value for point in entry_points(group=group, name=name))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "(unknown)"
