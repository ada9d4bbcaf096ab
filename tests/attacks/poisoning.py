"""Messages that nobody should have sent: seeded mutations of every record, for the tests of
fuzzing.

Two families. `broken` changes bytes: flips, cuts, insertions, lengths that lie. `extreme` keeps to
the schema and chooses the values at its edges, and texts of every unpleasant kind: most of them are
decoded, and have to be borne by whoever takes them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro

from esper.events import Event, decode
from esper.events.codec import frame
from esper.events.ranges import Bound
from esper.events.records import RECORDS
from esper.events.schemas import current
from esper.events.topics import TOPICS
from esper.oona.bus.port import Received

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
TEXTS = (
    "",
    "x",
    "a" * 5_000,
    "\0",
    "\n",
    "a/b",
    "../../x",
    "{}",
    "[1]",
    "{",
    "NaN",
    "é\u202e<script>",
    "`;'\"\\",
    "run-1",
    "sequence in 16",
)
WHOLE = (
    0,
    1,
    -1,
    2,
    3,
    2**31 - 1,
    -(2**31),
    2**53 - 1,
    2**53,
    2**63 - 1,
    -(2**63),
    1_767_225_600_000_000,
)
REAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf)
GOOD = {
    "name": ("", "run-1", "run-2"),
    "json": ("", "{}", "[]", "3", "null", '{"a": NaN}'),
    "geometry": ("", "sequence in 16", "conv1d k5 s2 p2 d1 g1 in 40"),
}


def examples() -> list[dict[str, Any]]:
    """A datum of each record, as the examples have it."""
    found = []
    for record in RECORDS:
        path = max(
            EXAMPLES.glob(f"{record.NAME}-*.avro"), key=lambda one: int(one.stem.rpartition("-")[2])
        )
        with path.open("rb") as file:
            (datum,) = fastavro.reader(file, return_record_name=False)
        found.append(decode(frame(_plain(datum), current(record))).to_avro())
    return found


def messages(count: int, seed: int) -> Iterator[Received]:
    """So many messages, over all topics, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311  # data for a test
    bases = list(zip(RECORDS, examples(), strict=True))
    topics = [*TOPICS]
    for offset in range(count):
        record, datum = draw.choice(bases)
        value = (
            extreme(record, datum, draw)
            if draw.random() < 0.6
            else broken(frame(datum, current(record)), draw)
        )
        topic = record.TOPIC if draw.random() < 0.97 else draw.choice(topics)
        yield Received(
            topic, draw.randrange(4), offset, key_of(value, draw), value, (), 1_767_225_600_000_000
        )


def key_of(value: bytes, draw: random.Random) -> bytes | None:
    """Mostly the key that the message should have, where it says one."""
    if draw.random() < 0.03:
        return draw.choice([None, b"", b"k", b"\xff\xfe", b"x" * 5_000])
    try:
        event = decode(value)
    except Exception:  # noqa: BLE001  # it has none
        return b"k"
    return str(getattr(event, event.KEY)).encode()


def broken(value: bytes, draw: random.Random) -> bytes:
    """The bytes of a message, changed in one to three places."""
    changed = bytearray(value)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(7):
            case 0:
                del changed[at:]
            case 1:
                changed[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 2:
                changed[at:at] = b"\xfe\xff\xff\xff\x0f"  # a length of 2 GiB
            case 3:
                changed += draw.randbytes(draw.randrange(1, 300))
            case 4:
                return draw.choice(
                    [b"", b"\0", b"\0\0\0\0\1abc", b"{}", b"\1" * 200, draw.randbytes(64)]
                )
            case _:
                if changed:
                    changed[at % len(changed)] = draw.randrange(256)
    return bytes(changed)


def extreme(record: type[Event], datum: dict[str, Any], draw: random.Random) -> bytes:
    """A message that keeps to its schema, with one to all fields at the edges.

    Most keep to their bounds too.
    """
    within = draw.random() < 0.8
    bounds = {bound.field: bound for bound in record.BOUNDS}
    changed = dict(datum)
    for field in draw.sample(sorted(changed), draw.randrange(1, min(8, len(changed)) + 1)):
        changed[field] = _edge(changed[field], bounds.get(field), draw, within=within)
    return frame(_plain(changed), current(record))


def _edge(value: Any, bound: Bound | None, draw: random.Random, *, within: bool) -> Any:
    match value:
        case bool() | bytes() | None:
            return value
        case int() | float():
            return _number(value, bound, draw, within=within)
        case str():
            if value.isupper():
                return value  # a symbol of an enum
            return draw.choice(GOOD[bound.format] if within and bound and bound.format else TEXTS)
        case list() | tuple():
            return (
                [
                    _edge(draw.choice(value), bound, draw, within=within)
                    for _ in range(draw.choice([0, 1, 2, 40]))
                ]
                if value
                else []
            )
        case dict():
            return {
                name: _edge(one, None, draw, within=within) if draw.random() < 0.3 else one
                for name, one in value.items()
            }
    return {
        name: _edge(one, _of(value, name), draw, within=within) if draw.random() < 0.3 else one
        for name, one in vars(value).items()
    }


def _of(value: Any, name: str) -> Bound | None:
    return next((bound for bound in value.BOUNDS if bound.field == name), None)


def _number(value: float, bound: Bound | None, draw: random.Random, *, within: bool) -> float:
    edges: tuple[float, ...] = WHOLE if isinstance(value, int) else REAL
    if within and bound is not None and bound.minimum is not None:
        least, most = bound.minimum, bound.maximum
        edges = tuple(
            one
            for one in edges
            if least <= one
            and (most is None or one <= most)
            and (not bound.finite or math.isfinite(one))
        )
    return draw.choice(edges or (value,))


def _plain(value: Any) -> Any:
    """A datum of plain values, as Avro's writer takes it."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "to_avro"):
        return _plain(value.to_avro())
    if hasattr(value, "timestamp"):
        return 1_767_225_600_000_000
    return str(value) if value.__class__.__name__ == "UUID" else value
