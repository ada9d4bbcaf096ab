"""`esper init`: a project to start from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from esper.cli.shared.called import called
from esper.errors import UsageError
from esper.json_text import json_text


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder to write to; one named by the task, if left out."),
    ] = None,
    *,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help=(
                "classification, regression, language_model, images (a folder of images), "
                "fine_tuning (a frozen backbone), or script (a loop of your own)."
            ),
        ),
    ] = "classification",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write a project to start from: a recipe, and a Python file with the model and its data, which
    run at once and are yours to change.
    """
    from esper.starters.files import TASKS, files_of, started  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    if task not in TASKS:
        about = "; ".join(f"{name}: {text}" for name, text in TASKS.items())
        raise UsageError(f"There is no task {task!r} to start from. {about}.")
    folder = folder or Path(task)
    files = list(files_of(task))
    # before the first is written: what a project replaces half is worse than none
    for name in dict.fromkeys(Path(name).parts[0] for name, _ in files):
        if os.path.lexists(folder / name):
            raise UsageError(
                f"{folder / name} exists already, and nothing is overwritten: choose another "
                "folder, or move it away."
            )
    _write(folder, files)
    command = f"{called()} run {shlex.quote(str(folder / started(task)))}"
    written = sorted({Path(name).parts[0] for name, _ in files})
    if as_json:
        print(json_text({"folder": str(folder), "files": written, "next": command}))
        return
    print(f"Wrote {', '.join(written)} in {folder}: {TASKS[task]}.")
    print(f"Next: {command}")


def _write(folder: Path, files: list[tuple[str, Callable[[], bytes]]]) -> None:
    from esper.disk import make_folder, unwritable, write_new  # noqa: PLC0415 - as above

    for name, content in files:
        path = folder / name
        try:
            make_folder(path.parent)
            write_new(path, content())
        except (NotADirectoryError, FileExistsError):
            raise UsageError(
                f"{folder} is no folder: choose another name, or move that file away."
            ) from None
        except OSError as error:
            raise unwritable(path, error) from error
