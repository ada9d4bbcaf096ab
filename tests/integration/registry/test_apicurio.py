"""Another registry that speaks Confluent's protocol: the same client code reads the same records through Apicurio Registry."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from jgo.maven import MavenContext
from requests import RequestException

from esper.clock import SystemClock
from esper.events.records import RECORDS
from esper.events.registry import current
from esper.stack.cache import cache_dir, locked
from esper.stack.java import java
from esper.stack.ports import PortClaims
from tests import registryclients

VERSION: Final = "3.3.3"
SHA256: Final = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
_MANAGEMENT: Final = {"QUARKUS_MANAGEMENT_PORT": "0", "QUARKUS_MANAGEMENT_HOST": "127.0.0.1"}
_START_S: Final = 150.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def archive() -> Path:
    """Apicurio's archive (159 MB, Maven Central), fetched once into the user's cache; without a network the test is left out."""
    target = cache_dir() / "tests" / f"apicurio-registry-{VERSION}.tar.gz"
    with locked(target.parent / ".lock"):
        if not target.exists():
            scratch = target.parent / "fetch"
            try:
                context = MavenContext(repo_cache=scratch, timeout=60)
                found = context.project("io.apicurio", "apicurio-registry-app").at_version(VERSION).artifact("all", "tar.gz").resolve()
            except (RequestException, RuntimeError, OSError) as error:
                pytest.skip(
                    f"Apicurio Registry could not be fetched from Maven ({type(error).__name__}): connect to the network for this test."
                )
            with Path(found).open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
            Path(found).replace(target)
            shutil.rmtree(scratch)
    return target


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
                _wait(process, port, folder / "log")
                yield f"http://127.0.0.1:{port}/apis/ccompat/v7"
            finally:
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    clock = SystemClock()
    ends = clock.monotonic() + _START_S
    while clock.monotonic() < ends and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/apis/ccompat/v7/subjects")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        clock.sleep(0.3)
    pytest.fail(f"Apicurio Registry did not start: {log.read_text(errors='replace')[-2_000:]}")


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
            assert registryclients.decode(client, wire.record.TOPIC, registryclients.framed(ids[wire.id], datum)) == said, wire.subject


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
