"""Attack: a neighbour opens more connections than a part has descriptors, or many that never say a
whole request.

Expected: the part answers others as before, over its port and over the Unix socket of Esper's own
programs, and closes what says nothing.
"""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse, Response

from esper.clock import SystemClock
from esper.config import ServiceSettings, Settings
from esper.service import Server, create_app, requires
from esper.service.transport import connections
from esper.stack.processes.child import health
from tests.certificates import authority, make, write
from tests.servicefixtures import Recorder, bearer, token
from tests.stackfixtures import eventually

CLOCK = SystemClock()
MANY = 1_100


@contextmanager
def part(settings: Settings) -> Iterator[Server]:
    """A part that is up, with a route whose answer is larger than any buffer on the way."""
    app = create_app(
        title="T", part="t", settings=settings, clock=CLOCK, ready=dict, audit=Recorder()
    )

    @app.get("/large", dependencies=[requires("viewer")])
    async def large() -> Response:
        return PlainTextResponse("x" * (64 << 20))

    server = Server(app, settings=settings, port=0, clock=CLOCK)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for both ends of all connections in this one process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 8_192), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def opened(port: int, count: int, opening: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say `opening` and then nothing."""
    with ExitStack() as kept:
        made = []
        for _ in range(count):
            one = kept.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            one.sendall(opening)
            made.append(one)
        yield made


def ended(one: socket.socket) -> bool:
    """Whether the other side has closed a connection; what it said before is read."""
    one.setblocking(False)  # noqa: FBT003 -- the standard library's own signature
    try:
        while one.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def drained(one: socket.socket) -> int:
    """How many bytes came before the other side closed the connection."""
    one.settimeout(10)
    received = 0
    with suppress(ConnectionResetError):
        while more := len(one.recv(1 << 20)):
            received += more
    return received


@pytest.mark.parametrize(
    "opening",
    [b"", b"GET /health HT", b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["silent", "half", "idle"],
)
@pytest.mark.usefixtures("descriptors")
def test_a_thousand_connections_make_no_part_deaf(tmp_path: Path, opening: bytes) -> None:
    """Before the first byte, within a head, between two requests: health is answered on both
    sockets, and the part holds no more than it may.
    """
    settings = Settings(home=tmp_path)
    with part(settings) as server, opened(server.port, MANY, opening) as made:
        for _ in range(5):
            assert httpx.get(f"{server.url}/health", trust_env=False, timeout=10).status_code == 200
            assert health(settings, "part", server.port) == "ready"
        most = settings.service.connections
        assert eventually(lambda: sum(not ended(one) for one in made) <= most, 20)


@pytest.mark.usefixtures("descriptors")
def test_connections_that_never_finish_a_handshake_make_no_part_deaf(tmp_path: Path) -> None:
    """The same where the port speaks TLS: a handshake that does not come is a connection that says
    nothing.
    """
    root = authority()
    given = make(tmp_path, root)
    service = ServiceSettings(
        certificate=given.certificate, private_key=given.private_key, connections=16
    )
    trust = ssl.create_default_context(cafile=str(write(tmp_path, root)))
    with part(Settings(home=tmp_path, service=service)) as server, opened(server.port, 300):
        assert (
            httpx.get(f"{server.url}/health", verify=trust, trust_env=False, timeout=10).status_code
            == 200
        )


def test_a_head_that_trickles_in_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is progress, and no reason to wait on."""
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    monkeypatch.setattr(connections, "_LOOK_S", 0.05)
    with part(Settings(home=tmp_path)) as server, opened(server.port, 1) as (one,):

        def trickled() -> bool:
            try:
                one.setblocking(True)  # noqa: FBT003 -- the standard library's own signature
                one.sendall(b"G")
            except OSError:
                return True
            return ended(one)

        assert eventually(trickled, 20)


def test_a_reader_that_stands_still_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for much and reads none of it holds the answer in the part's memory: not
    forever.
    """
    monkeypatch.setattr(connections, "IDLE_S", 0.5)
    monkeypatch.setattr(connections, "_LOOK_S", 0.05)
    settings = Settings(home=tmp_path)
    asked = (
        "GET /large HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
        f"{bearer(token(settings, CLOCK))['Authorization']}\r\n\r\n"
    )
    with part(settings) as server, opened(server.port, 1, asked.encode()) as (one,):
        held = server._server.server_state.connections
        assert eventually(lambda: bool(held), 20)
        assert eventually(lambda: not held, 20)
        assert drained(one) < 64 << 20
