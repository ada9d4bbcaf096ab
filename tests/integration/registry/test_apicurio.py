"""Another registry that speaks Confluent's protocol: the same client code reads the same records
through Apicurio Registry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from esper.events.records import RECORDS
from esper.events.schemas import current
from tests import registryclients
from tests.apicurio import running

BY_RECORD: Final = {"subject.name.strategy.type": "TOPIC_RECORD"}
"""How Esper names its subjects.

By default the deserializer asks for associations first, a newer part of the protocol, and Apicurio
may leave a connection without an answer after it has refused that with 404.
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty Apicurio Registry, its data in memory."""
    with running(tmp_path_factory.mktemp("apicurio")) as url:
        yield url


@pytest.fixture(scope="module")
def ids(apicurio: str) -> dict[int, int]:
    """The id that the registry gave to each of Esper's schemas, by Esper's own, after all were
    registered in the order of their versions.
    """
    with registryclients.client(apicurio) as client:
        return {
            wire.id: client.register_schema(wire.subject, Schema(json.dumps(wire.schema), "AVRO"))
            for wire, _, _ in registryclients.golden()
        }


def test_the_same_records_are_read_through_another_registry(
    apicurio: str, ids: dict[int, int]
) -> None:
    """Every golden payload, framed with the id that Apicurio gave to its schema, says what was
    written.
    """
    with registryclients.client(apicurio) as client:
        for wire, datum, said in registryclients.golden():
            value = registryclients.framed(ids[wire.id], datum)
            assert registryclients.decode(client, wire.record.TOPIC, value, **BY_RECORD) == said, (
                wire.subject
            )


def test_subjects_and_versions_are_the_same_there(apicurio: str, ids: dict[int, int]) -> None:
    """Registered by TopicRecordName, the subjects, their versions and what they hold are those that
    Esper serves.
    """
    with registryclients.client(apicurio) as client:
        assert sorted(client.get_subjects()) == sorted(
            current(record).subject for record in RECORDS
        )
        for record in RECORDS:
            _same(client, record.SCHEMA_ID, current(record).subject, ids)


def _same(client: SchemaRegistryClient, schema_id: int, subject: str, ids: dict[int, int]) -> None:
    latest = client.get_latest_version(subject)
    assert latest.schema_id == ids[schema_id]
    assert latest.version == sum(wire.subject == subject for wire, _, _ in registryclients.golden())
