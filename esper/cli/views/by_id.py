"""The one thing that is meant by the beginning of its id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from esper.errors import UsageError

FETCHED: Final = 9
"""Rows to ask for: enough to tell none, one and several, and to name some."""

_BEGINNING: Final = re.compile(r"[0-9A-Za-z_-]{4,128}")


def require_beginning(text: str, kind: str, listing: str) -> None:
    """Refuse what no id of such a thing starts with.

    Raises:
        UsageError: it is too short, or has characters that no id has.
    """
    if not _BEGINNING.fullmatch(text):
        raise UsageError(
            f"{text!r} is no beginning of a {kind}'s id: give at least four characters of one that "
            f"{listing} has."
        )


def only(
    found: Sequence[Mapping[str, Any]],
    beginning: str,
    *,
    kind: str,
    column: str,
    listing: str,
    more: str = "more of the id",
) -> dict[str, Any]:
    """The row whose id, which is in `column`, starts with `beginning`.

    `kind` is what it is, `listing` where all are listed, `more` what would tell them apart.

    Raises:
        UsageError: there is none, or there are several.
    """
    if not found:
        raise UsageError(f"No {kind} begins with {beginning}: {listing} has those that there are.")
    if len(found) > 1:
        some = [f"{row[column]}{_of(row)}" for row in found[: FETCHED - 1]]
        rest = ", and more" if len(found) == FETCHED else ""
        raise UsageError(f"{beginning} begins several, {', '.join(some)}{rest}: give {more}.")
    return dict(found[0])


def _of(row: Mapping[str, Any]) -> str:
    return f" of {row['run_id']}" if "run_id" in row else ""
