"""`esper init` writes projects, and nothing over anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.starters.files import TASKS, files_of, started
from esper.tolaria.recipes.recipe import load
from tests.commands import run as esper


@pytest.mark.parametrize("task", TASKS)
def test_a_project_is_named_and_said_next(tmp_path: Path, task: str) -> None:
    """All files are there, and the last line is the command that runs it."""
    folder = tmp_path / "new" / task
    done = esper("init", str(folder), "--task", task)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(f"run {folder / started(task)}")
    assert all((folder / name).is_file() for name, _ in files_of(task))
    if task != "script":
        recipe = load(str(folder / "recipe.toml"))
        assert recipe.model == f"my_{task}:model"
        assert recipe.data == f"my_{task}:data"
    assert "esper.starters" not in "".join(
        path.read_text() for path in folder.iterdir() if path.suffix in (".py", ".toml")
    )


def test_projects_are_the_same_each_time() -> None:
    """Bytes of a second writing are those of the first, images too."""
    for task in TASKS:
        first, second = ([(name, make()) for name, make in files_of(task)] for _ in range(2))
        assert first == second


@pytest.mark.parametrize(
    ("task", "there"),
    [
        ("regression", "recipe.toml"),
        ("regression", "my_regression.py"),
        ("images", "images"),
        ("language_model", "text.txt"),
        ("script", "train.py"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, task: str, there: str, kind: str) -> None:
    """One sentence, exit code 2, and not one file more than before."""
    path = tmp_path / there
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    done = esper("init", str(tmp_path), "--task", task)
    assert done.returncode == 2
    assert done.stderr == (
        f"esper: {path} exists already, and nothing is overwritten: choose another folder, or move "
        "it away.\n"
    )
    assert [one.name for one in tmp_path.iterdir()] == [there]


def test_what_is_no_project_is_named(tmp_path: Path) -> None:
    """An unknown task, and a file where the folder would be."""
    refused = esper("init", str(tmp_path), "--task", "regresion")
    assert refused.returncode == 2
    assert "no task 'regresion'" in refused.stderr
    assert all(task in refused.stderr for task in TASKS)
    (tmp_path / "file").write_text("")
    refused = esper("init", str(tmp_path / "file"), "--task", "script")
    assert (refused.returncode, "is no folder" in refused.stderr) == (2, True)
