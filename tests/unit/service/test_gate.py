"""What every request passes, and what every answer carries."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from esper.clock import ManualClock, SystemClock
from esper.config import ServiceSettings, Settings
from esper.errors import UnavailableError, UsageError
from esper.service import Server, create_app, requires
from esper.service.checks.caller_limits import TokenBuckets
from tests.servicefixtures import Recorder, assert_problem, bearer, served, token
from tests.unit.service.conftest import Part, build


def test_health_tells_alive_from_ready(part: Part) -> None:
    """200 when every check holds, 503 when one does not, each by name.

    A check that fails itself is one that does not hold.
    """
    assert part.client.get("/health").json() == {
        "alive": True,
        "ready": True,
        "part": "test",
        "checks": {"consumes": True},
    }
    part.checks["recovered"] = False
    answer = part.client.get("/health")
    assert answer.status_code == 503
    assert answer.json() == {
        "alive": True,
        "ready": False,
        "part": "test",
        "checks": {"consumes": True, "recovered": False},
    }
    part.checks = None  # type: ignore[assignment]
    assert part.client.get("/health").json()["ready"] is False


def test_nothing_but_health_is_open(part: Part) -> None:
    """Whatever else is asked without a token, there or not, gets the same 401: nobody learns what
    exists.
    """
    for method, path in (
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("POST", "/health"),
        ("GET", "/health/"),
        ("HEAD", "/health"),
    ):
        assert part.client.request(method, path).status_code == 401, path


def test_a_route_without_a_role_is_never_served(tmp_path: Path) -> None:
    """A server refuses such an app by the route's name, whatever kind of route.

    Added later, it answers nobody.
    """
    settings, clock = Settings(home=tmp_path), SystemClock()

    def fresh() -> FastAPI:
        return create_app(
            title="T", part="t", settings=settings, clock=clock, ready=dict, audit=Recorder()
        )

    async def plain(_: object) -> PlainTextResponse:
        return PlainTextResponse("open")

    app = fresh()
    app.add_api_route("/api/v1/open", lambda: 1, methods=["GET"])
    with pytest.raises(UsageError, match="GET /api/v1/open"):
        Server(app, settings=settings, port=0, clock=clock)
    for route in (Route("/raw", plain), Mount("/mount", PlainTextResponse("open"))):
        app = fresh()
        app.router.routes.append(route)
        with pytest.raises(UsageError, match="demands no role"):
            Server(app, settings=settings, port=0, clock=clock)
    app = fresh()
    with served(app, settings) as client:
        app.add_api_route("/api/v1/open", lambda: 1, methods=["GET"])
        app.router.routes.append(Route("/raw", plain))
        for path in ("/api/v1/open", "/raw"):
            assert_problem(client.get(path, headers=bearer(token(settings, clock, "admin"))), 403)


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/v1/errors/usage", 400, "No such thing; name another."),
        ("/api/v1/errors/rejected", 409, "Not now; wait."),
        ("/api/v1/errors/unavailable", 503, "Kafka is away; wait."),
        ("/api/v1/errors/full", 507, "No room; make some."),
        ("/nothing", 404, "/openapi.json"),
    ],
)
def test_errors_are_problems_with_their_sentence(
    part: Part, path: str, status: int, sentence: str
) -> None:
    """An error of Esper gives its own status and its own words.

    So does an address where nothing is.
    """
    answer = part.client.get(path, headers=bearer(token(part.settings, part.clock)))
    assert_problem(answer, status)
    assert sentence in answer.json()["detail"]
    assert answer.json()["instance"] == path
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_fault_tells_nothing_of_the_inside(
    part: Part, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The caller gets a trace id.

    Reason and place are in the log under it, and neither has the token.
    """
    text = token(part.settings, part.clock)
    answer = part.client.get("/api/v1/errors/fault", headers=bearer(text))
    assert_problem(answer, 500)
    assert "secret" not in answer.text
    logged = caplog.text + "".join(capfd.readouterr())
    assert answer.json()["trace_id"] in logged
    assert "a secret of the inside" in logged
    assert text not in logged


def test_wrong_methods_and_bodies_say_what_is_right(part: Part) -> None:
    """405 with Allow; 422 names the field; 413 the limit, whether the length is stated or not."""
    headers = bearer(token(part.settings, part.clock, "operator"))
    answer = part.client.put("/api/v1/status", headers=headers)
    assert_problem(answer, 405)
    assert answer.headers["allow"] == "GET"
    answer = part.client.post("/api/v1/runs/r/orders", json={"count": "many"}, headers=headers)
    assert_problem(answer, 422)
    assert "body/count" in answer.json()["detail"]
    assert answer.json()["errors"][0]["where"] == "body/count"
    assert "many" not in answer.text
    assert_problem(part.client.post("/api/v1/runs/r/orders", content=b"{", headers=headers), 422)
    assert_problem(
        part.client.post("/api/v1/runs/r/orders", content=b"x" * 1_001, headers=headers), 413
    )
    assert_problem(
        part.client.post("/api/v1/runs/r/orders", content=iter([b"x" * 600] * 2), headers=headers),
        413,
    )
    assert_problem(part.client.post("/api/v1/look", content=b"x" * 1_001, headers=headers), 413)
    assert part.done == []


def test_callers_are_limited_one_by_one(part: Part) -> None:
    """Who has spent the burst waits, by the part's clock, and is told how long.

    Others do not, and health answers on.
    """
    limited = Settings(home=part.settings.home, service=ServiceSettings(rate=2, burst=3))
    part.settings = limited
    with served(build(part), limited) as client:
        ann, bob = (bearer(token(limited, part.clock, subject=name)) for name in ("ann", "bob"))
        assert [client.get("/api/v1/status", headers=ann).status_code for _ in range(5)] == [
            200,
            200,
            200,
            429,
            429,
        ]
        answer = client.get("/api/v1/status", headers=ann)
        assert_problem(answer, 429)
        assert answer.headers["retry-after"] == "1"
        assert client.get("/api/v1/status", headers=bob).status_code == 200
        assert [client.get("/api/v1/status").status_code for _ in range(4)] == [401, 401, 401, 429]
        assert client.get("/health").status_code == 200
        part.clock.advance(0.5)
        assert [client.get("/api/v1/status", headers=ann).status_code for _ in range(2)] == [
            200,
            429,
        ]


def test_buckets_forget_callers_and_never_overflow() -> None:
    """A rest of any length gives no more than the burst; the callers remembered are bounded."""
    clock = ManualClock()
    buckets = TokenBuckets(rate=1, burst=2, clock=clock)
    clock.advance(1_000)
    assert [buckets.take("a") == 0 for _ in range(3)] == [True, True, False]
    assert buckets.take("a") == pytest.approx(1.0)
    for number in range(5_000):
        buckets.take(str(number))
    assert len(buckets._buckets) <= 1_024


def test_load_and_time_are_bounded(part: Part) -> None:
    """More requests than the part takes at once get 503.

    One that does not begin to answer gets 504; afterwards all is well.
    """
    headers = bearer(token(part.settings, part.clock))
    tight = Settings(home=part.settings.home, service=ServiceSettings(in_flight=3, timeout_s=2.0))
    part.settings = tight
    slow: list[httpx.Response] = []
    with served(build(part), tight) as client:
        threads = [
            threading.Thread(
                target=lambda: slow.append(client.get("/api/v1/slow", headers=headers))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while not slow:
            assert client.get("/health").status_code == 200
        for thread in threads:
            thread.join()
        assert_problem(slow[0], 503)
        for one in slow[1:]:
            assert_problem(one, 504)
        part.gate.set()
        assert client.get("/api/v1/status", headers=headers).status_code == 200


def test_a_body_that_never_comes_is_not_waited_for(part: Part) -> None:
    """408 after the time that a body has."""
    text = token(part.settings, part.clock, "operator")
    part.settings = Settings(home=part.settings.home, service=ServiceSettings(timeout_s=0.2))
    with (
        served(build(part), part.settings) as client,
        socket.create_connection(
            (client.base_url.host, client.base_url.port or 0), timeout=10
        ) as connection,
    ):
        connection.sendall(
            (
                "POST /api/v1/runs/r/orders HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
                f"Bearer {text}\r\nContent-Length: 50\r\n\r\n{{"
            ).encode()
        )
        assert b" 408 " in connection.recv(100)


def test_requests_from_elsewhere_are_refused(part: Part) -> None:
    """A name bound to 127.0.0.1 (DNS rebinding), and a page of another site that makes a browser
    send what the user once typed.
    """
    headers = bearer(token(part.settings, part.clock, "operator"))
    assert_problem(part.client.get("/health", headers={"Host": "evil.example"}), 403)
    assert part.client.get("/health", headers={"Host": "localhost:1"}).status_code == 200
    own = f"http://127.0.0.1:{part.client.base_url.port}"
    for extra, status in (
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 200),
    ):
        assert (
            part.client.post(
                "/api/v1/runs/r/orders", json={"count": 1}, headers=headers | extra
            ).status_code
            == status
        ), extra


def test_every_answer_carries_security_headers(part: Part) -> None:
    """Also errors: no sniffing, no frames, no caching, no server banner.

    The caller's trace id is taken up.
    """
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for path in ("/health", "/nothing", "/api/v1/status"):
        answer = part.client.get(path, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert answer.status_code == 200 or answer.json()["trace_id"] == trace


def test_the_api_describes_itself(part: Part) -> None:
    """OpenAPI names the ways to send a token, the role of each operation, and problems as its
    errors.
    """
    document = part.client.get(
        "/openapi.json", headers=bearer(token(part.settings, part.clock))
    ).json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "basic"}
    order = document["paths"]["/api/v1/runs/{run_id}/orders"]["post"]
    assert order["x-esper-role"] == "operator"
    assert order["security"] == [{"bearer": []}, {"basic": []}]
    assert "application/problem+json" in order["responses"]["default"]["content"]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_a_server_lives_in_a_loop_of_others(part: Part) -> None:
    """Inside an event loop that somebody else runs it answers, ends when told or cancelled, and
    frees its port; signals stay as they were.
    """

    async def live() -> None:
        for how in ("told", "cancelled"):
            server = Server(build(part), settings=part.settings, port=0, clock=SystemClock())
            task = asyncio.create_task(server.serve())
            async with httpx.AsyncClient(trust_env=False) as client:
                async with asyncio.timeout(10):
                    while True:
                        try:
                            assert (await client.get(f"{server.url}/health")).status_code == 200
                            break
                        except httpx.ConnectError:
                            await asyncio.sleep(0.01)
            if how == "told":
                server.stop()
                await task
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            Server(
                build(part), settings=part.settings, port=server.port, clock=SystemClock()
            )._listening.close()

    asyncio.run(live())


def test_a_port_in_use_is_said(part: Part) -> None:
    """With the port and the remedy."""
    with pytest.raises(UnavailableError, match=str(part.client.base_url.port)):
        Server(
            build(part),
            settings=part.settings,
            port=part.client.base_url.port or 0,
            clock=SystemClock(),
        )


def test_requires_is_found_through_routers(part: Part) -> None:
    """The role of a route is the highest that it, or its router, demands."""
    answer = part.client.delete(
        "/api/v1/runs/r1", headers=bearer(token(part.settings, part.clock, "operator"))
    )
    assert_problem(answer, 403)
    assert requires("admin") == requires("admin")
