"""`esper recipes ls | show | cp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli.shared.called import called
from esper.errors import UsageError
from esper.json_text import json_text


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="The recipes that come with Esper: what to train, and how.", no_args_is_help=True
    )
    group.command("ls")(ls)
    group.command("show")(show)
    group.command("cp")(cp)
    app.add_typer(group, name="recipes")


def ls(*, as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False) -> None:
    """List the recipes."""
    from esper.tolaria.recipes.recipe import names, text  # noqa: PLC0415

    recipes = [{"name": name, "about": text(name).splitlines()[0].lstrip("# ")} for name in names()]
    if as_json:
        print(json_text(recipes))
        return
    for recipe in recipes:
        print(f"{recipe['name']:<12} {recipe['about']}")
    print(f"A project of your own: {called()} init --task TASK [FOLDER]")


def show(
    name: str,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every value, defaults too, as JSON.")
    ] = False,
) -> None:
    """Print a recipe, and check it."""
    from esper.tolaria.recipes.recipe import load, text  # noqa: PLC0415

    recipe = load(name)
    print(recipe.canonical() if as_json else text(name), end="\n" if as_json else "")


def cp(
    name: str,
    target: Annotated[Path, typer.Argument(help="File to write.")],
    *,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Copy a recipe to a file, to make it your own: `esper run FILE`."""
    from esper.tolaria.recipes.recipe import text  # noqa: PLC0415

    path = target / f"{name}.toml" if target.is_dir() else target
    if path.exists():
        raise UsageError(f"{path} exists already; choose another name.")
    try:
        path.write_text(text(name))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    print(
        json_text({"path": str(path)})
        if as_json
        else f"Wrote {path}. Run it with: esper run {path}"
    )
