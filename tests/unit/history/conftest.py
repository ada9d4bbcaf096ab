"""One chDB a module: a process can have only one open, and making its tables takes a second."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro import schemaless_reader, schemaless_writer

from esper.clock import SystemClock
from esper.events.codec import Message
from esper.events.schemas import BY_NAME, WireSchema, current
from esper.history.confined.engine import Engine, open_engine
from esper.history.tables.migrations import migrate
from esper.oona.bus.memory import MemoryBus

EXAMPLES = Path(__file__).parents[3] / "schemas" / "examples"
_ids = count(1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A history in chDB with all its tables, empty."""
    opened = open_engine(tmp_path_factory.mktemp("history") / "history", "")
    migrate(opened.client, SystemClock())
    yield opened
    opened.close()


class NamedBus(MemoryBus):
    """A bus in memory whose topics have ids of their own, as those of another Kafka would."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def topic_ids(self) -> dict[str, str]:
        """As the port says."""
        return {topic: f"{self.name}-{topic}" for topic in super().topic_ids()}


@pytest.fixture
def bus(request: pytest.FixtureRequest) -> NamedBus:
    """A bus that the history of this module has not met."""
    return NamedBus(request.node.nodeid)


def example(name: str) -> dict[str, Any]:
    """The newest golden datum of a record, as the wire has it (timestamps are integers, UUIDs are
    strings), with an event id that nobody had before.

    Tests of a module share an engine, whose views show an event id once: two events that had the
    same one would hide each other.
    """
    newest = max(
        EXAMPLES.glob(f"{name}-*.avro"), key=lambda path: int(path.stem.rpartition("-")[2])
    )
    with newest.open("rb") as file:
        block: Any = next(iter(fastavro.block_reader(file)))
    found = schemaless_reader(block.bytes_, current(BY_NAME[name]).parsed, None)
    assert isinstance(found, dict)
    return {**found, "event_id": f"00000000-0000-8000-8000-{next(_ids):012d}"}


def framed(wire: WireSchema, datum: dict[str, Any]) -> bytes:
    """A datum as a message body of this schema."""
    buffer = io.BytesIO()
    schemaless_writer(buffer, wire.parsed, datum)
    return b"\0" + wire.id.to_bytes(4, "big") + buffer.getvalue()


def message(wire: WireSchema, datum: dict[str, Any], key: str = "run") -> Message:
    """A datum as a message on its topic."""
    return Message(wire.record.TOPIC, key.encode(), framed(wire, datum), ())


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    """The result of a query."""
    answer = engine.answer(
        sql,
        default_format="JSONEachRow",
        settings={"output_format_json_quote_64bit_integers": "0"},
        parameters={},
    )
    return [json.loads(line) for line in answer.body.splitlines()]
