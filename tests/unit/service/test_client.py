"""Esper's own programs ask parts in one way: one mapping of refusals to errors, in the part's own
words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Response

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import DeniedError, EsperError, RejectedError, UnavailableError, UsageError
from esper.service import ProblemError, Server, create_app, requires
from esper.service.client import Client
from tests.servicefixtures import Recorder

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Server]:
    """A part that refuses with the status of the path, or answers with something else than JSON."""
    app = create_app(
        title="T", part="t", settings=settings, clock=CLOCK, ready=dict, audit=Recorder()
    )

    @app.get("/api/v1/refuse/{status}", dependencies=[requires("viewer")])
    async def refuse(status: int) -> None:
        raise ProblemError(status, f"Refused with {status}; ask otherwise.")

    @app.get("/api/v1/bare/{status}", dependencies=[requires("viewer")])
    async def bare(status: int) -> Response:
        return Response(b"[1, 2", status_code=status)

    @app.post("/api/v1/echo", dependencies=[requires("operator")])
    async def echo(body: dict[str, int]) -> dict[str, int]:
        return body

    made = Server(app, settings=settings, port=0, clock=CLOCK)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings, subject="tests", part="t", clock=CLOCK)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UsageError),
        (401, DeniedError),
        (403, DeniedError),
        (404, UsageError),
        (409, RejectedError),
        (422, UsageError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_a_refusal_is_an_error_for_what_the_caller_does_next(
    client: Client, server: Server, status: int, kind: type[EsperError]
) -> None:
    """In the part's own words; without any, a sentence that names part and status."""
    with pytest.raises(kind, match=f"^Refused with {status}; ask otherwise.$") as refused:
        client.json(f"{server.url}/api/v1/refuse/{status}")
    assert type(refused.value) is kind
    with pytest.raises(kind, match=f"^The part t answered {status}: its log says why") as bare:
        client.json(f"{server.url}/api/v1/bare/{status}")
    assert type(bare.value) is kind


def test_a_body_is_posted_and_needs_its_role(client: Client, server: Server) -> None:
    """The token has the role that is asked for, no more."""
    url = f"{server.url}/api/v1/echo"
    assert client.json(url, {"x": 1}, role="operator") == {"x": 1}
    with pytest.raises(DeniedError, match="needs the role operator"):
        client.json(url, {"x": 1})
    with pytest.raises(DeniedError, match="prints one: send it as"):
        client.json(url, {"x": 1}, role=None)


def test_an_answer_that_is_no_json_is_the_parts_fault(client: Client, server: Server) -> None:
    """`ask` gives its bytes, up to the limit; `json` names the part."""
    url = f"{server.url}/api/v1/bare/200"
    with pytest.raises(UnavailableError, match=r"part t at http://\S+ did not answer in JSON"):
        client.json(url)
    assert client.ask(url).body == b"[1, 2"
    assert client.ask(url, limit=2).body == b"[1"


def test_a_part_that_does_not_run_is_named_without_the_query(tmp_path: Path) -> None:
    """A query may be pages long; the address is what helps."""
    settings = Settings(home=tmp_path)
    with pytest.raises(UnavailableError) as caught:
        Client(settings, subject="tests", part="history").ask("http://127.0.0.1:1/?query=long")
    assert str(caught.value).startswith("The part history at http://127.0.0.1:1 does not answer (")
    assert "long" not in str(caught.value)


def test_no_other_module_asks_parts_over_http() -> None:
    """What speaks HTTP by itself speaks to others: a registry, an identity provider, a container's
    own port.
    """
    root = Path(__file__).parents[3]
    speaks = re.compile(
        r"^\s*(?:import|from) (?:http\.client|urllib\.(?:request|error)|httpx|requests|aiohttp)\b",
        re.MULTILINE,
    )
    assert {
        path.relative_to(root).as_posix()
        for package in ("esper", "processors")
        for path in (root / package).rglob("*.py")
        if speaks.search(path.read_text())
    } == {
        "esper/oona/bus/registry_client.py",
        "esper/service/checks/documents.py",  # the words for statuses
        "esper/service/client.py",
        "esper/service/transport/probe.py",
        "esper/service/transport/sockets.py",
        "esper/stack/embedded/jars.py",  # Maven Central
        "processors/esper_processors/access.py",
        "processors/esper_processors/nissa/alerting/posting.py",  # receivers of alerts
    }
