"""A run's journal out of the history's tables: the history keeps every field of every event, so
events and messages come back as they were.

What others wrote under the run's key stands in the tables as on Kafka;
`esper.oona.durable.authentic` tells it from the journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import RECORDS
from esper.events.schemas import current
from esper.events.seals import TRAINER, Trust, fault, restored
from esper.history.queries import QuerySource
from esper.history.tables.ddl import quote, snake
from esper.oona.bus.port import Received
from esper.oona.durable.authentic import JOURNAL

_NEVER_US: Final = 1 << 62
_PLAIN: Final = {
    # Python's JSON holds 64 bits exactly; NaN and infinity are no JSON unless quoted
    "output_format_json_quote_64bit_integers": "0",
    "output_format_json_quote_denormals": "1",
    "output_format_json_named_tuples_as_objects": "1",
}


def messages_of(history: QuerySource, run_id: str, trust: Trust) -> Iterator[Received]:
    """The messages under a run's key in the order in which they stand on Kafka.

    The history has no times of the broker's. Where the run begins with a signed event, no message
    counts as older than signatures.

    Raises:
        UsageError: the history has no such run.
        UnavailableError: the history does not answer.
    """
    entries = [
        entry
        for record in RECORDS
        if issubclass(record, JournalEvent)
        for entry in _events(history, record, run_id)
    ]
    if not entries:
        raise UsageError(
            f"There is no run {run_id} in the history; `esper runs` lists those that there are."
        )
    keys = trust.keys(TRAINER, run_id)
    signed = any(
        event.sequence == 0 and not fault(event, value, keys or (event.signer,))
        for _, event, value in entries
        if event.signer
    )
    key, at_us = run_id.encode(), _NEVER_US if signed else 0
    for (_, partition, offset), _, value in sorted(entries, key=lambda entry: entry[0]):
        yield Received(JOURNAL, partition, offset, key, value, (), at_us)


def _events(
    history: QuerySource, record: type[JournalEvent], run_id: str
) -> Iterator[tuple[tuple[str, int, int], JournalEvent, bytes]]:
    """The events of one record with place and message.

    A message that the history has taken twice is given once; two messages with one id are both
    given.
    """
    fields = current(record).schema["fields"]
    types = {field["name"]: field["type"] for field in fields}
    known: dict[str, Any] = {}
    _remember(fields, known)
    columns = ", ".join(_column(name, avro) for name, avro in types.items())
    query = (
        f"SELECT _topic_id, _partition, _offset, {columns} FROM raw_{snake(record.NAME)} "  # noqa: S608  # names from the schemas
        f"WHERE run_id = {{run:String}} "
        "LIMIT 1 BY _topic_id, _partition, _offset"
    )
    answer = history.ask(query, "JSONEachRow", {**_PLAIN, "param_run": run_id})
    made: Any = record
    for line in answer.splitlines():
        row = json.loads(line, parse_int=_number)
        event = made.from_avro({name: _value(types[name], row[name], known) for name in types})
        yield (row["_topic_id"], row["_partition"], row["_offset"]), event, restored(event).value


def _column(name: str, avro: Any) -> str:
    timed = isinstance(avro, dict) and avro.get("logicalType") == "timestamp-micros"
    return f"toUnixTimestamp64Micro({quote(name)}) AS {quote(name)}" if timed else quote(name)


def _number(text: str) -> int | float:
    """ClickHouse writes whole floats as integers, and minus zero as -0."""
    return -0.0 if text == "-0" else int(text)


def _remember(fields: list[dict[str, Any]], known: dict[str, Any]) -> None:
    """Note the records that are defined inside others."""
    for field in fields:
        inner = field["type"]
        while isinstance(inner, dict) and inner["type"] == "array":
            inner = inner["items"]
        if isinstance(inner, dict) and inner["type"] == "record":
            known[inner["name"]] = inner
            _remember(inner["fields"], known)


def _value(avro: Any, value: Any, known: dict[str, Any]) -> Any:
    """A JSON value as fastavro would have read it: doubles are floats, whatever they look like."""
    if isinstance(avro, list):
        return (
            None
            if value is None
            else _value(next(item for item in avro if item != "null"), value, known)
        )
    kind = avro["type"] if isinstance(avro, dict) else avro
    if kind in ("double", "float"):
        return float(value)
    if kind == "array":
        return [_value(avro["items"], item, known) for item in value]
    if kind == "map":
        return {name: _value(avro["values"], item, known) for name, item in value.items()}
    record = avro if kind == "record" else known.get(str(kind).rpartition(".")[2])
    if record is not None:
        return {
            field["name"]: _value(field["type"], value[field["name"]], known)
            for field in record["fields"]
        }
    return value
