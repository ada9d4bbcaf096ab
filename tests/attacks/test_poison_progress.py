"""Attacks that keep a part at one message: it says so on `/health`, and is started again.

On the version before, a part that had stopped reading answered `ready`, for as long as its server
lived.
"""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.clock import ManualClock, SystemClock
from esper.config import Settings
from esper.events import Event, Origin
from esper.events.records import FieldReport, ReportedLayer
from esper.oona.bus.memory import MemoryBus
from esper.oona.inbound.consumer_progress import BEHIND, STALL_S, STUCK_S, ConsumerProgress
from esper.stack.processes.child import health
from esper.tezzeret.service import Foundry
from esper.urza.memory import MemoryStore
from tests.stackfixtures import eventually

CLOCK = SystemClock()


def test_a_quiet_part_and_one_that_works_are_well() -> None:
    """The loop turns, with nothing to read or with much, for an hour: well, whatever the lag is."""
    clock = ManualClock()
    progress = ConsumerProgress(clock)
    for minute in range(60):
        clock.advance(60.0)
        progress.turn(100_000 - minute)
        assert progress.well()


def test_a_loop_that_stands_is_not_well_and_then_stuck() -> None:
    """No turn for `STALL_S`: not well.

    `stuck_s` goes on to where the supervisor acts, and the next turn ends both.
    """
    clock = ManualClock()
    progress = ConsumerProgress(clock)
    clock.advance(STALL_S - 1)
    assert progress.well()
    clock.advance(STUCK_S)
    assert not progress.well()
    assert progress.details()["stuck_s"] > STUCK_S
    progress.turn()
    assert progress.well()
    assert progress.details()["stuck_s"] == 0


def test_what_waits_is_not_well_but_not_stuck() -> None:
    """A full disk: the part says what it waits for, is not ready, and is not killed for it."""
    clock = ManualClock()
    progress = ConsumerProgress(clock)
    for _ in range(200):
        clock.advance(1.0)
        progress.wait("The disk is full.")
    assert not progress.well()
    assert progress.details() == {"lag": 0, "stuck_s": 0.0, "waits_for": "The disk is full."}


def test_a_lag_that_grows_is_not_well_and_one_that_shrinks_is() -> None:
    """Over a minute, by more than what comes and goes."""
    clock = ManualClock()
    growing, shrinking = ConsumerProgress(clock), ConsumerProgress(clock)
    for second in range(0, 90, 5):
        clock.advance(5.0)
        growing.turn(second * BEHIND // 10)
        shrinking.turn(10 * BEHIND - second * BEHIND // 10)
    assert not growing.well()
    assert shrinking.well()


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """A server that gives one answer; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, json.dumps({"stuck_s": 0}), "ready"),
        (503, json.dumps({"stuck_s": STUCK_S - 1}), "starting"),
        (503, json.dumps({"stuck_s": STUCK_S + 1}), "silent"),
        (503, json.dumps({"checks": {"recovered": False}}), "starting"),
        (503, "[" * 5_000, "starting"),
        (503, '{"stuck_s": "x"}', "starting"),
    ],
)
def test_the_supervisor_tells_stuck_from_unready(
    status: int, body: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a part that says that it has been at one message for long counts as silent, which is
    what parts are killed for.
    """

    def connection(_: Path, port: int, *, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    monkeypatch.setattr(
        "esper.service.transport.sockets.LocalConnection", connection
    )  # the answer matters here, not the way
    with answering(status, body.encode()) as port:
        assert health(Settings(home=tmp_path), "nissa", port) == answer


def test_a_foundry_that_is_kept_at_one_report_says_so() -> None:
    """A report whose answer never comes: the foundry's progress stands, though its thread and its
    server live.
    """
    bus, asked, release, clock = MemoryBus(), threading.Event(), threading.Event(), ManualClock()

    def innovate(_: FieldReport) -> tuple[()]:
        asked.set()
        release.wait(30)
        return ()

    def compiler() -> None:
        raise AssertionError

    layer = ReportedLayer(
        name="l", kind="Linear", in_features=9, out_features=3, chunks=(3,), parameter_budget=1000
    )
    report: Event = FieldReport(
        **Origin("r", "tamiyo", "0" * 32, CLOCK).envelope("report"),
        run_seed=0,
        layers=(layer,),
        families=(),
    )
    with bus.producer(sender_id="test") as producer:
        producer.send(report)
        producer.flush(5)
    foundry = Foundry(
        bus=bus,
        store=MemoryStore(),
        clock=clock,
        compiler=compiler,  # type: ignore[arg-type]
        innovate=innovate,
    )
    thread = threading.Thread(target=foundry.run, daemon=True)
    thread.start()
    assert asked.wait(20)
    assert foundry.progress.well()
    clock.advance(STUCK_S + 1)
    assert not foundry.progress.well()
    assert foundry.progress.details()["stuck_s"] > STUCK_S
    release.set()
    assert eventually(foundry.progress.well, 20)
    foundry.stop.set()
    thread.join(20)
