"""Whether a schema may be changed: FULL_TRANSITIVE, so that every version reads what every other
version wrote.

Earlier versions are the writer schemas in the headers of the golden examples, which stay for ever.
Readers are those of the Avro specification, "Schema Resolution", as the Apache implementation
checks them; that a value keeps its unit (its logical type) is checked beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import fastavro
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import make_avsc_object

from esper.events.schemas import without_logical_types


def breaks(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, ...]:
    """Why two versions of a record's schema cannot read each other, a sentence each.

    Empty when they can.
    """
    return tuple(
        sentence
        for reader, writer, direction in (
            (first, second, "the first cannot read the second"),
            (second, first, "the second cannot read the first"),
        )
        for sentence in _unreadable(reader, writer, direction)
    ) + tuple(_changed_units(first, second, str(first["name"])))


def breaks_transitively(versions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Why these versions of one record's schema are not FULL_TRANSITIVE; empty when they are."""
    return tuple(
        f"versions {i + 1} and {j + 1}: {sentence}"
        for i, j in combinations(range(len(versions)), 2)
        for sentence in breaks(versions[i], versions[j])
    )


def versions(schemas: Path, record: str) -> list[dict[str, Any]]:
    """Every version of a record's schema: those of its golden examples in `schemas`/examples, then
    the present one.
    """
    earlier = []
    paths = schemas.joinpath("examples").glob(f"{record}-*.avro")
    # by number: as texts, version 10 comes before version 2
    for path in sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2])):
        with path.open("rb") as file:
            earlier.append(json.loads(fastavro.reader(file).metadata["avro.schema"]))
    return [*earlier, json.loads((schemas / f"{record}.avsc").read_text())]


def check(schemas: Path) -> tuple[str, ...]:
    """What is wrong with the schemas in a folder, all records and all versions.

    Empty when every change was FULL_TRANSITIVE.
    """
    records = sorted(path.stem for path in schemas.glob("*.avsc"))
    return tuple(
        f"{record}, {sentence}"
        for record in records
        for sentence in breaks_transitively(versions(schemas, record))
    )


def _unreadable(
    reader: Mapping[str, Any], writer: Mapping[str, Any], direction: str
) -> Iterator[str]:
    checker: Any = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(
        *(make_avsc_object(without_logical_types(dict(schema))) for schema in (reader, writer))
    )
    if result.compatibility is not SchemaCompatibilityType.compatible:
        places = ", ".join(sorted(map(str, result.locations)))
        yield f"{direction}: {'; '.join(sorted(map(str, result.messages)))} (at {places})"


def _changed_units(first: Any, second: Any, place: str) -> Iterator[str]:
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return
    units = first.get("logicalType"), second.get("logicalType")
    # Avro resolves milliseconds into a field of microseconds without complaint
    if units[0] != units[1]:
        yield f"{place} was {units[0] or 'a plain value'} and is {units[1] or 'a plain value'}"
    if "fields" in first and "fields" in second:
        others = {field["name"]: field["type"] for field in second["fields"]}
        for field in first["fields"]:
            yield from _changed_units(
                field["type"], others.get(field["name"]), f"{place}.{field['name']}"
            )
    for part in ("items", "values", "type"):
        yield from _changed_units(first.get(part), second.get(part), place)
