"""Who wants the stack: it ends when all of its owners are gone, unless somebody asked to keep it
up.

One file for each owner, named by its pid and start time, and `keep` for `esper up`. Whoever joins
or decides to stop holds `guard`, so that a run never joins a stack that has just decided to end.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from esper.disk import appended, make_folder
from esper.identity import Identity
from esper.user_cache import locked

_KEEP = "keep"


def guard(stack_dir: Path) -> AbstractContextManager[None]:
    """Exclusive right to change or judge who wants the stack."""
    return locked(stack_dir / "owners.lock")


def join(stack_dir: Path, owner: Identity | None) -> None:
    """`owner` wants the stack from now on; None: it is to stay up until `esper down`."""
    folder = stack_dir / "owners"
    make_folder(folder)
    appended(folder / (_KEEP if owner is None else _name(owner))).close()


def leave(stack_dir: Path, owner: Identity) -> None:
    """`owner` needs it no longer, although it lives on."""
    (stack_dir / "owners" / _name(owner)).unlink(missing_ok=True)


def clear(stack_dir: Path) -> None:
    """No owner wants the stack."""
    for file in _files(stack_dir):
        file.unlink(missing_ok=True)


def wanted(stack_dir: Path) -> bool:
    """Whether it is kept, or an owner lives."""
    return any(file.name == _KEEP or _lives(file.name) for file in _files(stack_dir))


def _files(stack_dir: Path) -> list[Path]:
    folder = stack_dir / "owners"
    return list(folder.iterdir()) if folder.is_dir() else []


def _name(owner: Identity) -> str:
    # the system gives a pid again: only with its start time it names one process
    return f"{owner.pid}-{owner.started}"


def _lives(name: str) -> bool:
    pid, _, started = name.partition("-")
    return pid.isdigit() and started.isdigit() and Identity(int(pid), int(started)).lives()
