"""Servers of others that tests start."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from jgo.maven import MavenContext
from requests import RequestException

from esper.clock import SystemClock
from esper.user_cache import cache_dir, locked


@dataclass(frozen=True)
class MavenFile:
    """A file of Maven Central as tests fetch it: what it is called there, and its SHA-256."""

    group: str
    artifact: str
    version: str
    classifier: str
    packaging: str
    sha256: str


def fetched(wanted: MavenFile, *, name: str) -> Path:
    """The file, fetched once into the user's cache; without a network the test is left out."""
    target = cache_dir() / "tests" / f"{wanted.artifact}-{wanted.version}.{wanted.packaging}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / ".lock"):
        if not target.exists():
            scratch = target.parent / f"fetch-{wanted.artifact}"
            try:
                project = MavenContext(repo_cache=scratch, timeout=60).project(
                    wanted.group, wanted.artifact
                )
                found = (
                    project.at_version(wanted.version)
                    .artifact(wanted.classifier, wanted.packaging)
                    .resolve()
                )
            except (RequestException, RuntimeError, OSError) as error:
                pytest.skip(
                    f"{name} could not be fetched from Maven ({type(error).__name__}): "
                    "connect to the network for this test."
                )
            with Path(found).open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256
            Path(found).replace(target)
            shutil.rmtree(scratch)
    return target


def wait_for(
    process: subprocess.Popen[bytes],
    port: int,
    path: str,
    *,
    name: str,
    log: Path,
    patience_s: float,
    ready: Callable[[int], bool],
) -> None:
    """Wait until a server on the loopback answers GET `path` with a status that is `ready`.

    Else the test fails with the end of its log.
    """
    clock = SystemClock()
    ends = clock.monotonic() + patience_s
    while clock.monotonic() < ends and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            if ready(connection.getresponse().status):
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        clock.sleep(0.2)
    pytest.fail(f"{name} did not start: {log.read_text(errors='replace')[-2_000:]}")


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a small HTTP server of a test's own, which `handler` answers for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
