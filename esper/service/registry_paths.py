"""The schema registry's REST paths, read only, as Confluent's clients ask them: the schemas are the
committed ones, their ids stand in frames.

Source: Confluent Schema Registry API reference. Subjects are named by TopicRecordName.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from fastavro.schema import (
    SchemaParseException,
    UnknownType,
    parse_schema,
    to_parsing_canonical_form,
)

from esper.events.schemas import WireSchema, wire_schemas
from esper.service.checks.callers import requires

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
READING: Final = frozenset({("POST", "/subjects/{subject}")})
"""A look-up by POST, which changes nothing."""

_NO_SUBJECT: Final = 40401
_NO_VERSION: Final = 40402
_NO_SCHEMA: Final = 40403
_BAD_VERSION: Final = 42202
_BAD_SCHEMA: Final = 42201


class RegistryJSON(JSONResponse):
    """JSON under the registry's media type."""

    media_type = MEDIA_TYPE


def router() -> APIRouter:
    """The routes, for viewers."""
    routes = APIRouter(
        tags=["schemas"], dependencies=[requires("viewer")], default_response_class=RegistryJSON
    )
    subjects = _subjects()
    places = {
        wire.id: (wire, number)
        for versions in subjects.values()
        for number, wire in versions.items()
    }

    @routes.get("/")
    async def root() -> dict[str, str]:
        """Nothing: clients ask whether a registry is here."""
        return {}

    @routes.get("/schemas/types")
    async def types() -> list[str]:
        """Kinds of schemas."""
        return ["AVRO"]

    @routes.get("/schemas/ids/{schema_id}", response_model=None)
    async def by_id(schema_id: int) -> Any:
        """The schema that an id in a frame means."""
        return (
            {"schema": json.dumps(places[schema_id][0].schema)}
            if schema_id in places
            else _no_schema()
        )

    @routes.get("/schemas/ids/{schema_id}/schema", response_model=None)
    async def text_by_id(schema_id: int) -> Any:
        """The same, as the schema itself."""
        return places[schema_id][0].schema if schema_id in places else _no_schema()

    @routes.get("/schemas/ids/{schema_id}/subjects", response_model=None)
    async def subjects_of(schema_id: int) -> Any:
        """Subjects that have the schema."""
        return [places[schema_id][0].subject] if schema_id in places else _no_schema()

    @routes.get("/schemas/ids/{schema_id}/versions", response_model=None)
    async def versions_of(schema_id: int) -> Any:
        """Subject and version of the schema."""
        if schema_id not in places:
            return _no_schema()
        wire, number = places[schema_id]
        return [{"subject": wire.subject, "version": number}]

    @routes.get("/subjects")
    async def names(subject_prefix: str = "") -> list[str]:
        """Every subject."""
        return sorted(name for name in subjects if name.startswith(subject_prefix))

    @routes.get("/subjects/{subject}/versions", response_model=None)
    async def versions(subject: str) -> Any:
        """Versions of a subject, from 1."""
        return list(subjects[subject]) if subject in subjects else _no_subject(subject)

    @routes.get("/subjects/{subject}/versions/{version}", response_model=None)
    async def by_version(subject: str, version: str) -> Any:
        """One version of a subject; `latest` is the one that is written now."""
        entry = _version(subjects, subject, version)
        return _described(*entry) if isinstance(entry, tuple) else entry

    @routes.get("/subjects/{subject}/versions/{version}/schema", response_model=None)
    async def text_by_version(subject: str, version: str) -> Any:
        """The same, as the schema itself."""
        entry = _version(subjects, subject, version)
        return entry[0].schema if isinstance(entry, tuple) else entry

    @routes.post("/subjects/{subject}", response_model=None)
    async def look_up(
        subject: str,
        wanted: Annotated[dict[str, Any], Body(examples=[{"schema": '{"type":"string"}'}])],
    ) -> Any:
        """Id and version of a schema under a subject, if it is there. Changes nothing."""
        if subject not in subjects:
            return _no_subject(subject)
        try:
            # canonical: clients send the same schema with other spaces, order or documentation
            fingerprint = hashlib.sha256(
                to_parsing_canonical_form(parse_schema(json.loads(wanted["schema"]))).encode()
            ).hexdigest()
        except (KeyError, ValueError, TypeError, SchemaParseException, UnknownType):
            return _refused(
                422, _BAD_SCHEMA, "The body's member `schema` is no Avro schema as a JSON string."
            )
        registered = next(
            (
                (wire, number)
                for number, wire in subjects[subject].items()
                if wire.fingerprint == fingerprint
            ),
            None,
        )
        return _described(*registered) if registered else _no_schema()

    @routes.get("/config")
    @routes.get("/config/{subject}")
    async def config() -> dict[str, str]:
        """How schemas may change: every version reads every other."""
        return {"compatibilityLevel": "FULL_TRANSITIVE"}

    @routes.get("/mode")
    @routes.get("/mode/{subject}")
    async def mode() -> dict[str, str]:
        """Schemas come with Esper, and cannot be registered here."""
        return {"mode": "READONLY"}

    return routes


def _subjects() -> dict[str, dict[int, WireSchema]]:
    """Versions of each subject, from 1, the current one last."""
    subjects: dict[str, dict[int, WireSchema]] = {}
    for wire in wire_schemas().values():
        versions = subjects.setdefault(wire.subject, {})
        versions[len(versions) + 1] = wire
    return subjects


def _version(
    subjects: Mapping[str, Mapping[int, WireSchema]], subject: str, version: str
) -> tuple[WireSchema, int] | JSONResponse:
    if subject not in subjects:
        return _no_subject(subject)
    known = subjects[subject]
    number = (
        max(known) if version in {"latest", "-1"} else int(version) if version.isdecimal() else 0
    )
    if number < 1:
        return _refused(
            422,
            _BAD_VERSION,
            f"The version {version[:40]!r} is neither a number from 1 nor `latest`.",
        )
    return (
        (known[number], number)
        if number in known
        else _refused(404, _NO_VERSION, f"Version {number} not found.")
    )


def _described(wire: WireSchema, number: int) -> dict[str, Any]:
    return {
        "subject": wire.subject,
        "version": number,
        "id": wire.id,
        "schema": json.dumps(wire.schema),
    }


def _no_subject(subject: str) -> JSONResponse:
    return _refused(404, _NO_SUBJECT, f"Subject {subject[:200]!r} not found.")


def _no_schema() -> JSONResponse:
    return _refused(404, _NO_SCHEMA, "Schema not found.")


def _refused(status: int, code: int, message: str) -> JSONResponse:
    return RegistryJSON({"error_code": code, "message": message}, status)
