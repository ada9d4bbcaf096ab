"""Claims about the page's addresses at a Nissa on a real broker: who gets what, and what a browser
hears, over a kill too.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.service import create_app
from esper.service.checks import tokens
from esper_processors.nissa.page import static_files
from esper_processors.nissa.page.broadcast import Broadcast
from esper_processors.nissa.page.http import add_routes, customs, page_of
from tests.integration.processors.workers import Line, Worker
from tests.servicefixtures import (
    HOLDERS,
    Holder,
    Recorder,
    Row,
    assert_answered_by_role,
    assert_every_route_has_a_row,
    assert_problem,
    client_of,
    credentials,
    token,
)
from tests.unit.nissa.journal import Run
from tests.waiting import PATIENCE_S

CLOCK = SystemClock()
Told = tuple[str, str, Mapping[str, Any]]
"""Id, kind and data of a message."""
FILES = tuple(Row("GET", path, None) for path in static_files.contents())
READS = (
    Row("GET", "/api/v1/page/runs", "viewer"),
    Row("GET", "/api/v1/page/runs/{run_id}", "viewer", path="/api/v1/page/runs/a"),
    Row("GET", "/api/v1/page/runs/{run_id}/health", "viewer", path="/api/v1/page/runs/a/health"),
    Row("GET", "/api/v1/page/compared", "viewer", path="/api/v1/page/compared?run=a"),
    Row("GET", "/api/v1/page/curves", "viewer", path="/api/v1/page/curves?run=a&name=score"),
    Row("DELETE", "/api/v1/session", "viewer"),
)
STREAM = Row("GET", "/api/v1/page/stream", "viewer")
SESSION = Row("POST", "/api/v1/session", "viewer")
OTHERS = (Row("GET", "/health", None), Row("GET", "/openapi.json", "viewer"))


@pytest.fixture
def browser(nissa: Worker) -> Iterator[httpx.Client]:
    """A client that has a session, as a browser's scripts have it."""
    with client_of(f"http://127.0.0.1:{nissa.port}") as client:
        client.headers["X-Esper-Key"] = opened(nissa, client).json()["key"]
        yield client


def opened(nissa: Worker, client: httpx.Client) -> httpx.Response:
    code = tokens.own(
        nissa.settings.keys_dir,
        subject="ada",
        clock=CLOCK,
        ttl=tokens.CODE_TTL,
        audience=("nissa", tokens.PAGE),
        identity=str(CLOCK.now_us()),
    )
    return client.post("/api/v1/session", headers={"Authorization": f"Bearer {code}"})


def steps_in(told: list[Told]) -> list[int]:
    """The steps that were told, in the order in which they were."""
    return [number for _, kind, one in told if kind == "steps" for number in one["step"]]


def heard(
    client: httpx.Client, run: str, *, until: set[str], steps: int = 0, last: str = ""
) -> list[Told]:
    """What is told of a run, until each of these kinds and so many steps have come: topics have no
    order among them.
    """
    headers = {"Last-Event-ID": last} if last else {}
    told: list[Told] = []
    with client.stream(
        "GET", f"/api/v1/page/stream?run={run}", headers=headers, timeout=PATIENCE_S
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                told.append((fields["id"], fields["event"], json.loads(fields["data"])))
                if until <= {kind for _, kind, _ in told} and len(steps_in(told)) >= steps:
                    return told
            fields = {}
    raise AssertionError(f"The stream ended before {until}: {told}")


def test_every_route_has_its_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    page = page_of(settings, CLOCK, Broadcast(CLOCK), state=dict, alerts=lambda _: [])
    app = create_app(
        title="t",
        part="nissa",
        settings=settings,
        clock=CLOCK,
        ready=dict,
        audit=Recorder(),
        customs=customs(page),
    )
    add_routes(app, page)
    assert_every_route_has_a_row(app, (*FILES, *READS, STREAM, SESSION, *OTHERS))


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_route_asks_for_its_role(nissa: Worker, holder: Holder) -> None:
    headers = credentials(nissa.settings, CLOCK, holder)
    with client_of(f"http://127.0.0.1:{nissa.port}") as client:

        def ask(row: Row, given: Mapping[str, str]) -> httpx.Response:
            with client.stream(row.method, row.path or row.route, headers=given) as answer:
                # a stream has no end
                if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    answer.read()
            return answer

        for row in (*FILES, *READS, STREAM):
            assert_answered_by_role(ask, row, holder, headers)


def test_a_code_opens_a_session_once_and_nothing_else_does(nissa: Worker) -> None:
    with client_of(f"http://127.0.0.1:{nissa.port}") as client:
        answer = opened(nissa, client)
        assert answer.status_code == 200
        assert set(answer.json()) == {"key", "subject", "role", "expires_at"}
        cookie = answer.headers["set-cookie"]
        for said in ("HttpOnly", "SameSite=strict", "Path=/api", "Max-Age=43200"):
            assert said in cookie
        again = client.post(
            "/api/v1/session", headers={"Authorization": answer.request.headers["authorization"]}
        )
        assert_problem(again, 401)
        assert "used already" in again.json()["detail"]
        viewer = token(nissa.settings, CLOCK)
        plain = client.post("/api/v1/session", headers={"Authorization": f"Bearer {viewer}"})
        assert_problem(plain, 401)
        assert "set-cookie" not in plain.headers


def test_a_cookie_is_worth_nothing_without_its_key(browser: httpx.Client) -> None:
    """Programs of other users at other ports of this host are sent the cookie as well."""
    address = "/api/v1/status"
    assert browser.get(address).status_code == 200
    key = browser.headers.pop("X-Esper-Key")
    assert_problem(browser.get(address), 401)
    assert_problem(browser.get(address, headers={"X-Esper-Key": key[:-8] + "AAAAAAA="}), 401)


def test_pages_of_other_sites_get_nothing_but_what_a_link_leads_to(browser: httpx.Client) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert browser.get("/", headers=link).status_code == 200
    for site in ("cross-site", "same-site"):
        for changed in ({"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Dest": "iframe"}):
            headers = {**link, "Sec-Fetch-Site": site, **changed}
            assert_problem(browser.get("/", headers=headers), 403)
        for path in ("/api/v1/status", "/api/v1/page/runs", "/page/app.js"):
            assert_problem(browser.get(path, headers={**link, "Sec-Fetch-Site": site}), 403)
        refused = browser.post("/api/v1/session", headers={**link, "Sec-Fetch-Site": site})
        assert_problem(refused, 403)


def test_a_refused_script_makes_no_browser_ask_for_a_password(nissa: Worker) -> None:
    with client_of(f"http://127.0.0.1:{nissa.port}") as client:
        fetched = client.get("/api/v1/page/runs", headers={"Sec-Fetch-Mode": "cors"})
        typed = client.get("/api/v1/page/runs", headers={"Sec-Fetch-Mode": "navigate"})
    assert "Basic" not in fetched.headers["www-authenticate"]
    assert "Basic" in typed.headers["www-authenticate"]


def test_where_there_is_no_history_the_page_is_told_so(browser: httpx.Client) -> None:
    answer = browser.get("/api/v1/page/runs")
    assert_problem(answer, 503)
    assert "esper up" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "run=a",
        "name=score",
        "run=a&name=score&points=2",
        "run=a&name=score&points=4001",
        "run=a&name=score&first=-1",
        "&".join(["name=score"] + [f"run={number}" for number in range(101)]),
        "&".join(["run=a"] + [f"name={number}" for number in range(17)]),
        f"run=a&name={'x' * 201}",
    ],
)
def test_what_curves_may_not_be_asked_is_refused(browser: httpx.Client, query: str) -> None:
    assert_problem(browser.get(f"/api/v1/page/curves?{query}"), 422)


def test_a_reader_hears_its_run_and_goes_on_where_it_was(
    nissa: Worker, line: Line, browser: httpx.Client
) -> None:
    """From a connection to the next nothing is lost or told twice; a Nissa that was killed in
    between says that she does not know what was missed.
    """
    run = Run("page-1")
    line.send(run.started(), run.step(1, loss=0.5), run.step(2, loss=float("nan")))
    line.send(*run.germinated("0", 1), run.epoch_ended(validation_accuracy=0.25))
    kinds = {"steps", "move", "decisions", "run", "epoch", "alerts"}
    told = heard(browser, "page-1", until=kinds, steps=2)
    assert told[0][1:] == ("hello", {"resumed": False})
    assert steps_in(told) == [1, 2]
    losses = [loss for _, kind, one in told if kind == "steps" for loss in one["training loss"]]
    assert losses == [0.5, None]
    (move,) = [one for _, kind, one in told if kind == "move"]
    assert (move["layer"], move["seed"], move["to_stage"]) == ("0", 1, "GERMINATED")
    # of a loss that is not finite an alert is raised, and that is told
    assert {"changed": True} in [one for _, kind, one in told if kind == "alerts"]
    # others' steps are not told
    line.send(Run("page-2").step(1, loss=9.0), run.step(3, loss=0.25))
    (hello, *more) = heard(browser, "page-1", until={"steps"}, last=told[-1][0])
    assert hello[2] == {"resumed": True}
    assert steps_in(more) == [3]
    assert "move" not in [kind for _, kind, _ in more]
    nissa.signal(signal.SIGKILL)
    nissa.start()
    nissa.wait_ready()
    assert heard(browser, "page-1", until={"hello"}, last=more[-1][0])[0][2] == {"resumed": False}
