"""A real S3 server for tests: S3Proxy (Apache License 2.0) on the Java runtime that came with
Esper's requirements.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from esper.stack.embedded.java import java
from esper.stack.processes.ports import PortClaims
from tests.servers import MavenFile, fetched, wait_for

VERSION: Final = "4.1.1"
SHA256: Final = "5a2397ce0119c2d98025663d018afe2ac88a55c1c7946ece62653db83132b286"
BUCKET: Final = "esper"
ACCESS_KEY: Final = "test-key"
SECRET_KEY: Final = "test-secret"  # noqa: S105  # of a server that only this test reaches
_START_S: Final = 120.0


def jar() -> Path:
    """S3Proxy (55 MB)."""
    wanted = MavenFile("org.gaul", "s3proxy", VERSION, "jar-with-dependencies", "jar", SHA256)
    return fetched(wanted, name="S3Proxy")


@dataclass(frozen=True)
class S3Server:
    """A server that answers, with a bucket. `environment` is what boto3 needs to be let in."""

    endpoint: str
    environment: dict[str, str]

    def client(self) -> Any:
        """Boto3's own, to look behind the store."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
            ),
        )


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, its objects in `folder`."""
    (folder / "objects").mkdir(parents=True)
    with PortClaims() as claims, (folder / "log").open("wb") as log:
        port = claims.choose(salt=str(folder), preferred=())
        settings = {
            "s3proxy.endpoint": f"http://127.0.0.1:{port}",
            "s3proxy.authorization": "aws-v2-or-v4",
            "s3proxy.identity": ACCESS_KEY,
            "s3proxy.credential": SECRET_KEY,
            "s3proxy.ignore-unknown-headers": "true",
            "jclouds.provider": "filesystem-nio2",
            "jclouds.identity": "none",
            "jclouds.credential": "none",
            "jclouds.filesystem.basedir": str(folder / "objects"),
        }
        (folder / "s3proxy.conf").write_text(
            "".join(f"{name}={value}\n" for name, value in settings.items())
        )
        options = (
            "-Xmx400m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-jar",
            str(jar()),
            "--properties",
            str(folder / "s3proxy.conf"),
        )
        with subprocess.Popen((str(java()), *options), stdout=log, stderr=log) as process:
            try:
                wait_for(
                    process,
                    port,
                    "/",
                    name="S3Proxy",
                    log=folder / "log",
                    patience_s=_START_S,
                    ready=lambda _: True,
                )
                keys = {
                    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                    "AWS_DEFAULT_REGION": "us-east-1",
                }
                server = S3Server(settings["s3proxy.endpoint"], keys)
                server.client().create_bucket(Bucket=BUCKET)
                yield server
            finally:
                process.kill()
