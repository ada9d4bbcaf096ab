"""Every record goes in by its bytes and comes out by SQL."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.tables.container import container, layout
from esper.history.tables.ddl import record_tables
from esper.oona.bus.port import Received
from tests.unit.history.conftest import example, framed, rows


def shown(name: str) -> str:
    """A SELECT list that writes every field as the datum has it."""
    fields = current(BY_NAME[name]).schema["fields"]
    return ", ".join(expression(field["name"], field["type"]) for field in fields)


def expression(name: str, avro: Any) -> str:
    """How a column is written so that JSON shows the datum's value."""
    if isinstance(avro, dict) and avro.get("logicalType") == "timestamp-micros":
        return f"toUnixTimestamp64Micro({name}) AS {name}"
    return f"base64Encode({name}) AS {name}" if avro == "bytes" else name


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_golden_example_comes_out_as_it_went_in(engine: Engine, name: str) -> None:
    """The bytes of every record's golden example give, in the view, exactly the values of the
    example, with its place on Kafka.
    """
    datum, wire = example(name), current(BY_NAME[name])
    place = layout(wire.id)
    received = Received(wire.record.TOPIC, 3, 1234567890123, b"k", framed(wire, datum), (), 0)
    engine.client.raw_insert(
        place.table.name,
        column_names=list(place.columns),
        insert_block=container(wire.id, "Ab-_0", [received]),
        fmt="Avro",
    )
    [found] = rows(
        engine,
        (
            f"SELECT {shown(name)}, _partition, _offset FROM {place.table.view} WHERE event_id "  # noqa: S608
            f"= '{datum['event_id']}'"
        ),
    )
    assert (found.pop("_partition"), found.pop("_offset")) == (3, 1234567890123)
    assert found == {
        key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for key, value in datum.items()
    }


def test_every_column_of_every_view_says_what_it_is(engine: Engine) -> None:
    """DESCRIBE of a record's view has a comment on each column, and the view one of its own, so
    that the history documents itself.
    """
    names = ", ".join(f"'{table.view}'" for table in record_tables().values())
    assert not rows(
        engine,
        f"SELECT table, name FROM system.columns WHERE table IN ({names}) AND comment = ''",  # noqa: S608
    )
    assert not rows(
        engine,
        f"SELECT name FROM system.tables WHERE name IN ({names}) AND comment = ''",  # noqa: S608
    )
    assert len(rows(engine, f"SELECT name FROM system.tables WHERE name IN ({names})")) == len(  # noqa: S608
        BY_NAME
    )


def test_a_repeated_block_inserts_nothing(engine: Engine) -> None:
    """The same container under the same token a second time leaves the table as it is."""
    wire = current(BY_NAME["TrainingStep"])
    place = layout(wire.id)
    before = rows(engine, "SELECT count() AS n FROM raw_training_step")[0]["n"]
    block = container(
        wire.id,
        "again",
        [
            Received(wire.record.TOPIC, 0, n, b"", framed(wire, example("TrainingStep")), (), 0)
            for n in range(100)
        ],
    )
    for _ in range(2):
        settings = {"insert_deduplication_token": "again:0:1:0-99", "async_insert": 0}
        engine.client.raw_insert(
            place.table.name,
            column_names=list(place.columns),
            insert_block=block,
            fmt="Avro",
            settings=settings,
        )
    assert rows(engine, "SELECT count() AS n FROM raw_training_step")[0]["n"] == before + 100


def test_a_view_shows_an_event_once_and_reads_only_its_run(engine: Engine) -> None:
    """Two messages with one event id are two rows of the raw table and one of the view.

    A condition on run_id reaches the primary key.
    """
    wire = current(BY_NAME["SeedHealth"])
    place = layout(wire.id)
    body = framed(wire, {**example("SeedHealth"), "run_id": "twice"})
    block = container(
        wire.id, "twice", [Received(wire.record.TOPIC, 0, n, b"", body, (), 0) for n in range(2)]
    )
    engine.client.raw_insert(
        place.table.name, column_names=list(place.columns), insert_block=block, fmt="Avro"
    )
    assert rows(engine, "SELECT count() AS n FROM raw_seed_health WHERE run_id = 'twice'") == [
        {"n": 2}
    ]
    assert rows(engine, "SELECT count() AS n FROM seed_health WHERE run_id = 'twice'") == [{"n": 1}]
    plan = "\n".join(
        row["explain"]
        for row in rows(
            engine, "EXPLAIN indexes = 1 SELECT count() FROM seed_health WHERE run_id = 'twice'"
        )
    )
    assert "run_id in ['twice', 'twice']" in plan
