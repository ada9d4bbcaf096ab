"""What the generated records read and write field by field is what fastavro's public functions read
and write.
"""

from __future__ import annotations

import io
import math
import random
import typing
from typing import Any

import fastavro
import pytest

from esper.errors import PoisonError
from esper.events import Event, decode, encode
from esper.events.codec import frame
from esper.events.envelope import Record
from esper.events.ranges import Bound, require
from esper.events.records import RECORDS
from esper.events.schemas import WireSchema, current

TEXTS = [
    "",
    "run-1",
    "00000000-0000-4000-8000-000000000001",
    "ein Kern wächst",
    "種",
    "\0",
    "x" * 200,
]
WHOLE = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, 2**31 - 1, -(2**31)]
LONG = [*WHOLE, 1_767_225_600_000_000, 2**63 - 1, -(2**63)]
REAL = [0.0, -0.0, 0.1, -1e308, 5e-324, float("inf"), float("-inf")]


def value(avro: Any, named: dict[str, Any], draw: random.Random) -> Any:
    """Some value of an Avro type."""
    avro = named.get(avro, avro) if isinstance(avro, str) else avro
    if isinstance(avro, list):
        return value(draw.choice(avro), named, draw)
    kind = avro if isinstance(avro, str) else avro["type"]
    if kind == "record":
        return {field["name"]: value(field["type"], named, draw) for field in avro["fields"]}
    if kind == "array":
        return [value(avro["items"], named, draw) for _ in range(draw.choice([0, 1, 3]))]
    if kind == "map":
        return {
            draw.choice(TEXTS): value(avro["values"], named, draw)
            for _ in range(draw.choice([0, 1, 3]))
        }
    if kind == "enum":
        return draw.choice(avro["symbols"])
    plain: dict[str, list[Any]] = {
        "null": [None],
        "string": TEXTS,
        "int": WHOLE,
        "long": LONG,
        "double": REAL,
        "boolean": [False, True],
        "bytes": [b"", b"\x80\0"],
    }
    return draw.choice(plain[kind])


def within(record: type[Record], datum: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A datum whose fields are what they may be."""
    kinds = typing.get_type_hints(record)
    for bound in record.BOUNDS:
        name = bound.field
        if typing.get_origin(kinds[name]) is tuple and isinstance(
            typing.get_args(kinds[name])[0], type(Record)
        ):
            inner = typing.get_args(kinds[name])[0]
            if issubclass(inner, Record):
                datum[name] = [within(inner, one, draw) for one in datum[name]]
                continue
        datum[name] = (
            [allowed(bound, one, draw) for one in datum[name]]
            if isinstance(datum[name], list)
            else allowed(bound, datum[name], draw)
        )
    return datum


def allowed(bound: Bound, found: Any, draw: random.Random) -> Any:
    """A value that a field may have: the one that was drawn, or one instead."""
    if bound.format:
        return draw.choice(
            {
                "name": ["", "run-1", "A.b_c-9"],
                "json": ["", "{}", "[1]"],
                "geometry": ["", "sequence in 16"],
            }[bound.format]
        )
    if isinstance(found, int | float) and bound.minimum is not None:
        ends = [bound.minimum, bound.minimum if bound.maximum is None else bound.maximum]
        good = bound.minimum <= found <= ends[1] and (not bound.finite or math.isfinite(found))
        return found if good else type(found)(draw.choice(ends))
    return 0.5 if bound.finite and not math.isfinite(found) else found


def data(wire: WireSchema, count: int) -> list[tuple[Event, bytes]]:
    """Random events of a record, each with its message as the public functions make it."""
    draw, found = random.Random(wire.id), []  # noqa: S311  # data for a test
    for _ in range(count):
        datum = value(wire.parsed, wire.parsed["__named_schemas"], draw)
        datum = within(wire.record, datum, draw)
        datum["occurred_at"] = draw.randrange(1 << 52)
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, wire.parsed, datum)
        found.append(
            (
                wire.record(**{**datum, **arrays(plain(wire, buffer.getvalue()))}),
                b"\0" + wire.id.to_bytes(4, "big") + buffer.getvalue(),
            )
        )
    return found


def plain(wire: WireSchema, datum: bytes) -> Event:
    """The event of a datum by the public functions alone."""
    buffer = io.BytesIO(datum)
    record: Any = wire.record
    event: Event = record.from_avro(fastavro.schemaless_reader(buffer, wire.parsed, None))
    if buffer.read(1):
        raise ValueError("something follows the datum")
    return event


def arrays(event: Event) -> dict[str, Any]:
    """The fields that hold several values."""
    return {name: found for name, found in vars(event).items() if isinstance(found, tuple)}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.NAME)
def test_the_bytes_are_fastavros(record: type[Event]) -> None:
    """Events with every kind of value become the bytes that `schemaless_writer` gives, and those
    become the same events.
    """
    wire = current(record)
    for event, message in data(wire, 60):
        assert encode(event).value == message
        found = decode(message)
        assert found == event
        assert hash(found) == hash(event)
        assert vars(found).keys() == vars(event).keys()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.NAME)
def test_changed_bytes_mean_the_same_to_both(record: type[Event]) -> None:
    """A message with a byte changed, cut off or added is refused, or gives the same event as
    `schemaless_reader` gives.

    Only what no writer writes (a union's branch -1, which fastavro takes for the last) may be
    refused although fastavro reads it.
    """
    wire, draw = current(record), random.Random(1)  # noqa: S311  # data for a test
    refused = 0
    for _, message in data(wire, 4):
        for _ in range(150):
            changed, at = bytearray(message[5:]), draw.randrange(len(message) - 5)
            kind = draw.randrange(4)
            if kind == 0:
                del changed[at:]
            elif kind == 1:
                changed.insert(at, draw.randrange(256))
            else:
                changed[at] = draw.choice([0, 1, 2, 127, 128, 255, draw.randrange(256)])
            try:
                expected: Event | None = plain(wire, bytes(changed))
                require(
                    record.NAME, record.BOUNDS, vars(expected)
                )  # each field by itself; the record asks in one expression
            except Exception:  # noqa: BLE001  # whatever it is, it is no event
                expected = None
            try:
                found: Event | None = decode(message[:5] + bytes(changed))
            except PoisonError:
                found, refused = None, refused + 1
            written = b"" if expected is None else frame(expected.to_avro(), wire)[5:]
            assert repr(found) == repr(expected) or (found is None and written != changed)
    assert refused > 25
