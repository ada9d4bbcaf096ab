"""The store on S3 where the network or the server fails, and what users are told."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from esper.errors import UnavailableError, UsageError
from esper.urza.opening import store_at
from esper.urza.s3 import PART_BYTES, S3Store
from tests import s3proxy
from tests.stackfixtures import S3Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@contextmanager
def cutting(endpoint: str, cut: Callable[[str, str], bool]) -> Iterator[str]:
    """An endpoint that carries requests to another one, and drops the connection instead of the answer where `cut`, by method and path, says so."""
    target = endpoint.removeprefix("http://")

    class Carrier(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def carry(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(target, timeout=60)
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
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
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


@pytest.mark.parametrize("size", [1_000, PART_BYTES + 1_000])
def test_a_put_whose_answer_is_lost_knows_that_it_stored(s3: S3Place, size: int) -> None:
    """The server stores, the answer never comes, the put is asked for again: it says that it stored, and a second one that it did not."""
    lost: list[str] = []

    def cut(method: str, path: str) -> bool:
        if lost or not (method == "PUT" if size < PART_BYTES else method == "POST" and "uploadId" in path):
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
    """Two places in one bucket see nothing of each other; a large put that came too late leaves no parts behind."""
    store, other = (store_at(f"{s3.location}/{name}", s3.server.endpoint) for name in ("one", "other"))
    large = bytes(PART_BYTES + 1)
    assert store.put_if_absent("kernels/a", large)
    assert not store.put_if_absent("kernels/a", large)
    assert list(other.list()) == []
    client = s3.server.client()
    place = f"{s3.location.removeprefix(f's3://{s3proxy.BUCKET}/')}/one/kernels/a"
    assert client.head_object(Bucket=s3proxy.BUCKET, Key=place)["ContentLength"] == len(large)
    assert client.list_multipart_uploads(Bucket=s3proxy.BUCKET).get("Uploads", []) == []


def test_what_is_wrong_is_said_in_a_sentence(s3: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket, wrong credentials, no credentials, no server, no place: each with its remedy, and never with a secret."""
    endpoint = s3.server.endpoint
    with pytest.raises(
        UnavailableError, match=r"^The store s3://nowhere-at-all has no bucket nowhere-at-all: make it, or set ESPER_URZA__STORE\.$"
    ):
        store_at("s3://nowhere-at-all", endpoint).put_if_absent("a", b"")
    with pytest.raises(UsageError, match=r"^s3:// is no place for a store: say s3://bucket or s3://bucket/prefix\.$"):
        store_at("s3://", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(UnavailableError, match=r"refuses: SignatureDoesNotMatch\. See that credentials and bucket are right\.$") as refused:
        store_at(s3.location, endpoint).put_if_absent("a", b"")
    assert "not-the-secret" not in str(refused.value)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError, match=r"cannot be reached \(EndpointConnectionError\): see whether its endpoint answers\.$"):
        store_at(s3.location, f"http://127.0.0.1:{port}").get("a")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(UnavailableError, match=r"asks for credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE\.$"):
        store_at(s3.location, endpoint).get("a")
