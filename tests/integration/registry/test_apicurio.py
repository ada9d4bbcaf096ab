"""Another registry that speaks Confluent's protocol: the same client code reads the same records through Apicurio Registry."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from esper.events.records import RECORDS
from esper.events.registry import current
from esper.stack.java import java
from esper.stack.ports import PortClaims
from tests import registryclients
from tests.servers import MavenFile, fetched, wait_for

VERSION: Final = "3.3.3"
SHA256: Final = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
_MANAGEMENT: Final = {"QUARKUS_MANAGEMENT_PORT": "0", "QUARKUS_MANAGEMENT_HOST": "127.0.0.1"}
_START_S: Final = 150.0

BY_RECORD: Final = {"subject.name.strategy.type": "TOPIC_RECORD"}
"""How Esper names its subjects. By default the deserializer asks for associations first, a newer part of the protocol, and Apicurio may leave a connection
without an answer after it has refused that with 404."""

pytestmark = pytest.mark.slow


def archive() -> Path:
    """Apicurio's archive (159 MB)."""
    wanted = MavenFile("io.apicurio", "apicurio-registry-app", VERSION, "all", "tar.gz", SHA256)
    return fetched(wanted, name="Apicurio Registry")


@pytest.fixture(scope="module")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty Apicurio Registry, its data in memory."""
    folder = tmp_path_factory.mktemp("apicurio")
    with tarfile.open(archive()) as packed:
        packed.extractall(folder, filter="data")
    with PortClaims() as claims, (folder / "log").open("wb") as log:
        port = claims.choose(salt=str(folder), preferred=())
        environment = os.environ | {"QUARKUS_HTTP_PORT": str(port), "QUARKUS_HTTP_HOST": "127.0.0.1", **_MANAGEMENT}
        options = ("-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", "quarkus-run.jar")
        with subprocess.Popen((str(java()), *options), cwd=folder, env=environment, stdout=log, stderr=log) as process:
            try:
                wait_for(
                    process,
                    port,
                    "/apis/ccompat/v7/subjects",
                    name="Apicurio Registry",
                    log=folder / "log",
                    patience_s=_START_S,
                    ready=lambda status: status == 200,
                )
                yield f"http://127.0.0.1:{port}/apis/ccompat/v7"
            finally:
                process.kill()


@pytest.fixture(scope="module")
def ids(apicurio: str) -> dict[int, int]:
    """The id that the registry gave to each of Esper's schemas, by Esper's own, after all were registered in the order of their versions."""
    with registryclients.client(apicurio) as client:
        return {
            wire.id: client.register_schema(wire.subject, Schema(json.dumps(wire.schema), "AVRO"))
            for wire, _, _ in registryclients.golden()
        }


def test_the_same_records_are_read_through_another_registry(apicurio: str, ids: dict[int, int]) -> None:
    """Every golden payload, framed with the id that Apicurio gave to its schema, says what was written."""
    with registryclients.client(apicurio) as client:
        for wire, datum, said in registryclients.golden():
            value = registryclients.framed(ids[wire.id], datum)
            assert registryclients.decode(client, wire.record.TOPIC, value, **BY_RECORD) == said, wire.subject


def test_subjects_and_versions_are_the_same_there(apicurio: str, ids: dict[int, int]) -> None:
    """Registered by TopicRecordName, the subjects, their versions and what they hold are those that Esper serves."""
    with registryclients.client(apicurio) as client:
        assert sorted(client.get_subjects()) == sorted(current(record).subject for record in RECORDS)
        for record in RECORDS:
            _same(client, record.SCHEMA_ID, current(record).subject, ids)


def _same(client: SchemaRegistryClient, schema_id: int, subject: str, ids: dict[int, int]) -> None:
    latest = client.get_latest_version(subject)
    assert latest.schema_id == ids[schema_id]
    assert latest.version == sum(wire.subject == subject for wire, _, _ in registryclients.golden())
