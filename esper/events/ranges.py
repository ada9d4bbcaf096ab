"""What the fields of events may be, as the schemas say it: `minimum`, `maximum`, `finite`,
`format`, `maxLength`, `maxItems`; `maxBytes` of a message.

The generated records ask first, in one expression a record, whether anything may be wrong
(`unsound`); only then `require` looks at each field and names the one at fault. A number without
`finite` may be NaN or infinite: a loss is, in a run that diverges, and whoever reads it copes. A
minimum and a maximum say nothing of NaN. Whole numbers end at 2**53 - 1, which JSON and doubles
hold exactly, or where Avro's int ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from esper.bounded.names import is_run_id
from esper.errors import BuildError, PoisonError
from esper.events import geometry

MAX_BYTES: Final = (8 << 20) + 65_536
"""Largest message of a record whose schema gives no `maxBytes`: what Esper's topics take, and some
room.
"""
LEAST_LIMIT: Final = 16_384
"""The least `maxBytes` that a schema gives; nothing shorter needs to be looked up."""
_KEPT: Final = 4_096
_KEPT_CHARACTERS: Final = 8_192

NAMES: Final[set[str]] = {""}
"""Names that were found good, so that they need not be looked at again.

The same for texts of the other formats.
"""
TEXTS: Final[dict[str, set[str]]] = {"name": NAMES, "json": {""}, "geometry": {""}}


class Bound(NamedTuple):
    """What one field may be; of a field with many values, each of them.

    `most` is the number of characters or items.
    """

    field: str
    minimum: float | None = None
    maximum: float | None = None
    finite: bool = False
    format: str = ""
    most: int | None = None


def require(kind: str, bounds: tuple[Bound, ...], values: dict[str, Any]) -> None:
    """Hold each value of a record against its bound.

    Raises:
        PoisonError: one is outside; the sentence names field and bound.
    """
    for bound in bounds:
        for problem in _problems(bound, values[bound.field]):
            raise PoisonError(f"A {kind} has {bound.field} {problem}.")


def _problems(bound: Bound, value: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, tuple | list | dict):
        if bound.most is not None and len(value) > bound.most:
            yield f"with {len(value):,} items, and {bound.most:,} is the most"
        for item in value.values() if isinstance(value, dict) else value:
            yield from _one(bound, item)
        return
    if bound.most is not None and len(value) > bound.most:
        yield f"with {len(value):,} characters, and {bound.most:,} is the most"
    yield from _one(bound, value)


def _one(bound: Bound, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if bound.format and value not in TEXTS[bound.format]:
            problem = _FORMATS[bound.format](value)
            if problem:
                yield problem
            else:
                _remember(TEXTS[bound.format], value)
    elif isinstance(value, int | float):
        if bound.finite and not math.isfinite(value):
            yield f"{value}, and a finite number is needed"
        # NaN passes both comparisons: only `finite` refuses it
        elif bound.minimum is not None and value < bound.minimum:
            yield f"{value}, and {bound.minimum:g} is the least"
        elif bound.maximum is not None and value > bound.maximum:
            yield f"{value}, and {bound.maximum:.16g} is the most"
    # a record inside a record, with bounds of its own
    elif value.unsound():
        require(type(value).__name__, value.BOUNDS, value.__dict__)


def _remember(known: set[str], text: str) -> None:
    # a long text is looked at each time, rather than kept 4,096 times over
    if len(text) <= _KEPT_CHARACTERS:
        if len(known) >= _KEPT:
            # all at once: to forget the oldest would take an order and a lock, and a text is soon
            # known again
            known.clear()
            known.add("")
        known.add(text)


def _name(text: str) -> str:
    if is_run_id(text):
        return ""
    return (
        f"{text[:80]!r}, which names no folder: letters, digits, dots, dashes and underscores, "
        "128 at most"
    )


def _json(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"that is no JSON ({error or type(error).__name__})"
    return ""


def _geometry(text: str) -> str:
    try:
        geometry.parse(text)
    except (BuildError, ValueError, OverflowError) as error:
        return f"that is no geometry ({error})"
    return ""


_FORMATS: Final[dict[str, Callable[[str], str]]] = {
    "name": _name,
    "json": _json,
    "geometry": _geometry,
}
