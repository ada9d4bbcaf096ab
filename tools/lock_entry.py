"""Print the lines of one package from requirements.lock: `python tools/lock_entry.py NAME`."""

from __future__ import annotations

import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


def entry(name: str) -> str:
    """The pinned version of `name` with its hashes, in the form that pip reads."""
    lines = LOCK.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(f"{name}=="))
    last = first
    while lines[last].endswith("\\"):
        last += 1
    return "\n".join(lines[first : last + 1]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(entry(sys.argv[1]))
