"""Events of runs out of the history's tables, as records: the history keeps every field of every
event, so they come back as they were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from esper.bounded.names import is_run_id
from esper.events import Event
from esper.events.schemas import current
from esper.history.queries import QuerySource
from esper.history.tables.ddl import quote, snake

_PLAIN: Final = {
    # Python's JSON holds 64 bits exactly; NaN and infinity are no JSON unless quoted
    "output_format_json_quote_64bit_integers": "0",
    "output_format_json_quote_denormals": "1",
    "output_format_json_named_tuples_as_objects": "1",
}
_PLACE: Final = "_topic_id, _partition, _offset"
Place = tuple[str, int, int]
"""Where a message stands on Kafka: topic id, partition, offset."""


def stored(
    history: QuerySource, record: type[Event], rest: str, parameters: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The messages of one record as rows and events.

    Args:
        history: What is asked.
        record: Which events.
        rest: What stands behind FROM and the table, in SQL of Esper's own.
        parameters: Its parameters, as `QuerySource.rows` takes them.

    Raises:
        UsageError, UnavailableError: as `QuerySource.ask` does.
    """
    columns = ", ".join(
        _column(field["name"], field["type"]) for field in current(record).schema["fields"]
    )
    query = f"SELECT {_PLACE}, {columns} FROM raw_{snake(record.NAME)} {rest}"  # noqa: S608  # names from the schemas
    for line in history.ask(query, "JSONEachRow", {**_PLAIN, **parameters}).splitlines():
        row = json.loads(line, parse_int=_number)
        yield row, event_in(record, row)


def placed(
    history: QuerySource, record: type[Event], condition: str, parameters: Mapping[str, str]
) -> Iterator[tuple[Place, Event]]:
    """The messages of one record for which a condition of SQL holds, each with its place.

    A message that the history has taken twice is given once; two messages with one id are both
    given. Raises as `stored` does.
    """
    rest = f"WHERE {condition} LIMIT 1 BY {_PLACE}"
    for row, event in stored(history, record, rest, parameters):
        yield (row["_topic_id"], row["_partition"], row["_offset"]), event


def event_in(record: type[Event], row: Mapping[str, Any]) -> Event:
    """The event in a row of its table as JSON has it, with NaN and infinity quoted."""
    fields, inner = _form(record)  # type: ignore[arg-type]  # mypy takes the hash of instances
    made: Any = record
    event: Event = made.from_avro(
        {field["name"]: _value(field["type"], row[field["name"]], inner) for field in fields}
    )
    return event


@cache
def _form(record: type[Event]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The fields of a record, and the records that are defined inside them."""
    fields, inner = current(record).schema["fields"], dict[str, Any]()
    _remember(fields, inner)
    return fields, inner


@dataclass(frozen=True, slots=True)
class RunEvents:
    """What the history has of a run.

    Attributes:
        events: Each once, in the order in which they occurred.
        cut: Names of the records of which it may have more, older ones.
    """

    events: list[Event]
    cut: tuple[str, ...]


def events_of(
    history: QuerySource, records: Sequence[type[Event]], runs: Sequence[str], *, most: int
) -> dict[str, RunEvents]:
    """What the history has of some runs.

    Of each record the `most` latest of a run. Raises as `stored` does.
    """
    names = ", ".join(f"'{run}'" for run in runs if is_run_id(run))
    rest = (
        "WHERE run_id IN {runs:Array(String)} ORDER BY occurred_at DESC, _offset DESC "
        f"LIMIT {most:d} BY run_id"
    )
    # of an event that was sent again, the first copy: a resumed run re-executes steps
    firsts: dict[str, dict[str, Event]] = {run: {} for run in runs}
    cut: dict[str, tuple[str, ...]] = dict.fromkeys(runs, ())
    for record in records:
        rows = list(stored(history, record, rest, {"param_runs": f"[{names}]"}))
        for _, event in reversed(rows):
            firsts[event.run_id].setdefault(event.event_id, event)
        read = Counter(event.run_id for _, event in rows)
        cut |= {run: (*cut[run], record.NAME) for run, count in read.items() if count >= most}
    return {
        run: RunEvents(sorted(events.values(), key=lambda event: event.occurred_at), cut[run])
        for run, events in firsts.items()
    }


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
