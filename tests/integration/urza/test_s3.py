"""The store on S3 where the network or the server fails, and what users are told."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from esper.checkpoint import Snapshot, open_tensors
from esper.checkpoint.retention import NamedSnapshot
from esper.checkpoint.sweep import Rules, sweep
from esper.clock import SystemClock
from esper.config import CheckpointSettings, Settings, UrzaSettings
from esper.errors import UnavailableError, UsageError
from esper.karn.ir import Budget
from esper.karn.templates import generate
from esper.kernels.build import module_of, weights_of
from esper.urza.artefact import seal
from esper.urza.opening import store_at
from esper.urza.s3 import MOST_BYTES, S3Store
from esper.vault.boxes import KERNELS, Box, is_sealed
from tests import s3proxy
from tests.stackfixtures import S3Place
from tests.waiting import PATIENCE_S

DAY_US = 86_400_000_000

pytestmark = pytest.mark.slow


@contextmanager
def cutting(endpoint: str, cut: Callable[[str, str], bool]) -> Iterator[str]:
    """An endpoint that carries requests to another one, and drops the connection instead of the
    answer where `cut`, by method and path, says so.
    """
    target = endpoint.removeprefix("http://")

    class Carrier(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def carry(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(target, timeout=PATIENCE_S)
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    server.putheader(name, value)
            server.endheaders(body)
            with server.getresponse() as answer:
                content = answer.read()
            server.close()
            if cut(self.command, self.path):
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header(
                "Content-Length", answer.getheader("Content-Length") or str(len(content))
            )
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = carry  # noqa: N815  # the names that http.server asks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Carrier) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("size", [1_000, MOST_BYTES + 1_000])
def test_a_put_whose_answer_is_lost_knows_that_it_stored(s3: S3Place, size: int) -> None:
    """The server stores, the answer never comes, the put is asked for again: it says that it
    stored, and a second one that it did not.
    """
    lost: list[str] = []

    def cut(method: str, path: str) -> bool:
        if lost or not (
            method == "PUT" if size < MOST_BYTES else method == "POST" and "uploadId" in path
        ):
            return False
        lost.append(path)
        return True

    with cutting(s3.server.endpoint, cut) as endpoint:
        store, content = S3Store(s3.location, endpoint=endpoint), bytes(size)
        assert store.put_if_absent("kernels/a", content)
        assert len(lost) == 1
        assert not store.put_if_absent("kernels/a", content)
        assert store.get("kernels/a") == content


def test_objects_lie_below_the_prefix_and_no_upload_is_left(s3: S3Place) -> None:
    """Two places in one bucket see nothing of each other.

    A large put that came too late leaves no parts behind.
    """
    store, other = (
        store_at(f"{s3.location}/{name}", s3.server.endpoint) for name in ("one", "other")
    )
    large = bytes(MOST_BYTES + 1)
    assert store.put_if_absent("kernels/a", large)
    assert not store.put_if_absent("kernels/a", large)
    assert list(other.list()) == []
    client = s3.server.client()
    place = f"{s3.location.removeprefix(f's3://{s3proxy.BUCKET}/')}/one/kernels/a"
    assert client.head_object(Bucket=s3proxy.BUCKET, Key=place)["ContentLength"] == len(large)
    assert client.list_multipart_uploads(Bucket=s3proxy.BUCKET).get("Uploads", []) == []


def test_what_is_wrong_is_said_in_a_sentence(s3: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket, wrong credentials, no credentials, no server, no place: each with its remedy, and
    never with a secret.
    """
    endpoint = s3.server.endpoint
    with pytest.raises(
        UnavailableError,
        match=(
            r"^The store s3://nowhere-at-all has no bucket nowhere-at-all: make it, or set "
            r"ESPER_URZA__STORE\.$"
        ),
    ):
        store_at("s3://nowhere-at-all", endpoint).put_if_absent("a", b"")
    with pytest.raises(
        UsageError,
        match=r"^s3:// is no place for a store: say s3://bucket or s3://bucket/prefix\.$",
    ):
        store_at("s3://", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(
        UnavailableError,
        match=r"refuses: SignatureDoesNotMatch\. See that credentials and bucket are right\.$",
    ) as refused:
        store_at(s3.location, endpoint).put_if_absent("a", b"")
    assert "not-the-secret" not in str(refused.value)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        UnavailableError,
        match=r"cannot be reached \(EndpointConnectionError\): see whether its endpoint answers\.$",
    ):
        store_at(s3.location, f"http://127.0.0.1:{port}").get("a")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(
        UnavailableError,
        match=(
            r"asks for credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            r"AWS_PROFILE\.$"
        ),
    ):
        store_at(s3.location, endpoint).get("a")


def test_snapshots_lie_on_s3_hot_and_cold(s3: S3Place, tmp_path: Path) -> None:
    """A trainer's snapshots with ESPER_URZA__STORE on S3: an unchanged tensor costs nothing again,
    a sweep moves and deletes there, all is read back.
    """
    settings = Settings(
        home=tmp_path,
        urza=UrzaSettings(store=f"{s3.location}/hot", endpoint=s3.server.endpoint),
        checkpoints=CheckpointSettings(cold_store=f"{s3.location}/cold"),
    )
    tensors = open_tensors(settings, "run-1")
    values = {
        "model/large": torch.randn(3 << 20),
        "model/small": torch.randn(7),
        "host/0/step": torch.tensor(1.0),
    }
    first = tensors.write(Snapshot(values, {"step": 1}))
    second = tensors.write(Snapshot({**values, "host/0/step": torch.tensor(2.0)}, {"step": 2}))
    assert first.stored_bytes > 11_000_000
    assert second.stored_bytes < 2_000
    now_us = SystemClock().now_us()
    held = {
        second.address: NamedSnapshot(now_us + 6 * DAY_US, "last"),
        first.address: NamedSnapshot(now_us),
    }  # no event makes one older than the bucket says
    done = sweep(tensors, held, Rules(grace_us=0), now_us=now_us + 8 * DAY_US, owner="me")
    assert (done.kept, done.deleted, done.chunks, done.moved) == (1, 1, 1, 4)
    assert list(store_at(f"{s3.location}/hot", s3.server.endpoint).list("chunks")) == []
    found = open_tensors(settings, "run-1").read(second.address, second.sha256)
    assert torch.equal(found.tensors["model/large"], values["model/large"])
    assert found.tensors["host/0/step"] == 2
    assert found.notes == {"step": 2}
    assert not (tmp_path / "store").exists()


def test_kernels_are_loaded_from_s3(s3: S3Place, tmp_path: Path) -> None:
    """The loader process fetches, verifies and places a kernel out of the bucket."""
    ir = generate(
        in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=1
    )
    assert ir is not None
    sealed = seal(ir, weights_of(module_of(ir)))
    assert store_at(s3.location, s3.server.endpoint).put_if_absent(sealed.address, sealed.content)
    command = (
        sys.executable,
        "-m",
        "esper.urza.loading",
        s3.location,
        str(tmp_path / "kernels"),
        str(tmp_path / "shared"),
        "1000000",
        s3.server.endpoint,
    )
    request = {
        "kernel_id": sealed.kernel_id,
        "address": sealed.address,
        "sha256": sealed.sha256,
        "prefetch": False,
    }
    box = Box(KERNELS, bytes(32))
    lines = f"{json.dumps({'key': box.key.hex()})}\n{json.dumps(request)}\n"
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    answer = json.loads(done.stdout)
    assert (answer.get("error"), answer["tier"]) == (None, "store")
    placed = Path(answer["path"]).read_bytes()
    assert is_sealed(placed)
    assert box.opened(sealed.address, placed) == sealed.content
