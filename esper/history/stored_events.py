"""Events of runs out of the history's tables, as records: the history keeps every field of every
event, so they come back as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    fields = current(record).schema["fields"]
    types = {field["name"]: field["type"] for field in fields}
    known: dict[str, Any] = {}
    _remember(fields, known)
    columns = ", ".join(_column(name, avro) for name, avro in types.items())
    query = f"SELECT {_PLACE}, {columns} FROM raw_{snake(record.NAME)} {rest}"  # noqa: S608  # names from the schemas
    for line in history.ask(query, "JSONEachRow", {**_PLAIN, **parameters}).splitlines():
        row = json.loads(line, parse_int=_number)
        event = record.from_avro({name: _value(types[name], row[name], known) for name in types})
        yield row, event


def events_of(
    history: QuerySource, records: Sequence[type[Event]], runs: Sequence[str], *, most: int
) -> dict[str, list[Event]]:
    """What the history has of some runs, each event once, in the order in which they occurred.

    Of each record the `most` latest of a run. Raises as `stored` does.
    """
    names = ", ".join(f"'{run}'" for run in runs if is_run_id(run))
    rest = (
        "WHERE run_id IN {runs:Array(String)} ORDER BY occurred_at DESC, _offset DESC "
        f"LIMIT {most:d} BY run_id"
    )
    # of an event that was sent again, the first copy: a resumed run re-executes steps
    firsts: dict[str, dict[str, Event]] = {run: {} for run in runs}
    for record in records:
        rows = list(stored(history, record, rest, {"param_runs": f"[{names}]"}))
        for _, event in reversed(rows):
            firsts[event.run_id].setdefault(event.event_id, event)
    return {
        run: sorted(events.values(), key=lambda event: event.occurred_at)
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
