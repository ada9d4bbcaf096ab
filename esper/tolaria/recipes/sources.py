"""The source files of functions that a recipe of a user's own names: kept beside the run, and shown
before a stranger's run may call them.

A file is found without importing anything: its package's `__init__.py` would run already. Only the
module that is named is kept and hashed, not what it imports.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Final

from esper.bounded import DEFAULT, read_in
from esper.disk import write_file
from esper.errors import printable
from esper.journal.portable import Export
from esper.journal.provenance import SOURCE
from esper.plugins import HOST_KINDS, TASKS, values_of
from esper.tolaria.recipes.environment import SOURCE as SOURCE_VERSION
from esper.tolaria.recipes.recipe import WITH_ARGUMENTS, Recipe, shipped

_FOLDER: Final = "recipe-folder"
_SHOWN: Final = 200  # lines of a difference


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """A module's file here; None where there is none that could be found without running code."""

    module: str
    path: Path | None
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal; empty where there is none."""
        return hashlib.sha256(self.content).hexdigest() if self.path else ""


def modules_of(recipe: Recipe) -> list[str]:
    """The modules of what a recipe names, but for what Esper's own recipes name, and those of the
    kinds of host layer that are installed.
    """
    modules = {
        module
        for key, reference in recipe.references.items()
        if reference not in shipped()
        for module in modules_named(reference, key)
    }
    plugged = [
        *values_of(HOST_KINDS),
        *([] if ":" in recipe.task.name else values_of(TASKS, recipe.task.name)),
    ]
    return sorted(modules | {reference.partition(":")[0] for reference in plugged})


def modules_named(reference: str, key: str) -> list[str]:
    """The modules of what a recipe names under `key`: by `module:name`, or as an installed
    package's.
    """
    named = [reference] if ":" in reference else values_of(WITH_ARGUMENTS[key], reference)
    return [one.partition(":")[0] for one in named]


def source_of(module: str) -> ModuleSource:
    """The file that `import module` would run, as the path stands now."""
    places = [Path(folder or ".") for folder in sys.path]
    *packages, last = module.split(".")
    for name in packages:
        # a package with `__init__.py` wins over namespace folders before it, as in Python's import
        package = next(
            (
                folder
                for folder in (place / name for place in places)
                if (folder / "__init__.py").is_file()
            ),
            None,
        )
        places = (
            [package]
            if package
            else [folder for folder in (place / name for place in places) if folder.is_dir()]
        )
    for place in places:
        for path in (
            place / last / "__init__.py",
            *(place / f"{last}{suffix}" for suffix in all_suffixes()),
        ):
            if path.is_file():
                try:
                    return ModuleSource(module, path.resolve(), path.read_bytes())
                except OSError:
                    return ModuleSource(module, None, b"")
    return ModuleSource(module, None, b"")


def versions_of(recipe: Recipe) -> dict[str, str]:
    """The hashes of a recipe's own source files, as RunStarted records them among the versions."""
    return {
        f"{SOURCE_VERSION}{source.module}": source.sha256
        for source in map(source_of, modules_of(recipe))
        if source.path
    }


def keep_sources(recipe: Recipe, run_dir: Path, folder: Path | None) -> None:
    """Keep a copy of a recipe's own source files beside the run, and the name of the folder of its
    file.

    Raises StorageFullError or UnavailableError.
    """
    if folder is not None:
        write_file(run_dir / _FOLDER, os.fsencode(folder))
    for source in map(source_of, modules_of(recipe)):
        # a compiled module is nothing that a person could read
        if source.path and source.path.suffix == ".py":
            write_file(run_dir / SOURCE / f"{source.module}.py", source.content)


def kept_folder(run_dir: Path) -> Path | None:
    """The folder of the file of a recipe whose run was begun here; None for one of Esper's own.

    For runs that were begun here alone: in others it is somebody else's word.
    """
    try:
        return Path(os.fsdecode(read_in(run_dir, _FOLDER, DEFAULT.json)))
    except FileNotFoundError:
        return None


def kept_source(module: str, run_dir: Path, export: Export | None) -> str | None:
    """A module's source as it was kept when the run began, or as its export has it."""
    name = f"{SOURCE}/{module}.py"
    try:
        if export is None:
            content = read_in(run_dir, name, DEFAULT.json)
        elif name in export.content.files:
            content = export.read(name, export.limits.json)
        else:
            return None
    except FileNotFoundError:
        return None
    return content.decode(errors="replace")


def told_of(module: str, versions: Mapping[str, str], kept: str | None) -> Iterator[str]:
    """What is known of a module, a line each: what would run here, its hash, and how it differs
    from what the run was trained with.
    """
    current, then = source_of(module), versions.get(f"{SOURCE_VERSION}{module}", "")
    if current.path is None:
        yield f"{module}: no file of it is found here; put it on PYTHONPATH."
        return
    yield f"{module} would run {current.path}, SHA-256 {current.sha256}."
    if not then:
        yield f"{module}: the run has not recorded its source."
    elif then == current.sha256:
        yield f"{module}: the run was trained with the same file."
    else:
        yield f"{module}: the run was trained with another file, SHA-256 {printable(then)[:64]}."
    if kept is None:
        return
    if hashlib.sha256(kept.encode()).hexdigest() != then:
        yield f"{module}: the source that came with the run is not the one that it recorded."
    now = current.content.decode(errors="replace")
    lines = list(
        difflib.unified_diff(
            kept.splitlines(), now.splitlines(), "as recorded", str(current.path), lineterm=""
        )
    )
    yield from (printable(line) for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"... and {len(lines) - _SHOWN} more lines that differ."
