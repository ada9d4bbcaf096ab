"""The Native format as a client of the TCP protocol's later revisions reads it.

chDB writes Native as of revision 0. A client that sends `client_protocol_version` (Grafana's
plugin, the Go and Java drivers) expects block information before each block and, since revision
54454, a byte before each column that says whether its serialization is a special one. Only the
places where columns begin are sought here; values are copied as they are. Source: ClickHouse's
`NativeWriter`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from esper.history.confined.refusal import QueryError

FIRST_REVISION: Final = 54406
"""From here on the revision is honoured. clickhouse-connect asks for 54405 to find out, and reads
revision 0 faster.
"""

_SPECIAL_SERIALIZATION: Final = 54454
_BLOCK_INFORMATION: Final = b"\x01\x00\x02\xff\xff\xff\xff\x00"  # no overflow row, no bucket
_HAS_KEYS: Final = 1 << 9
_SIZES: Final = {
    1: "Bool UInt8 Int8 Enum8 Nothing",
    2: "UInt16 Int16 Enum16 Date BFloat16",
    4: "UInt32 Int32 Float32 Date32 DateTime IPv4 Decimal32 Time",
    8: "UInt64 Int64 Float64 DateTime64 Decimal64 Time64",
    16: "UInt128 Int128 UUID IPv6 Decimal128",
    32: "UInt256 Int256 Decimal256",
}
_WIDTH: Final = {name: size for size, names in _SIZES.items() for name in names.split()}
_GEOMETRY: Final = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_NAMED: Final = re.compile(r"^(?:[A-Za-z_]\w*|`(?:[^`\\]|\\.)*`)\s+(?=\S)")
_PARTS: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|[(),]|[^'`(),]+")


def at_revision(content: bytes, revision: int) -> bytes:
    """A Native stream of revision 0 as one of `revision`.

    Raises:
        QueryError: a column has a type whose length is not known here.
    """
    out: list[bytes] = []
    mark = b"\0" if revision >= _SPECIAL_SERIALIZATION else b""
    at = 0
    while at < len(content):
        began = at
        columns, at = _varint(content, at)
        rows, at = _varint(content, at)
        out += [_BLOCK_INFORMATION, content[began:at]]
        for _ in range(columns):
            began = at
            _, at = _text(content, at)
            name, at = _text(content, at)
            out += [content[began:at], mark]
            began = at
            if rows:
                at = _end(
                    name, rows, content, at + 8 * name.count("LowCardinality(")
                )  # their versions stand before all values
            out.append(content[began:at])
    return b"".join(out)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(content: bytes, at: int) -> tuple[str, int]:
    size, at = _varint(content, at)
    return content[at : at + size].decode(), at + size


def _end(name: str, rows: int, content: bytes, at: int) -> int:
    """Where the values of a column of type `name` end."""
    kind, inner = _split(_GEOMETRY.get(name, name))
    if kind in _WIDTH:
        return at + rows * _WIDTH[kind]
    if kind.startswith("Interval"):
        return at + rows * 8
    return _skip(kind)(inner, rows, content, at)


def _skip(kind: str) -> Callable[[list[str], int, bytes, int], int]:
    try:
        return _SKIPS[kind]
    except KeyError:
        raise QueryError(
            48,
            (
                f"Code: 48. DB::Exception: The history does not serve {kind} in Native at this "
                "revision; cast it to String. (NOT_IMPLEMENTED)"
            ),
        ) from None


def _string(_inner: list[str], rows: int, content: bytes, at: int) -> int:
    for _ in range(rows):
        # most are shorter than 128 bytes: no call for their length
        size = content[at]
        at += 1
        if size >= 0x80:
            size, at = _varint(content, at - 1)
        at += size
    return at


def _fixed_string(inner: list[str], rows: int, _content: bytes, at: int) -> int:
    return at + rows * int(inner[0])


def _decimal(inner: list[str], rows: int, _content: bytes, at: int) -> int:
    digits = int(inner[0])
    return at + rows * next(
        size for limit, size in ((9, 4), (18, 8), (38, 16), (76, 32)) if digits <= limit
    )


def _nullable(inner: list[str], rows: int, content: bytes, at: int) -> int:
    # one byte a row says which are null
    return _end(inner[0], rows, content, at + rows)


def _array(inner: list[str], rows: int, content: bytes, at: int) -> int:
    at += rows * 8
    # offsets count from the first row on, so the last one is the number of elements
    return _end(inner[0], _word(content, at - 8) if rows else 0, content, at)


def _tuple(inner: list[str], rows: int, content: bytes, at: int) -> int:
    if not inner:
        return at + rows
    for element in inner:
        at = _end(_NAMED.sub("", element), rows, content, at)
    return at


def _map(inner: list[str], rows: int, content: bytes, at: int) -> int:
    return _array([f"Tuple({inner[0]}, {inner[1]})"], rows, content, at)


def _nested(inner: list[str], rows: int, content: bytes, at: int) -> int:
    return _array([f"Tuple({', '.join(inner)})"], rows, content, at)


def _simple(inner: list[str], rows: int, content: bytes, at: int) -> int:
    return _end(inner[-1], rows, content, at)


def _low_cardinality(inner: list[str], rows: int, content: bytes, at: int) -> int:
    """A dictionary, then the places in it, in integers whose size the lowest byte of the flags
    gives.
    """
    if not rows:
        return at
    flags = _word(content, at)
    at += 8
    if flags & _HAS_KEYS:
        keys = _word(content, at)
        kind, held = _split(inner[0])
        # the dictionary of a Nullable is not: its first key stands for null
        at = _end(held[0] if kind == "Nullable" else inner[0], keys, content, at + 8)
    return at + 8 + (_word(content, at) << (flags & 0xFF))


def _word(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 8], "little")


_SKIPS: Final[dict[str, Callable[[list[str], int, bytes, int], int]]] = {
    "String": _string,
    "FixedString": _fixed_string,
    "Decimal": _decimal,
    "Nullable": _nullable,
    "Array": _array,
    "Tuple": _tuple,
    "Map": _map,
    "Nested": _nested,
    "SimpleAggregateFunction": _simple,
    "LowCardinality": _low_cardinality,
}


def _split(name: str) -> tuple[str, list[str]]:
    """`Map(String, Array(UInt8))` as `Map` and its two arguments."""
    kind, _, rest = name.partition("(")
    if not rest:
        return kind.strip(), []
    arguments, depth, current = [], 0, ""
    for part in _PARTS.findall(rest[: rest.rindex(")")]):
        depth += (part == "(") - (part == ")")
        if part == "," and depth == 0:
            arguments.append(current.strip())
            current = ""
        else:
            current += part
    if current.strip():
        arguments.append(current.strip())
    return kind.strip(), arguments
