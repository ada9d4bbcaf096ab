"""fastavro's own functions for single values, which the generated records call field by field.

`schemaless_reader` and `schemaless_writer` choose among these functions at every field of every
datum, by comparing names of types; that takes as long again as reading and writing. They are not
part of fastavro's public interface: `make golden` holds what they give against what the public
functions give, for every record.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final, NoReturn

from fastavro import _read, _write

__all__ = [
    "NAMED",
    "OPTIONS",
    "no_branch",
    "read_array",
    "read_boolean",
    "read_bytes",
    "read_double",
    "read_doubles",
    "read_enum",
    "read_long",
    "read_utf8",
    "write_data",
    "write_doubles",
]

_reading: Any = _read
_writing: Any = _write
read_array: Final[Callable[..., Any]] = _reading.read_array
read_boolean: Final[Callable[[BytesIO], bool]] = _reading.read_boolean
read_bytes: Final[Callable[[BytesIO], bytes]] = _reading.read_bytes
read_double: Final[Callable[[BytesIO], float]] = _reading.read_double
read_enum: Final[Callable[..., str]] = _reading.read_enum
read_long: Final[Callable[[BytesIO], int]] = _reading.read_long
read_utf8: Final[Callable[[BytesIO], str]] = _reading.read_utf8
write_data: Final[Callable[..., None]] = _writing.write_data

_DOUBLES: Final = {"type": "map", "values": "double"}

NAMED: Final[dict[str, Any]] = {}
"""Types that are referred to by name: none, since the generated types are spelled out."""

OPTIONS: Final[dict[str, Any]] = {}
"""fastavro's options, all as they are by default."""


def read_doubles(stream: BytesIO, count: int) -> dict[str, float]:
    """A map of floating-point numbers, whose first block has the length `count`: `read_map` would
    choose among functions at each value.
    """
    values: dict[str, float] = {}
    while count:
        if count < 0:  # a block that says its size in bytes, too
            count = -count
            read_long(stream)
        for _ in range(count):  # ends where the bytes do, whatever the count says
            name = read_utf8(stream)
            values[name] = read_double(stream)
        count = read_long(stream)
    return values


def write_doubles(out: bytearray, values: dict[str, float]) -> None:
    """Append a map of floating-point numbers."""
    write_data(out, values, _DOUBLES, NAMED, "", OPTIONS)


def no_branch(branch: int) -> NoReturn:
    """Refuse a branch that a union of null and another type does not have."""
    raise IndexError(f"a union of two types has no branch {branch}")
