"""TLS: parts with a certificate, the clients of others, Esper's own, and the supervisor's probe."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from esper.clock import SystemClock
from esper.config import ServiceSettings, Settings
from esper.errors import UsageError
from esper.service import Server, create_app, requires
from esper.service.client import Client
from esper.service.transport import certificates
from esper.stack.processes.child import health
from tests.certificates import Pair, authority, make, write
from tests.servicefixtures import Recorder, bearer, token

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def root() -> Pair:
    """A certificate authority."""
    return authority()


def server_of(settings: Settings) -> Server:
    """A part that serves HTTPS."""
    checks = {"well": True}
    app = create_app(
        title="T", part="t", settings=settings, clock=CLOCK, ready=lambda: checks, audit=Recorder()
    )

    @app.get("/api/v1/status", dependencies=[requires("viewer")])
    async def status() -> dict[str, int]:
        return {"x": 1}

    return Server(app, settings=settings, port=0, clock=CLOCK)


@pytest.fixture
def secured(tmp_path: Path, root: Pair) -> Iterator[tuple[Settings, Server]]:
    """One that is up."""
    settings = Settings(home=tmp_path, service=make(tmp_path, root))
    server = server_of(settings)
    server.start()
    yield settings, server
    server.stop()


def test_a_client_that_trusts_the_authority_is_answered(
    secured: tuple[Settings, Server], tmp_path: Path, root: Pair
) -> None:
    """By name and chain, as any HTTPS client checks them.

    One that does not trust it is not, and plain HTTP gets nothing.
    """
    settings, server = secured
    trusting = ssl.create_default_context(cafile=str(write(tmp_path, root)))
    answer = httpx.get(
        f"{server.url}/api/v1/status", headers=bearer(token(settings, CLOCK)), verify=trusting
    )
    assert answer.json() == {"x": 1}
    assert "max-age" in answer.headers["strict-transport-security"]
    assert server.url.startswith("https://")
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{server.url}/health")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health", trust_env=False)


def test_espers_own_programs_need_no_certificate(secured: tuple[Settings, Server]) -> None:
    """They come by the Unix socket.

    So a certificate that was replaced on disk neither stops them nor makes a living part look dead.
    """
    settings, server = secured
    assert Client(settings, subject="esper", part="t").json(f"{server.url}/api/v1/status") == {
        "x": 1
    }
    assert health(settings, "t", server.port) == "ready"
    server.stop()
    assert health(settings, "t", server.port) == "silent"


def test_settings_that_cannot_be_used_are_refused_with_the_remedy(
    tmp_path: Path, root: Pair
) -> None:
    """One file without the other, files that are not there, a key that belongs to another
    certificate, no PEM at all.
    """
    good, other = make(tmp_path, root), make(tmp_path, root, "other")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for service, sentence in (
        (ServiceSettings(certificate=good.certificate), "needs both"),
        (ServiceSettings(private_key=good.private_key), "needs both"),
        (
            ServiceSettings(certificate=str(tmp_path / "gone"), private_key=good.private_key),
            "There is no file",
        ),
        (
            ServiceSettings(certificate=good.certificate, private_key=other.private_key),
            "belong together",
        ),
        (ServiceSettings(certificate=str(nonsense), private_key=str(nonsense)), "belong together"),
    ):
        settings = Settings(home=tmp_path, service=service)
        with pytest.raises(UsageError, match=sentence):
            server_of(settings)
        with pytest.raises(UsageError, match=sentence):
            certificates.serving(settings)
