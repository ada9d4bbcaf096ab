"""ClickHouse tables of the record types, generated from their Avro schemas: one raw table and one
view a record.

A raw table has one row for each committed message; the view of the same name without `raw_` shows
each event once. When a schema gains a field, a migration adds the column. When a record nested in
an array gains one, the array's column is kept under the name `_<field>_<n>` for messages of the
older schema and the field becomes a new column that is computed from it;
`input_format_avro_allow_missing_fields` alone does not reach into nested records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from esper.errors import BuildError
from esper.events.envelope import Event, JournalEvent
from esper.events.records import RECORDS
from esper.events.schemas import WireSchema, wire_schemas

END: Final = 0x5EED5
"""What the container puts after each body: a body that does not match its schema shifts it, and the
table's constraint refuses the block.
"""

_PRIMITIVE: Final = {
    "boolean": "Bool",
    "int": "Int32",
    "long": "Int64",
    "float": "Float32",
    "double": "Float64",
    "string": "String",
    "bytes": "String",
}
_LOGICAL: Final = {
    "uuid": "UUID",
    "timestamp-micros": "DateTime64(6, 'UTC')",
    "timestamp-millis": "DateTime64(3, 'UTC')",
}
_FEW_VALUES: Final = frozenset(
    {
        "run_id",
        "sender_id",
        "layer",
        "family",
        "recipe",
        "topic",
        "process",
        "policy_version",
        "source_topic",
    }
)
_DEDUPLICATION_WINDOW: Final = 1_000

HEAD: Final = (
    (
        "_topic_id",
        "LowCardinality(String)",
        "Kafka's id of the topic: a topic that is deleted and made again has another",
    ),
    ("_partition", "Int32", "Kafka partition"),
    ("_offset", "Int64", "Kafka offset"),
)
TAIL: Final = ("_end", "Int32", "Constant that shows that the message matched its schema")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a raw table.

    `avro` is the field's type, `default` an SQL expression or empty, `shown` whether the view has
    it.
    """

    name: str
    type: str
    comment: str
    avro: Any
    default: str = ""
    shown: bool = True

    @property
    def sql(self) -> str:
        """The column as CREATE TABLE and ALTER TABLE write it."""
        return (
            f"{quote(self.name)} "
            f"{self.type}{f' DEFAULT {self.default}' if self.default else ''} COMMENT "
            f"{literal(self.comment)}"
        )


@dataclass(frozen=True, slots=True)
class Migration:
    """One statement that brings the history's schema forward. It may be run twice without harm."""

    name: str
    statement: str


@dataclass(frozen=True, slots=True)
class RecordTable:
    """The raw table of one record: its columns now, where each schema id's fields go, and the
    migrations that lead here.
    """

    record: type[Event]
    comment: str
    columns: tuple[Column, ...]
    placement: dict[int, tuple[tuple[str, str], ...]]
    migrations: tuple[Migration, ...]

    @property
    def view(self) -> str:
        """Name of the view that shows each event once."""
        return snake(self.record.NAME)

    @property
    def name(self) -> str:
        """Name of the raw table."""
        return f"raw_{self.view}"


def snake(name: str) -> str:
    """`SeedTransitioned` as `seed_transitioned`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def quote(identifier: str) -> str:
    """An SQL identifier."""
    return f"`{identifier}`"


def literal(value: Any) -> str:
    """An Avro default or a text as an SQL literal.

    Raises:
        BuildError: there is no literal for it.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if value == []:
        return "[]"
    if value == {}:
        return "map()"
    raise BuildError(
        f"No SQL literal for the Avro default {value!r}; give the field a plain default or "
        "an empty array or map."
    )


def column_type(avro: Any, name: str = "", named: dict[str, Any] | None = None) -> str:
    """The ClickHouse type of an Avro type.

    `name` is the field's, `named` holds the types defined so far.

    Raises:
        BuildError: the type has no counterpart.
    """
    known = {} if named is None else named
    if isinstance(avro, list):
        branches = [branch for branch in avro if branch != "null"]
        if len(branches) != 1 or len(avro) != len(branches) + 1:
            raise BuildError(
                f"Field {name} is a union of more than null and one type; ClickHouse has "
                "no column for it."
            )
        return f"Nullable({column_type(branches[0], '', known)})"
    if isinstance(avro, str):
        if avro in _PRIMITIVE:
            return (
                "LowCardinality(String)"
                if avro == "string" and name in _FEW_VALUES
                else _PRIMITIVE[avro]
            )
        return column_type(_resolve(avro, known), name, known)
    kind = avro["type"]
    if kind == "array":
        return f"Array({column_type(avro['items'], '', known)})"
    if kind == "map":
        return f"Map(String, {column_type(avro['values'], '', known)})"
    if kind == "enum":
        _remember(avro, known)
        return "LowCardinality(String)"
    if kind == "record":
        _remember(avro, known)
        parts = [
            f"{quote(field['name'])} {column_type(field['type'], '', known)}"
            for field in avro["fields"]
        ]
        return f"Tuple({', '.join(parts)})"
    return _LOGICAL.get(avro.get("logicalType", "")) or column_type(kind, name, known)


def _remember(avro: dict[str, Any], known: dict[str, Any]) -> None:
    known[avro["name"].rpartition(".")[2]] = avro


def _resolve(name: str, known: dict[str, Any]) -> Any:
    try:
        return known[name.rpartition(".")[2]]
    except KeyError:
        raise BuildError(f"The Avro type {name} is not defined before it is used.") from None


def named_types(schema: dict[str, Any]) -> dict[str, Any]:
    """Every enum and record inside a schema, by its name without namespace."""
    types: dict[str, Any] = {}
    for field in schema["fields"]:
        column_type(field["type"], field["name"], types)
    return types


def order_by(record: type[Event], schema: dict[str, Any]) -> tuple[str, ...]:
    """The sorting key: the topic's key first, then what queries of one run go by.

    Of the first schema, because it never changes.
    """
    fields = [field["name"] for field in schema["fields"]]
    if issubclass(record, JournalEvent):
        # A journal is read whole and in order, so its rows lie in that order.
        return (record.KEY, "sequence")
    if "step" in fields:
        return (record.KEY, *(name for name in ("layer", "seed") if name in fields), "step")
    return (record.KEY, "occurred_at")


@cache
def record_tables() -> dict[str, RecordTable]:
    """The table of every record, by the record's name."""
    versions: dict[str, list[WireSchema]] = {record.NAME: [] for record in RECORDS}
    for wire in wire_schemas().values():
        versions[wire.record.NAME].append(wire)
    return {record.NAME: record_table(record, versions[record.NAME]) for record in RECORDS}


def record_table(record: type[Event], versions: list[WireSchema]) -> RecordTable:
    """The table of `record`, given all versions of its schema, oldest first."""
    table = f"raw_{snake(record.NAME)}"
    # Tables of before must come to the same columns as new ones, so new ones go through every
    # version too.
    first, *later = versions
    types = named_types(first.schema)
    columns = {field["name"]: _column(field, types) for field in first.schema["fields"]}
    placement = {first.id: tuple((name, name) for name in columns)}
    migrations = [Migration(f"{table}.1.1", _create(record, first.schema, tuple(columns.values())))]
    for number, wire in enumerate(later, 2):
        statements: list[str] = []
        older, types = types, named_types(wire.schema)
        for field in wire.schema["fields"]:
            statements += _evolve(
                table, columns, placement, _column(field, types), field, (older, types)
            )
        placement[wire.id] = tuple(
            (field["name"], field["name"]) for field in wire.schema["fields"]
        )
        migrations += [
            Migration(f"{table}.{number}.{part}", statement)
            for part, statement in enumerate(statements, 1)
        ]
    comment = _comment(record, versions[-1].schema.get("doc", ""))
    return RecordTable(record, comment, tuple(columns.values()), placement, tuple(migrations))


def _column(field: dict[str, Any], types: dict[str, Any]) -> Column:
    return Column(
        field["name"],
        column_type(field["type"], field["name"], dict(types)),
        field.get("doc", ""),
        field["type"],
    )


def _comment(record: type[Event], doc: str) -> str:
    return f"{doc} (topic {record.TOPIC})"


def _create(record: type[Event], schema: dict[str, Any], columns: tuple[Column, ...]) -> str:
    every = [
        Column(*HEAD[0], None),
        Column(*HEAD[1], None),
        Column(*HEAD[2], None),
        *columns,
        Column(*TAIL, None),
    ]
    rows = [column.sql for column in every]
    # _end differs where a message was longer or shorter than its schema says, so such a row is
    # refused instead of shown wrong.
    rows += ["INDEX _offsets _offset TYPE minmax", f"CONSTRAINT _framed CHECK _end = {END}"]
    keys = ", ".join(quote(name) for name in order_by(record, schema))
    return (
        f"CREATE TABLE IF NOT EXISTS raw_{snake(record.NAME)} (\n    "
        + ",\n    ".join(rows)
        # A block that is inserted again after a crash is dropped by ClickHouse, for so many blocks.
        + f"\n) ENGINE = MergeTree ORDER BY ({keys}) "
        f"SETTINGS non_replicated_deduplication_window = {_DEDUPLICATION_WINDOW} COMMENT "
        f"{literal(_comment(record, schema.get('doc', '')))}"
    )


def _evolve(
    table: str,
    columns: dict[str, Column],
    placement: dict[int, tuple[tuple[str, str], ...]],
    column: Column,
    field: dict[str, Any],
    types: tuple[dict[str, Any], dict[str, Any]],
) -> Iterator[str]:
    """Statements that bring one field to its next version; `columns` and `placement` follow."""
    before = columns.get(column.name)
    if before is None:
        default = "" if _default(field) is None else literal(field["default"])
        columns[column.name] = Column(
            column.name, column.type, column.comment, column.avro, default
        )
        yield f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {columns[column.name].sql}"
    elif before.type != column.type:
        # A type that changes keeps the old column: messages of the older schema go on being
        # inserted there, and the new column computes itself from it.
        number = 1 + sum(name.startswith(f"_{column.name}_") for name in columns)
        kept = f"_{column.name}_{number}"
        expression = converted(quote(kept), before.avro, column.avro, types)
        columns[kept] = Column(
            kept,
            before.type,
            f"{column.name} as older messages have it",
            before.avro,
            before.default,
            shown=False,
        )
        columns[column.name] = Column(
            column.name,
            column.type,
            column.comment,
            column.avro,
            f"CAST({expression}, {literal(column.type)})",
        )
        for schema_id, places in placement.items():
            placement[schema_id] = tuple(
                (name, kept if place == column.name else place) for name, place in places
            )
        yield f"ALTER TABLE {table} RENAME COLUMN IF EXISTS {quote(column.name)} TO {quote(kept)}"
        yield f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {columns[column.name].sql}"
    elif before.comment != column.comment:
        columns[column.name] = Column(
            before.name, before.type, column.comment, column.avro, before.default
        )
        yield f"ALTER TABLE {table} COMMENT COLUMN {quote(column.name)} {literal(column.comment)}"


def converted(
    expression: str,
    old: Any,
    new: Any,
    types: tuple[dict[str, Any], dict[str, Any]],
    depth: int = 0,
) -> str:
    """SQL that turns a value of the Avro type `old` into one of `new`, with the Avro defaults where
    a nested record gained fields.

    Raises:
        BuildError: the change is not an addition of fields to nested records.
    """
    old, new = (
        _resolve(avro, known) if isinstance(avro, str) and avro not in _PRIMITIVE else avro
        for avro, known in zip((old, new), types, strict=True)
    )
    if column_type(old, "", dict(types[0])) == column_type(new, "", dict(types[1])):
        return expression
    kinds = tuple(avro["type"] if isinstance(avro, dict) else avro for avro in (old, new))
    if kinds == ("array", "array"):
        # A name of its own for each depth: an inner lambda would hide the outer one.
        item = f"x{depth}"
        return (
            f"arrayMap({item} -> "
            f"{converted(item, old['items'], new['items'], types, depth + 1)}, {expression})"
        )
    if kinds == ("record", "record"):
        had = {field["name"]: field for field in old["fields"]}
        parts = [
            converted(
                f"tupleElement({expression}, {literal(field['name'])})",
                had[field["name"]]["type"],
                field["type"],
                types,
                depth,
            )
            if field["name"] in had
            else literal(_default(field))
            for field in new["fields"]
        ]
        return f"tuple({', '.join(parts)})"
    raise BuildError(
        f"The history cannot turn {old} into {new}: only new fields with defaults are allowed."
    )


def _default(field: dict[str, Any]) -> Any:
    if "default" not in field:
        raise BuildError(
            f"The new field {field['name']} has no default, so messages of the older "
            "schema could not be stored."
        )
    return field["default"]
