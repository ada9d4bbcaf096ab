"""The schema registry's paths, asked by Confluent's own client and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.records import RECORDS, KernelPublished
from esper.events.schemas import WireSchema, current, wire_schemas
from esper.service import create_app, registry_paths
from tests import registryclients
from tests.servicefixtures import Recorder, bearer, served, token

_EXAMPLES = Path(__file__).parents[3] / "schemas" / "examples"
VERSIONS = list(range(1, 1 + len(list(_EXAMPLES.glob("KernelPublished-*.avro")))))
"""One for each schema that the record has had: each has left a golden example."""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, httpx.Client]]:
    """A part that serves the registry's paths."""
    settings, clock = Settings(home=tmp_path_factory.mktemp("registry")), SystemClock()
    app = create_app(
        title="T",
        part="t",
        settings=settings,
        clock=clock,
        ready=dict,
        audit=Recorder(),
        reading=registry_paths.READING,
    )
    app.include_router(registry_paths.router())
    with served(app, settings) as client:
        client.headers.update(bearer(token(settings, clock)))
        yield settings, client


@pytest.fixture(scope="module")
def confluent(registered: tuple[Settings, httpx.Client]) -> Iterator[SchemaRegistryClient]:
    """Confluent's client with a token as its password."""
    settings, client = registered
    with registryclients.client(str(client.base_url), token(settings, SystemClock())) as made:
        yield made


@pytest.mark.parametrize(
    "example",
    registryclients.golden(),
    ids=lambda found: found[0].subject if isinstance(found, tuple) else "",
)
def test_every_record_is_decoded_by_confluents_deserializer(
    confluent: SchemaRegistryClient, example: tuple[WireSchema, bytes, Any]
) -> None:
    """The golden payload of every version of every record, framed with Esper's id, says what was
    written.
    """
    wire, datum, said = example
    assert (
        registryclients.decode(confluent, wire.record.TOPIC, registryclients.framed(wire.id, datum))
        == said
    )


def test_confluents_client_finds_its_way(confluent: SchemaRegistryClient) -> None:
    """Subjects, versions, latest, look-up, compatibility: one subject a record, versions from 1,
    the last is the one that is written.
    """
    assert sorted(confluent.get_subjects()) == sorted(current(record).subject for record in RECORDS)
    subject = current(KernelPublished).subject
    assert confluent.get_versions(subject) == VERSIONS
    latest = confluent.get_latest_version(subject)
    assert (latest.version, latest.schema_id) == (VERSIONS[-1], KernelPublished.SCHEMA_ID)
    assert json.loads(latest.schema.schema_str or "") == current(KernelPublished).schema
    first = confluent.get_version(subject, 1)
    assert first.schema_id != latest.schema_id
    found = confluent.lookup_schema(subject, Schema(first.schema.schema_str, "AVRO"))
    assert (found.schema_id, found.version) == (first.schema_id, 1)
    assert confluent.get_compatibility() == "FULL_TRANSITIVE"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/1", 404, 40403),
        ("/schemas/ids/1/schema", 404, 40403),
        ("/schemas/ids/1/subjects", 404, 40403),
        ("/schemas/ids/1/versions", 404, 40403),
        ("/subjects/nothing/versions", 404, 40401),
        ("/subjects/nothing/versions/1", 404, 40401),
        ("/subjects/audit.events-esper.events.AuditRecorded/versions/9", 404, 40402),
        ("/subjects/audit.events-esper.events.AuditRecorded/versions/9/schema", 404, 40402),
        ("/subjects/audit.events-esper.events.AuditRecorded/versions/0", 422, 42202),
        ("/subjects/audit.events-esper.events.AuditRecorded/versions/first", 422, 42202),
    ],
)
def test_errors_are_confluents(
    registered: tuple[Settings, httpx.Client], path: str, status: int, code: int
) -> None:
    """Its codes, its members, its media type."""
    answer = registered[1].get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == registry_paths.MEDIA_TYPE
    assert answer.json()["error_code"] == code
    assert answer.json()["message"]


def test_the_rest_is_answered_by_hand(registered: tuple[Settings, httpx.Client]) -> None:
    """Types, mode, subjects and versions of an id, the bare schema.

    A look-up of what is no schema, or another one, says so.
    """
    client = registered[1]
    schema_id, subject = KernelPublished.SCHEMA_ID, current(KernelPublished).subject
    assert client.get("/schemas/types").json() == ["AVRO"]
    assert (
        client.get("/mode").json() == client.get(f"/mode/{subject}").json() == {"mode": "READONLY"}
    )
    assert client.get(f"/schemas/ids/{schema_id}/schema").json() == wire_schemas()[schema_id].schema
    assert (
        client.get(f"/subjects/{subject}/versions/latest/schema").json()
        == wire_schemas()[schema_id].schema
    )
    assert client.get(f"/schemas/ids/{schema_id}/subjects").json() == [subject]
    assert client.get(f"/schemas/ids/{schema_id}/versions").json() == [
        {"subject": subject, "version": VERSIONS[-1]}
    ]
    for body, status, code in (
        ({"schema": "{"}, 422, 42201),
        ({}, 422, 42201),
        ({"schema": '{"type":"string"}'}, 404, 40403),
    ):
        answer = client.post(f"/subjects/{subject}", json=body)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert (
        client.post("/subjects/nothing", json={"schema": '"string"'}).json()["error_code"] == 40401
    )


def test_nothing_can_be_registered(confluent: SchemaRegistryClient) -> None:
    """A client that would register a schema is refused, and the subject stays as it is."""
    subject = current(KernelPublished).subject
    with pytest.raises(SchemaRegistryError):
        confluent.register_schema(subject, Schema('{"type":"string"}', "AVRO"))
    assert confluent.get_versions(subject) == VERSIONS


def test_without_a_token_the_client_is_refused(
    registered: tuple[Settings, httpx.Client], tmp_path: Path
) -> None:
    """As is one whose token was made with another installation's key."""
    url = str(registered[1].base_url)
    for stranger in ("", token(Settings(home=tmp_path), SystemClock())):
        with (
            registryclients.client(url, stranger) as refused,
            pytest.raises(SchemaRegistryError) as caught,
        ):
            refused.get_subjects()
        assert caught.value.http_status_code == 401
