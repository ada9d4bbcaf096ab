"""Parts in containers of their own: where they listen, by which names they answer, how they are
probed, and that commands start no stack beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from esper import stack
from esper.clock import SystemClock
from esper.config import HistorySettings, KafkaSettings, PartSettings, ServiceSettings, Settings
from esper.errors import UsageError
from esper.service import Server, create_app
from esper.service.transport import probe
from tests.certificates import authority, make
from tests.servicefixtures import Recorder

CLOCK = SystemClock()
ELSEWHERE = "127.0.0.2"  # an address of this machine that no part takes by itself


@pytest.fixture
def checks() -> dict[str, bool]:
    return {"well": True}


@pytest.fixture(params=["http", "https"])
def server(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    checks: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A part that listens on every address of the machine's loopback range that it is told, here
    its usual one, under two more names.
    """
    service = ServiceSettings(hosts="history, history.esper.svc")
    if request.param == "https":
        pair = make(tmp_path, authority())
        service = ServiceSettings(
            hosts=service.hosts, certificate=pair.certificate, private_key=pair.private_key
        )
        monkeypatch.setenv("ESPER_SERVICE__CERTIFICATE", pair.certificate)
        monkeypatch.setenv("ESPER_SERVICE__PRIVATE_KEY", pair.private_key)
    settings = Settings(home=tmp_path, service=service)
    made = Server(
        create_app(
            title="T",
            part="t",
            settings=settings,
            clock=CLOCK,
            ready=lambda: checks,
            audit=Recorder(),
        ),
        settings=settings,
        port=0,
        clock=CLOCK,
    )
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("history", 200),
        ("History:8123", 200),
        ("history.esper.svc", 200),
        ("localhost", 200),
        ("evil.example", 403),
        ("esper.svc", 403),
    ],
)
def test_a_part_answers_to_the_names_that_its_owner_gave(
    server: Server, host: str, status: int
) -> None:
    """Names of ESPER_SERVICE__HOSTS are answered beside localhost.

    Any other, as a page would have bound to this address, is refused.
    """
    assert (
        httpx.get(f"{server.url}/health", headers={"Host": host}, verify=False).status_code  # noqa: S501 - the test's own
        == status
    )


def test_a_probe_knows_alive_from_ready(server: Server, checks: dict[str, bool]) -> None:
    """A part that is starting lives and is not ready; one that is gone does neither."""
    port = str(server.port)
    assert (probe.main([port]), probe.main([port, "--ready"])) == (0, 0)
    checks["well"] = False
    assert (probe.main([port]), probe.main([port, "--ready"])) == (0, 1)
    server.stop()
    assert (probe.main([port]), probe.main([port, "--ready"])) == (1, 1)


def test_a_part_listens_where_it_is_told(tmp_path: Path) -> None:
    """ESPER_SERVICE__BIND chooses the address; the usual one is then not listened on."""
    settings = Settings(home=tmp_path, service=ServiceSettings(bind=ELSEWHERE, hosts=ELSEWHERE))
    app = create_app(
        title="T", part="t", settings=settings, clock=CLOCK, ready=dict, audit=Recorder()
    )
    server = Server(app, settings=settings, port=0, clock=CLOCK)
    server.start()
    try:
        assert httpx.get(f"http://{ELSEWHERE}:{server.port}/health").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{server.port}/health")
    finally:
        server.stop()


def test_commands_start_no_stack_where_parts_are_elsewhere(tmp_path: Path) -> None:
    """With ESPER_PARTS=elsewhere the addresses are those of the settings, and no process and no
    state of a stack comes to be.
    """
    settings = Settings(
        home=tmp_path,
        parts="elsewhere",
        kafka=KafkaSettings(bootstrap="kafka-0:9092"),
        history=HistorySettings(url="https://history:8123/"),
        tolaria=PartSettings(url="https://tolaria:8080"),
    )
    endpoints = stack.up(settings, owner_pid=None, progress=lambda _: None)
    assert stack.running(settings) == endpoints
    assert (endpoints.bootstrap, endpoints.history_url, endpoints.tolaria_url) == (
        "kafka-0:9092",
        "https://history:8123",
        "https://tolaria:8080",
    )
    assert stack.status(settings) is None
    assert not settings.stack_dir.exists()
    with pytest.raises(UsageError, match="ESPER_KAFKA__BOOTSTRAP"):
        stack.up(
            Settings(home=tmp_path, parts="elsewhere"), owner_pid=None, progress=lambda _: None
        )
