"""A real schema registry of others for tests: Apicurio Registry (Apache License 2.0) on the Java
runtime that came with Esper's requirements.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from esper.stack.embedded.java import java
from esper.stack.processes.ports import PortClaims
from tests.servers import MavenFile, fetched, wait_for

VERSION: Final = "3.3.3"
SHA256: Final = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
SUBJECTS: Final = "/apis/ccompat/v7/subjects"
_MANAGEMENT: Final = {"QUARKUS_MANAGEMENT_PORT": "0", "QUARKUS_MANAGEMENT_HOST": "127.0.0.1"}
_OPTIONS: Final = (
    "-Xmx400m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-jar",
    "quarkus-run.jar",
)
_START_S: Final = 150.0


def archive() -> Path:
    """Apicurio's archive (159 MB)."""
    wanted = MavenFile("io.apicurio", "apicurio-registry-app", VERSION, "all", "tar.gz", SHA256)
    return fetched(wanted, name="Apicurio Registry")


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Address of an empty registry, its data in memory."""
    with tarfile.open(archive()) as packed:
        packed.extractall(folder, filter="data")
    with PortClaims() as claims, (folder / "log").open("wb") as log:
        port = claims.choose(salt=str(folder), preferred=())
        environment = os.environ | {
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            **_MANAGEMENT,
        }
        with subprocess.Popen(
            (str(java()), *_OPTIONS), cwd=folder, env=environment, stdout=log, stderr=log
        ) as process:
            try:
                ready = (process, port, SUBJECTS)
                wait_for(
                    *ready,
                    name="Apicurio Registry",
                    log=folder / "log",
                    patience_s=_START_S,
                    ready=lambda status: status == 200,
                )
                yield f"http://127.0.0.1:{port}{SUBJECTS.removesuffix('/subjects')}"
            finally:
                process.kill()
