"""JSON bodies, read strictly: what one reader takes in one way and another in another, or not at
all, is refused before anybody acts on it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any, Final

from esper.service.checks.problems import ProblemError

_DEEPEST: Final = 32
_LARGEST: Final = 1 << 63
"""Whole numbers from minus this to below it: what Avro, ClickHouse and JavaScript's readers can
hold as 64 bits.
"""
_DIGITS: Final = 20


def is_json(content_type: str) -> bool:
    """Whether a body of this Content-Type is read as JSON."""
    return content_type.partition(";")[0].strip().lower().endswith("json")


def parsed(body: bytes) -> Any:
    """The value of a JSON text (RFC 8259, as I-JSON of RFC 7493 narrows it).

    Raises:
        ProblemError: 400, it is not UTF-8 or no JSON, nests deeper than 32, names a key twice, or
            has a number or a text that other readers could not hold: NaN, more than 64 bits, half
            of a surrogate pair, a zero character.
    """
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_fraction,
        )
    except UnicodeDecodeError:
        raise _refused("is not UTF-8") from None
    except RecursionError:
        raise _refused(f"nests deeper than {_DEEPEST}") from None
    except ValueError as error:
        raise _refused(f"is no JSON ({error})") from None
    for text in _texts(value):
        if "\0" in text:
            raise _refused("has a text with a zero character")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise _refused("has a text with half of a surrogate pair")
    return value


def _texts(value: Any) -> Iterator[str]:
    """Every text and key in a value.

    One level after the other, because a caller chooses how deep it is.
    """
    level = [value]
    for depth in itertools.count():
        if not level:
            return
        if depth == _DEEPEST and any(isinstance(node, dict | list) for node in level):
            raise _refused(f"nests deeper than {_DEEPEST}")
        yield from (node for node in level if isinstance(node, str))
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                yield from node
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        level = inner


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    # Readers differ in which of two they take (RFC 8259, section 4), so a check could see the one
    # and a route the other.
    if len(members) != len(pairs):
        raise _refused("has an object that names a key twice")
    return members


def _integer(digits: str) -> int:
    # By its length first: int() of many digits takes quadratic time.
    if len(digits) > _DIGITS or not -_LARGEST <= (value := int(digits)) < _LARGEST:
        raise _refused("has a whole number of more than 64 bits")
    return value


def _fraction(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise _refused("has a number that is too large")
    return value


def _no_number(name: str) -> float:
    raise _refused(f"has {name}, which is no JSON")


def _refused(why: str) -> ProblemError:
    return ProblemError(400, f"The body {why}; /openapi.json says what this address takes.")
