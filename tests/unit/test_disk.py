"""Files of Esper's: whole, durable, and their owner's alone even in a process whose files are open
to others; and no other way to write one.
"""

from __future__ import annotations

import ast
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.disk import appended, make_folder, write_file, write_new
from esper.errors import UnavailableError
from esper.stack.processes import owners

ROOT = Path(__file__).parents[2]
HANDED_ON = {
    "esper/journal/exporting.py": (
        "an export is made in a folder that is then renamed, and is handed to others"
    ),
    "esper/journal/reading.py": "a journal is written as it comes, to where the user says",
    "esper/cli/installation/dead_letters.py": "a letter goes where the user says",
    "esper/cli/runs/recipes.py": "a recipe is the user's to edit",
    "esper/cli/installation/deploy.py": "secrets go where the user says, with a mode each",
}


@pytest.fixture(autouse=True)
def open_to_others() -> Iterator[None]:
    """As in a process of somebody else's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[str]:
    """What others may do with anything in a folder."""
    return {oct(path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)) for path in folder.rglob("*")}


def test_files_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask says, also for the folders between."""
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    for line in (b"1", b"2"):
        with appended(tmp_path / "a" / "log") as log:
            assert log.tell() == int(line) - 1
            log.write(line)
    assert (tmp_path / "a" / "log").read_bytes() == b"12"
    write_file(tmp_path / "c" / "d" / "file", b"1")
    write_new(tmp_path / "a" / "new", b"2")
    assert modes(tmp_path) == {"0o0"}


def test_marks_and_locks_of_a_program_of_somebody_else_s_are_too(tmp_path: Path) -> None:
    """As where `esper.grow` joins a stack from a loop whose files are open to others."""
    owners.join(tmp_path / "stack", None)
    with owners.guard(tmp_path / "stack"):
        assert modes(tmp_path) == {"0o0"}


def test_a_file_is_replaced_whole_by_writers_at_once(tmp_path: Path) -> None:
    """Threads that write the same file leave one that one of them wrote, and nothing beside it."""
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_file, args=(tmp_path / "file", content))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be written"):
        write_file(tmp_path / "file" / "below", b"")


def writes(path: Path) -> Iterator[int]:
    """Lines that make a file or a folder without `esper.disk`, so that others may read it, or a
    crash tears it.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if (
            node.func.attr in {"write_text", "write_bytes", "touch"}
            or (node.func.attr == "mkdir" and not any(one.arg == "mode" for one in node.keywords))
            or (node.func.attr == "open" and any(map(makes, node.args)))
        ):
            yield node.lineno


def makes(argument: ast.expr) -> bool:
    """Whether `open` is given a mode that makes a file."""
    return (
        isinstance(argument, ast.Constant)
        and isinstance(argument.value, str)
        and bool(set(argument.value) & set("awx"))
        and set(argument.value) <= set("abtwx+")
    )


def test_esper_writes_files_by_one_module_alone() -> None:
    """But for what it hands to somebody."""
    paths = [path for folder in ("esper", "processors") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): list(writes(path)) for path in paths}
    assert {name for name, lines in found.items() if lines} - {"esper/disk.py"} <= HANDED_ON.keys()
