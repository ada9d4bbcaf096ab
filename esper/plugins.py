"""What packages outside of Esper bring in: entry points of a group, by name.

A package names them in its own metadata (`[project.entry-points."esper.families"]`), and whoever
installs it beside Esper runs its code: there is no other way in.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final, TypeVar

from esper.errors import UsageError, printable

T = TypeVar("T")
TASKS: Final = "esper.tasks"
"""The group of tasks, each under its own name."""
HOST_KINDS: Final = "esper.host_kinds"
"""The group of kinds of host layer, each under its own name."""


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


def values_of(group: str, name: str | None = None) -> list[str]:
    """What the entry points of a group, or of a name in it, stand for, as `module:attribute`;
    nothing is loaded.
    """
    points = entry_points(group=group) if name is None else entry_points(group=group, name=name)
    return sorted(point.value for point in points)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "(unknown)"
