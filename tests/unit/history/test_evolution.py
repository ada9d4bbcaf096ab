"""A schema that gains fields, at the top and deep inside: one table takes old and new messages, and
no row changes its meaning.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import parse_schema

from esper.clock import SystemClock
from esper.errors import BuildError, UsageError
from esper.events.schemas import BY_NAME, WireSchema, current, wire_schemas, without_logical_types
from esper.history.confined.engine import open_engine
from esper.history.sink import Sink
from esper.history.tables.container import header, layout
from esper.history.tables.ddl import record_table, record_tables
from esper.history.tables.migrations import migrate
from esper.oona.bus.memory import MemoryBus
from tests.unit.history.conftest import example, message, rows
from tests.unit.history.test_sink import caught_up
from tests.waiting import until

NAME = "FieldReport"


def clear() -> None:
    """Forget what was generated from the registry."""
    for cached in (record_tables, layout, header):
        cached.cache_clear()


def version(schema_id: int, schema: dict[str, Any]) -> WireSchema:
    """A version of the record's schema."""
    return WireSchema(
        BY_NAME[NAME],
        schema_id,
        "f" * 64,
        schema,
        parse_schema(without_logical_types(copy.deepcopy(schema)), named_schemas={}),
        ("event_id",),
    )


def without(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    """The schema without fields of these names, at the top or inside."""

    def strip(avro: Any) -> Any:
        if isinstance(avro, list):
            return [strip(branch) for branch in avro]
        if not isinstance(avro, dict):
            return avro
        stripped = {key: strip(value) for key, value in avro.items()}
        if "fields" in stripped:
            stripped["fields"] = [
                field for field in stripped["fields"] if field["name"] not in names
            ]
        return stripped

    found: dict[str, Any] = strip(schema)
    return found


def with_defaults(schema: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The schema with defaults for fields of these names, at the top or inside."""

    def add(avro: Any) -> Any:
        if isinstance(avro, list):
            return [add(branch) for branch in avro]
        if not isinstance(avro, dict):
            return avro
        added = {key: add(value) for key, value in avro.items()}
        return (
            {**added, "default": defaults[avro["name"]]}
            if avro.get("name") in defaults and "type" in avro
            else added
        )

    found: dict[str, Any] = add(schema)
    return found


@pytest.fixture
def registry() -> Iterator[Callable[[list[WireSchema]], None]]:
    """Replaces all versions of the record's schema, and puts the true ones back."""
    true = dict(wire_schemas())

    def put(versions: list[WireSchema]) -> None:
        wires = wire_schemas()
        for schema_id in [one.id for one in wires.values() if one.record.NAME == NAME]:
            del wires[schema_id]
        wires.update({one.id: one for one in versions})
        clear()

    yield put
    wire_schemas().clear()
    wire_schemas().update(true)
    clear()


def test_old_and_new_messages_interleave_in_one_table(
    tmp_path: Path, registry: Callable[[list[WireSchema]], None]
) -> None:
    """Messages of three versions, alternating in one block, are one row each.

    What a version lacks has its Avro default, also in nested records.

    Rows written before the columns changed read the same as those of old messages that came after,
    and merges keep them so.
    """
    schema = with_defaults(
        current(BY_NAME[NAME]).schema, {"run_seed": 7, "kind": "none", "parameter_budget": -15}
    )
    now = version(BY_NAME[NAME].SCHEMA_ID, schema)
    middle = version(2, without(schema, "kind"))
    first = version(1, without(schema, "kind", "parameter_budget", "run_seed"))
    datum = example(NAME)
    assert datum["layers"]
    engine = open_engine(tmp_path / "history", "")
    bus = MemoryBus()

    def sink(sent: list[WireSchema]) -> None:
        registry([first] if sent == [first] else [first, middle, now])
        migrate(engine.client, SystemClock())
        with bus.producer(sender_id="t") as producer:
            for number, wire in enumerate(sent):
                producer.send_message(
                    message(
                        wire,
                        {
                            **datum,
                            "event_id": f"00000000-0000-8000-8000-{len(sent):06d}{number:06d}",
                        },
                    )
                )
        stop, taker = threading.Event(), Sink(engine.client, bus, SystemClock())
        thread = threading.Thread(target=taker.run, args=(stop,))
        thread.start()
        until(lambda: caught_up(taker, bus))
        stop.set()
        thread.join()

    def shown() -> list[dict[str, Any]]:
        return rows(
            engine,
            (
                "SELECT _offset AS n, run_seed AS s, layers.parameter_budget AS b, layers.kind "
                "AS k FROM field_report ORDER BY _offset"
            ),
        )

    try:
        sink([first])
        order = [first, middle, now, first, now, middle, first]
        sink(order)
        layers = datum["layers"]
        given = {
            "s": datum["run_seed"],
            "b": [each["parameter_budget"] for each in layers],
            "k": [each["kind"] for each in layers],
        }
        lacking = {"s": 7, "b": [-15 for _ in layers], "k": ["none" for _ in layers]}
        lacks: dict[int, tuple[str, ...]] = {1: ("s", "b", "k"), 2: ("k",), now.id: ()}
        wanted = [
            {
                "n": place,
                **{key: (lacking if key in lacks[wire.id] else given)[key] for key in given},
            }
            for place, wire in enumerate([first, *order])
        ]
        assert shown() == wanted
        engine.client.command("OPTIMIZE TABLE raw_field_report FINAL")
        assert shown() == wanted
        assert migrate(engine.client, SystemClock()) == 0
        registry([first])
        with pytest.raises(UsageError, match="newer Esper"):
            migrate(engine.client, SystemClock())
    finally:
        engine.close()


def test_a_change_that_is_no_addition_is_refused_when_the_tables_are_made() -> None:
    """A new nested field without a default, or a changed type, has no meaning for old messages:
    building the tables raises, naming the field.
    """
    schema = current(BY_NAME[NAME]).schema
    now = version(9, schema)
    with pytest.raises(BuildError, match="kind"):
        record_table(BY_NAME[NAME], [version(1, without(schema, "kind")), now])
    text = copy.deepcopy(schema)
    next(field for field in text["fields"] if field["name"] == "run_seed")["type"] = "string"
    with pytest.raises(BuildError, match="only new fields"):
        record_table(BY_NAME[NAME], [version(1, text), now])
