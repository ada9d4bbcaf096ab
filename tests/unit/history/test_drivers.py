"""What the Go and Java drivers ask for (so Grafana's plugin and DBeaver): Native of a later
revision, and compressed frames.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import cramjam
import pytest

from esper.history.compressed_frames import city128, framed
from esper.history.confined.engine import Engine
from esper.history.confined.refusal import QueryError
from esper.history.native import at_revision

REVISION = 54_460

VALUES = [
    "toInt256(1)",
    "true",
    "repeat('x', number * 100)",
    "toFixedString('abc', 5)",
    "toDecimal128(1.5, 3)",
    "now64(6)",
    "toUUID('00000000-0000-8000-8000-000000000001')",
    "CAST('b,(', 'Enum8(''a'' = 1, ''b,('' = 2)')",
    "if(number = 1, NULL, 'x')",
    "toLowCardinality('x')",
    "toLowCardinality(if(number = 1, NULL, toString(number)))",
    "range(number)",
    "arrayMap(x -> [toLowCardinality(toString(x))], range(number))",
    "emptyArrayString()",
    "map('a', [number])",
    (
        "CAST((1, [(toLowCardinality('x'), number)]), 'Tuple(a Int8, `b c` "
        "Array(Tuple(LowCardinality(String), UInt64)))')"
    ),
    "toIntervalDay(number)",
    "(1., 2.)::Point",
    "NULL",
]


def frames(content: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """The checksum and the rest of each frame in `content`."""
    at = 0
    while at < len(content):
        checksum = struct.unpack_from("<QQ", content, at)
        size = struct.unpack_from("<I", content, at + 17)[0]
        yield (checksum[0], checksum[1]), content[at + 16 : at + 16 + size]
        at += 16 + size


@pytest.mark.parametrize("value", VALUES)
def test_each_columns_end_is_found(engine: Engine, value: str) -> None:
    """A column after one of this type stands where it should: only block information and one byte a
    column were added.
    """
    query = f"SELECT {value} AS value, toUInt8(171 + number) AS last FROM numbers(4)"  # noqa: S608
    plain = engine.answer(query, default_format="Native", settings={}, parameters={}).body
    later = at_revision(plain, REVISION)
    assert len(later) == len(plain) + 8 + 2
    assert later.endswith(b"\x04last\x05UInt8\x00\xab\xac\xad\xae")


def test_a_record_with_nested_records_is_served(engine: Engine) -> None:
    """All columns of the deepest record are passed over, with rows and without."""
    for query in (
        "SELECT *, 1 AS last FROM system_state_packet",
        "SELECT *, 1 AS last FROM system.columns LIMIT 500",
    ):
        plain = engine.answer(query, default_format="Native", settings={}, parameters={}).body
        assert len(at_revision(plain, REVISION)) >= len(plain)


def test_a_type_without_a_known_length_is_refused(engine: Engine) -> None:
    """Instead of bytes that a driver would misread, the client hears which type it is."""
    plain = engine.answer(
        "SELECT sumState(number) AS s FROM numbers(3)",
        default_format="Native",
        settings={},
        parameters={},
    ).body
    with pytest.raises(QueryError, match="AggregateFunction"):
        at_revision(plain, REVISION)


def test_the_checksum_is_clickhouses_own(engine: Engine) -> None:
    """Every frame in the column files that ClickHouse itself wrote has the checksum computed here,
    and so have ours, whatever their length.
    """
    found = []
    for number, rows in enumerate(
        (
            "repeat(toString(number), number % 50) FROM numbers(3000)",
            *(f"repeat('x', {size})" for size in (1, 4, 9, 14, 60)),
        )
    ):
        # of its own: one insert is one part, which nothing can be merged with
        table = f"checksums_{number}"
        engine.client.command(
            f"CREATE TABLE {table} (n UInt64, s String) ENGINE = MergeTree ORDER BY n "
            "SETTINGS min_bytes_for_wide_part = 0"
        )
        engine.client.command(f"INSERT INTO {table} SELECT 1, {rows}")
        written = f"SELECT path FROM system.parts WHERE table = '{table}' AND active"  # noqa: S608
        paths = [Path(row[0]) for row in engine.client.query(written).result_rows]
        found += [
            frame
            for path in paths
            for file in path.glob("[ns]*.bin")
            for frame in frames(file.read_bytes())
        ]
        engine.client.command(f"DROP TABLE {table}")
    assert min(len(rest) for _, rest in found) < 32
    assert all(city128(rest) == checksum for checksum, rest in found)
    for size in (1, 7, 100, 300_000):
        content = bytes(number % 251 for number in range(size))
        parts = list(frames(framed(content)))
        assert (
            b"".join(
                bytes(
                    cramjam.lz4.decompress_block(
                        rest[9:], output_len=struct.unpack_from("<I", rest, 5)[0]
                    )
                )
                for _, rest in parts
            )
            == content
        )
