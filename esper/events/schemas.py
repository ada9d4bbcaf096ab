"""Which record a schema id means, and the schemas themselves.

Ids are derived from the schemas' SHA-256 (`schemas/ids.lock`).
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from fastavro.schema import parse_schema

from esper.errors import PoisonError
from esper.events.envelope import Event
from esper.events.records import RECORDS

BY_NAME: dict[str, type[Event]] = {record.NAME: record for record in RECORDS}


@dataclass(frozen=True, slots=True)
class WireSchema:
    """One version of one record's schema.

    `fingerprint` is the SHA-256 of its parsing canonical form, `parsed` is for fastavro.

    `parsed` leaves logical types out: in Python a timestamp is an integer of microseconds and a
    UUID is a string. `uuids` are the fields of that logical type, nullable ones too.
    """

    record: type[Event]
    id: int
    fingerprint: str
    schema: dict[str, Any]
    parsed: Any
    uuids: tuple[str, ...]

    @property
    def subject(self) -> str:
        """Subject by TopicRecordName."""
        return f"{self.record.TOPIC}-esper.events.{self.record.NAME}"


def without_logical_types(avro: Any) -> Any:
    """The same schema with every logical type left out: the bytes are the same."""
    if isinstance(avro, list):
        return [without_logical_types(branch) for branch in avro]
    if isinstance(avro, dict):
        return {
            key: without_logical_types(value) for key, value in avro.items() if key != "logicalType"
        }
    return avro


@cache
def wire_schemas() -> dict[int, WireSchema]:
    """Every schema that a message may have been written with, current and earlier, by id."""
    text = resources.files("esper.events").joinpath("wire.json").read_text("utf-8")
    by_id: dict[int, WireSchema] = {}
    for name, wire in json.loads(text).items():
        for version in [*wire["earlier"], wire]:
            parsed = parse_schema(
                without_logical_types(copy.deepcopy(version["schema"])), named_schemas={}
            )
            by_id[version["id"]] = WireSchema(
                BY_NAME[name],
                version["id"],
                version["fingerprint"],
                version["schema"],
                parsed,
                _uuids(version["schema"]),
            )
    return by_id


def _uuids(avro: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        field["name"]
        for field in avro["fields"]
        for branch in (field["type"] if isinstance(field["type"], list) else [field["type"]])
        if isinstance(branch, dict) and branch.get("logicalType") == "uuid"
    )


def wire_schema(schema_id: int) -> WireSchema:
    """The schema with this id.

    Raises:
        PoisonError: no record of this version of Esper has it.
    """
    try:
        return wire_schemas()[schema_id]
    except KeyError:
        raise PoisonError(
            f"Schema id {schema_id} is unknown to this version of Esper; upgrade Esper, or "
            "look the id up in the sender's registry."
        ) from None


def current(record: type[Event]) -> WireSchema:
    """The schema that `record` is written with now."""
    return wire_schemas()[record.SCHEMA_ID]
