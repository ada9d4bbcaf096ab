"""What an operator may start over HTTP: recipes that the owner of the installation has named, and
the functions that these name.

A recipe names functions, and starting it runs them as the owner. So whoever may choose recipes
freely may do everything that the owner can. An operator may not: the recipe has to be one of
`ESPER_SERVICE__RECIPES` (Esper's own by default), and whatever is changed in it, the functions of
the recipe that comes out have to be functions which a recipe of that list names. The trainer holds
this against the recipe it is about to execute, wherever that comes from: a file that was changed
meanwhile, or a journal that somebody has forged.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.errors import UsageError
from esper.tolaria.recipes.recipe import WITH_ARGUMENTS, Recipe, names, references, text

SETTING: Final = "ESPER_SERVICE__RECIPES"
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Allowed:
    """The list: Esper's own recipes, those in `folders`, and every function of `modules` and of
    what is below them.
    """

    folders: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()

    @classmethod
    def of(cls, listed: str) -> Allowed:
        """From the setting: folders and modules, separated by commas.

        What has a slash in it is a folder.

        Raises:
            UsageError: an entry is neither.
        """
        entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
        folders = tuple(Path(entry).resolve() for entry in entries if "/" in entry)
        modules = tuple(entry for entry in entries if "/" not in entry)
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(
                    f"{SETTING} names {folder}, which is not a folder: create it, or take it "
                    "off the list."
                )
        for module in modules:
            if not all(name.isidentifier() for name in module.split(".")):
                raise UsageError(
                    f"{SETTING} has {module!r}: give folders with a slash, such as "
                    "./recipes, and modules with dots."
                )
        return cls(folders, modules)

    def recipe(self, name: str) -> str:
        """What `esper.tolaria.recipes.recipe.load` finds the recipe `name` by.

        Raises:
            UsageError: it is not on the list.
        """
        if name in names():
            return name
        try:
            path = Path(name).resolve()
        except (OSError, ValueError, RuntimeError):  # a zero in it, a loop of links
            path = Path()
        # resolved, and against a list made now: neither `..` nor a link leads outside
        if path in self._files():
            return str(path)
        near = difflib.get_close_matches(name, names(), n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"take {', '.join(names())}, or ask the owner to add its folder to {SETTING}."
        )
        raise UsageError(f"The recipe {name!r} is not one that may be started over HTTP; {hint}")

    def require(self, recipe: Recipe) -> None:
        """Make sure that a recipe names functions of the list alone.

        Raises:
            UsageError: it names another; the sentence says which.
        """
        listed = list(self._recipes())
        for key, reference in recipe.references.items():
            if key in WITH_ARGUMENTS:
                # under this key, with these arguments: see WITH_ARGUMENTS
                section = key.partition(".")[0]
                own = getattr(recipe, section).arguments
                allowed = any(
                    references(values).get(key) == reference
                    and values[section].get("arguments", {}) == own
                    for values in listed
                )
            else:
                allowed = any(reference in references(one).values() for one in listed)
                allowed = allowed or self._of_modules(reference.partition(":")[0])
            if not allowed:
                raise UsageError(
                    f"{key} = {reference!r} is not a function that may be called for a run "
                    "asked for over HTTP: "
                    f"let the owner of the installation add {_remedy(key)} to {SETTING}, or "
                    "run it by `esper run`."
                )

    def _of_modules(self, module: str) -> bool:
        return any(module == listed or module.startswith(f"{listed}.") for listed in self.modules)

    def _recipes(self) -> Iterator[dict[str, Any]]:
        """The values of the recipes of the list."""
        yield from (tomllib.loads(text(name)) for name in names())
        yield from (values for path in self._files() if (values := _read(path)))

    def _files(self) -> set[Path]:
        return {path for folder in self.folders for path in _safe(folder)}


def _remedy(key: str) -> str:
    return "a recipe with it and these arguments" if key in WITH_ARGUMENTS else "its module"


def _safe(folder: Path) -> Iterator[Path]:
    """The recipes of a folder which nobody but its owner, us or root, can have put there."""
    if not _ours(folder):
        return
    for path in folder.iterdir():
        # no links: who may write where they lead was not looked at
        if path.suffix == ".toml" and path.is_file() and path.resolve() == path and _ours(path):
            yield path


def _ours(path: Path) -> bool:
    status = path.stat()
    return status.st_uid in {os.geteuid(), 0} and not status.st_mode & _WRITABLE


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
    ):  # tomllib's own error is a ValueError; whoever asks for this recipe is told
        return {}
