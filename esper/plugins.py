"""What packages outside of Esper bring in: entry points of a group, by name.

A package names them in its own metadata (`[project.entry-points."esper.families"]`), and whoever
installs it beside Esper runs its code: there is no other way in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol, TypeVar

from esper.errors import UsageError, printable

TASKS: Final = "esper.tasks"
"""The group of tasks, each under its own name."""
OPTIMIZERS: Final = "esper.optimizers"
"""The group of optimizers: classes, or functions that make one of parameter groups."""
SCHEDULES: Final = "esper.schedules"
"""The group of schedules: functions of step and total steps, or classes of torch's schedulers."""
POLICIES: Final = "esper.policies"
"""The group of Tamiyo's policies."""
BANDITS: Final = "esper.bandits"
"""The group of bandits."""
HOST_KINDS: Final = "esper.host_kinds"
"""The group of kinds of host layer, each under its own name."""
COLLECTORS: Final = "esper.collectors"
"""The group of Nissa's collectors of metrics."""


class Named(Protocol):
    """What has a name of its own."""

    @property
    def name(self) -> str:
        """The name by which recipes and people call it."""


T = TypeVar("T")
N = TypeVar("N", bound=Named)


def plugged(group: str, kind: type[T]) -> dict[str, T]:
    """What installed packages offer in `group`, by name, sorted; each is loaded now.

    Raises:
        UsageError: one cannot be loaded, is no `kind`, or has the name of another; the package is
            named.
    """
    offers: dict[str, T] = {}
    # sorted: which of two packages is refused must not depend on the order of the path
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        whose = f"{point.name!r} of package {_package(point)} (entry point group {group})"
        if point.name in offers:
            raise UsageError(f"Two packages offer {whose}: uninstall one of them.")
        try:
            # loading runs the package's code, which may raise anything
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
        offers[point.name] = offered
    return offers


def plugged_functions(group: str, taken: Collection[str]) -> dict[str, Callable[..., Any]]:
    """What installed packages offer in `group`, by name, each to be called.

    Raises:
        UsageError: as `plugged` does, one cannot be called, or has a name that is `taken`.
    """
    functions: dict[str, Callable[..., Any]] = {}
    # `object`, since a function and a class have no type in common to ask for
    for name, offered in plugged(group, object).items():
        whose = f"{name!r} of package {package_of(group, name)} (entry point group {group})"
        if not callable(offered):
            raise UsageError(
                f"{whose} is {type(offered).__name__}, and has to be a function or class: mend or "
                "uninstall that package."
            )
        if name in taken:
            raise UsageError(
                f"{whose} has the name of one of Esper's or torch's own: uninstall that package, "
                "or let it take another name."
            )
        functions[name] = offered
    return functions


def together(group: str, kind: type[N], own: Mapping[str, N]) -> dict[str, N]:
    """Esper's own, then those of installed packages, by name.

    Raises:
        UsageError: as `plugged` does, or an entry point has another name than what it stands for,
            or the name of one of Esper's; the package is named.
    """
    known = dict(own)
    for entry, offered in plugged(group, kind).items():
        package = package_of(group, entry)
        # messages and metrics say the object's name, recipes the entry point's; two would be
        # confusing
        if entry != offered.name:
            raise UsageError(
                f"The entry point {entry!r} of package {package} (group {group}) stands for "
                f"{offered.name!r}: both names have to be the same; mend or uninstall that package."
            )
        # a package that replaced an own one would change what every recipe means that names it
        if entry in known:
            raise UsageError(
                f"{entry!r} of package {package} (group {group}) has the name of one of Esper's "
                "own: uninstall that package, or let it take another name."
            )
        known[entry] = offered
    return known


def names_in(group: str) -> frozenset[str]:
    """The names of a group's entry points; nothing is loaded."""
    # a trainer that only checks a name must not run code that it does not need
    return frozenset(point.name for point in entry_points(group=group))


def package_of(group: str, name: str) -> str:
    """The package that offers something, for messages; nothing is loaded."""
    return ", ".join(_package(point) for point in entry_points(group=group, name=name))


def values_of(group: str, name: str | None = None) -> list[str]:
    """What the entry points of a group, or of a name in it, stand for, as `module:attribute`;
    nothing is loaded.
    """
    points = entry_points(group=group) if name is None else entry_points(group=group, name=name)
    return sorted(point.value for point in points)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "(unknown)"
