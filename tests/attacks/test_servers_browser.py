"""Attack: a web page of another origin, in a real browser that remembers the password of a part.

Expected: it can neither read nor change anything at a part: not by fetch, form, frame, image or
script, and not under a name that was bound to 127.0.0.1 meanwhile (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from esper.clock import SystemClock
from esper.config import Settings
from esper.service import ProblemError, Server, create_app, requires
from esper.service.checks.customs import Customs
from esper.service.checks.documents import response_of
from tests.browsers import CHROMIUM, needs_chromium
from tests.servicefixtures import Recorder, token

SECRET = "what-only-a-viewer-may-read"  # noqa: S105 -- no password
CLOCK = SystemClock()

pytestmark = needs_chromium

PAGE = """<!doctype html><title>evil</title><script>
async function attack(url) {
  const out = [];
  const tries = {
    read: () => fetch(url + "/read", {credentials: "include"}).then(a => a.text()),
    blind: () => fetch(url + "/read", {credentials: "include", mode: "no-cors"}).then(a => a.type + a.status + a.headers.get("x-secret")),
    post: () => fetch(url + "/change", {method: "POST", credentials: "include", mode: "no-cors", body: "{}"}).then(a => a.type),
    text: () => fetch(url + "/change", {method: "POST", credentials: "include", mode: "no-cors", body: "{}", headers: {"content-type": "text/plain"}}).then(a => a.type),
    json: () => fetch(url + "/change", {method: "POST", credentials: "include", body: "{}", headers: {"content-type": "application/json"}}).then(a => a.text()),
    bearer: () => fetch(url + "/read", {headers: {"authorization": "Bearer x"}}).then(a => a.text()),
    remove: () => fetch(url + "/change", {method: "DELETE", credentials: "include"}).then(a => a.text()),
    beacon: () => navigator.sendBeacon(url + "/change", "{}"),
    script: () => new Promise(done => { const s = document.createElement("script"); s.src = url + "/script"; s.onload = () => done("loaded " + window.stolen); s.onerror = () => done("refused"); document.head.append(s); }),
    image: () => new Promise(done => { const i = new Image(); i.onload = () => done("loaded"); i.onerror = () => done("refused"); i.src = url + "/image"; }),
    style: () => new Promise(done => { const l = document.createElement("link"); l.rel = "stylesheet"; l.href = url + "/read"; l.onload = () => done("loaded"); l.onerror = () => done("refused"); document.head.append(l); }),
    frame: () => new Promise(done => { const f = document.createElement("iframe"); f.src = url + "/read"; f.onload = () => { try { done("text " + f.contentDocument.body.innerText); } catch (e) { done("blocked"); } }; document.body.append(f); }),
    form: () => new Promise(done => { const f = document.createElement("form"); f.method = "post"; f.action = url + "/change"; const i = document.createElement("iframe"); i.name = "to"; i.onload = () => done("sent"); document.body.append(i); f.target = "to"; document.body.append(f); f.submit(); }),
    event: () => new Promise(done => { const e = new EventSource(url + "/read", {withCredentials: true}); e.onmessage = m => done(m.data); e.onerror = () => { e.close(); done("refused"); }; }),
    socket: () => new Promise(done => { const w = new WebSocket(url.replace("http", "ws") + "/read"); w.onopen = () => done("open"); w.onerror = () => done("refused"); }),
  };
  for (const [name, one] of Object.entries(tries)) {
    let result;
    try { result = await Promise.race([one(), new Promise(done => setTimeout(() => done("nothing"), 5000))]); } catch (e) { result = "error " + e.name; }
    out.push([name, String(result)]);
  }
  return JSON.stringify(Object.fromEntries(out));
}
</script><body></body>"""


class Browser:
    """A real browser, spoken to over its pipe (Chrome DevTools Protocol)."""

    def __init__(self, profile: Path, *flags: str) -> None:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        command = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            *flags,
        ]
        # the browser reads from descriptor 3 and writes to 4
        shell = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "browser", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})[
            "sessionId"
        ]
        self._ask("Page.enable", {})

    def visit(self, url: str) -> str:
        """Go to an address and wait until it is there; why not, else empty."""
        found = self._ask("Page.navigate", {"url": url})
        if error := found.get("errorText", ""):
            return str(error)
        while self.run("document.readyState") != "complete":
            CLOCK.sleep(0.05)
        return ""

    def run(self, expression: str) -> Any:
        """The value of an expression in the page that is open."""
        found = self._ask(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
        )
        return found.get("result", {}).get("value")

    def close(self) -> None:
        """End it."""
        for descriptor in (self._to, self._from):
            os.close(descriptor)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait(10)

    def _ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if (session := getattr(self, "_session", "")) and not method.startswith("Target."):
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                more = os.read(self._from, 1 << 16)
                assert more, "the browser has ended"
                self._buffer += more
            line, _, self._buffer = self._buffer.partition(b"\0")
            told = json.loads(line)
            if told.get("id") == self._number:
                assert "error" not in told, told
                found: dict[str, Any] = told["result"]
                return found


@dataclass
class Scene:
    """A part, and what reached its routes."""

    url: str
    token: str
    audit: Recorder
    reached: list[str] = field(default_factory=list)


def basic(problem: ProblemError, scope: Scope, trace_id: str) -> Response:
    """The refusals of a part, in a form for which this browser asks for a password: it heeds the
    first challenge of a header alone.
    """
    answer = response_of(problem, instance=scope["path"], trace_id=trace_id)
    if "www-authenticate" in answer.headers:
        answer.headers["www-authenticate"] = 'Basic realm="esper"'
    return answer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A part with something to read and something to change, in every form that a page
    may ask for.
    """
    settings, audit = Settings(home=tmp_path_factory.mktemp("home")), Recorder()
    app = create_app(
        title="T",
        part="t",
        settings=settings,
        clock=CLOCK,
        ready=dict,
        audit=audit,
        customs=Customs(problem=basic),
    )
    made = Scene("", token(settings, CLOCK, "operator"), audit)

    @app.get("/read", dependencies=[requires("viewer")])
    async def read() -> Response:
        return HTMLResponse(f"<p>{SECRET}</p>", headers={"x-secret": SECRET})

    @app.get("/script", dependencies=[requires("viewer")])
    async def script() -> Response:
        return Response(f"window.stolen = '{SECRET}'", media_type="text/javascript")

    @app.get("/image", dependencies=[requires("viewer")])
    async def image() -> Response:
        return Response(
            "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
            media_type="image/svg+xml",
        )

    @app.api_route(
        "/change", methods=["POST", "PUT", "DELETE"], dependencies=[requires("operator")]
    )
    async def change() -> None:
        made.reached.append("changed")

    server = Server(app, settings=settings, port=0, clock=CLOCK)
    made.url = server.url
    server.start()
    yield made
    server.stop()


@pytest.fixture(scope="module")
def evil() -> Iterator[int]:
    """The port of the attacker's site."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(10)


@contextlib.contextmanager
def browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """A browser that ends with the test."""
    made = Browser(profile, *flags)
    try:
        yield made
    finally:
        made.close()


def test_a_page_of_another_origin_reads_and_changes_nothing(
    scene: Scene, evil: int, tmp_path: Path
) -> None:
    """With the password that the browser remembers, from another port, another name of this
    machine, and a strange site.
    """
    host = scene.url.removeprefix("http://")
    with browser(
        tmp_path / "profile",
        "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP part.evil.example 127.0.0.1",
    ) as page:
        assert page.visit(f"http://me:{scene.token}@{host}/read") == ""
        assert SECRET in page.run(
            "document.body.innerText"
        )  # the password works, and is remembered
        assert page.visit(f"{scene.url}/read") == ""
        assert SECRET in page.run("document.body.innerText")
        assert page.run("fetch('/change', {method: 'POST', body: '{}'}).then(a => a.status)") == 200
        assert scene.reached == ["changed"]  # so a page of the part's own may
        scene.reached.clear()
        for origin in (
            f"http://127.0.0.1:{evil}/",
            f"http://localhost:{evil}/",
            f"http://evil.example:{evil}/",
        ):
            assert page.visit(origin) == ""
            assert page.run("document.title") == "evil"
            found = json.loads(page.run(f"attack('{scene.url}')"))
            assert len(found) == 15
            assert SECRET not in json.dumps(found), (origin, found)
            assert found["script"] == found["image"] == found["socket"] == "refused", (
                origin,
                found,
            )
            assert scene.reached == [], (origin, found)


def test_a_name_that_is_bound_to_this_machine_meanwhile_is_refused(
    scene: Scene, tmp_path: Path
) -> None:
    """DNS rebinding: the page's own origin is now the part, and its Host header says whose name it
    is.
    """
    port = scene.url.rpartition(":")[2]
    with browser(tmp_path / "profile", "--host-resolver-rules=MAP evil.example 127.0.0.1") as page:
        assert page.visit(f"http://me:{scene.token}@evil.example:{port}/read") == ""
        assert SECRET not in page.run("document.documentElement.innerText")
        assert page.run("fetch(location.origin + '/read').then(a => a.status)") == 403
        assert (
            page.run(
                "fetch(location.origin + '/change', {method: 'POST', body: '{}'}).then(a "
                "=> a.status)"
            )
            == 403
        )
    assert scene.reached == []
