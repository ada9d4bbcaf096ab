"""Claims about Tamiyo's API as a process on a real broker."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.records import SeedCommand
from esper.service import create_app
from esper_processors.tamiyo.api import Tamiyo, add_routes
from esper_processors.tamiyo.command_log import Commands
from tests.integration.processors.workers import Line, Worker, review_of, wait_for
from tests.servicefixtures import (
    HOLDERS,
    Holder,
    Recorder,
    Row,
    assert_answered_by_role,
    assert_every_route_has_a_row,
    client_of,
    credentials,
)
from tests.unit.nissa.journal import Run
from tests.unit.tamiyo.test_performance import delta
from tests.unit.tamiyo.world import Family, World

FAMILIES = {"0": (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03), Family("linear", 0.0))}
ORDER: dict[str, Any] = {"command": "CULL", "layer": "0", "seed": 1, "reason": "it does harm"}
TABLE = (
    Row("GET", "/health", None),
    Row("GET", "/openapi.json", "viewer"),
    Row("GET", "/api/v1/runs", "viewer"),
    Row("GET", "/api/v1/runs/{run_id}", "viewer", "/api/v1/runs/nobody"),
    Row("GET", "/api/v1/decisions", "viewer"),
    Row(
        "POST",
        "/api/v1/runs/{run_id}/decisions",
        "operator",
        "/api/v1/runs/nobody/decisions",
        ORDER,
    ),
    Row("GET", "/api/v1/commands/{command_id}", "viewer", "/api/v1/commands/none"),
)


def test_every_route_has_its_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The table of roles below names each route that Tamiyo adds."""
    settings, clock = Settings(home=tmp_path_factory.mktemp("home")), SystemClock()
    app = create_app(
        title="t", part="tamiyo", settings=settings, clock=clock, ready=dict, audit=Recorder()
    )
    nothing: Any = None
    add_routes(
        app,
        Tamiyo(
            rows=dict,
            performance=nothing,
            commands=Commands(),
            followed=nothing,
            give=nothing,
            clock=clock,
        ),
    )
    assert_every_route_has_a_row(app, TABLE)


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_route_asks_for_its_role(tamiyo: Worker, holder: Holder) -> None:
    """The running worker answers 401 without a valid token, 403 with too low a role, and neither
    with the right one.
    """
    headers = credentials(tamiyo.settings, SystemClock(), holder)
    with client_of(f"http://127.0.0.1:{tamiyo.port}") as client:

        def ask(row: Row, given: Mapping[str, str]) -> httpx.Response:
            return client.request(row.method, row.path or row.route, json=row.body, headers=given)

        for row in TABLE:
            assert_answered_by_role(ask, row, holder, headers)


def grown(run_id: str, tamiyo: Worker, line: Line, packets: int) -> World:
    """A run that has sent this many packets and done as it was told."""
    del tamiyo
    run = World({"0": 40}, FAMILIES, run_id=run_id, policy={"first_epoch": 1, "every_epochs": 1})
    for number in range(packets):
        line.send(run.packet())
        line.wait(review_of(run_id, number))
        run.turn()
    return run


def test_runs_and_decisions_are_told_of(tamiyo: Worker, line: Line) -> None:
    """A run has its arms with posteriors and trials, and its decisions with their evidence, newest
    first; an unknown run is 404.
    """
    run = grown("tamiyo-api-1", tamiyo, line, 12)
    assert "tamiyo-api-1" in {one["run_id"] for one in tamiyo.json("/api/v1/runs")["runs"]}
    told = tamiyo.json("/api/v1/runs/tamiyo-api-1")
    assert told["packet"] == 11
    assert {arm["family"] for arm in told["arms"]} <= {"conv1d", "mlp", "linear"}
    assert all(0 < arm["posterior"]["success_mean"] < 1 for arm in told["arms"])
    decisions = tamiyo.json("/api/v1/decisions?run=tamiyo-api-1&limit=100")["decisions"]
    assert [one["packet"] for one in decisions] == list(range(11, -1, -1))
    shown = {command["decision_id"] for one in decisions for command in one["commands"]}
    assert shown == {command.decision_id for review in run.answers for command in review.commands}
    assert tamiyo.get("/api/v1/runs/nobody")[0] == 404


def test_the_tracker_is_written_with_the_packets_and_survives_a_kill(
    tamiyo: Worker, line: Line
) -> None:
    """Deltas of a seed are shown at once; once the next packet is answered, they survive kill -9:
    they are written before the answer is sent.
    """
    run = World({"0": 40}, FAMILIES, run_id="r", policy={"first_epoch": 100})
    clock = SystemClock()
    values = [delta(40 * number, 0.1, 0.2) for number in range(1, 6)]

    def now(event: Any) -> Any:
        from dataclasses import replace  # noqa: PLC0415

        return replace(event, occurred_at=clock.now_us())

    line.send(run.packet())
    line.wait(review_of("r", 0))
    line.send(*(now(value) for value in values))

    def activations() -> int:
        return int(tamiyo.json("/api/v1/runs/r")["performance"]["activations"])

    wait_for(lambda: activations() == 5)
    run.epoch = 1
    line.send(run.packet())
    line.wait(review_of("r", 1))
    tamiyo.signal(signal.SIGKILL)
    tamiyo.start()
    tamiyo.wait_ready()
    wait_for(lambda: activations() == 5)
    seed = tamiyo.json("/api/v1/runs/r")["performance"]["seeds"][0]
    assert abs(seed["mean"] - 0.13) < 1e-9
    assert len(seed["window"]) == 5


def test_a_manual_decision_is_a_command_with_an_expiry_and_its_answer_can_be_read(
    tamiyo: Worker, broker: str, line: Line
) -> None:
    """202 gives a command id under which its state is told: PENDING, then what the journal answers,
    also by the worker's next life.
    """
    grown("tamiyo-api-2", tamiyo, line, 1)
    heard = Line(broker, "control.kasmina.commands")
    try:
        code, told = tamiyo.post("/api/v1/runs/tamiyo-api-2/decisions", {**ORDER, "expires_s": 600})
        assert code == 202
        sent, received = heard.wait(lambda event, _: event.run_id == "tamiyo-api-2")[0]
    finally:
        heard.close()
    assert isinstance(sent, SeedCommand)
    assert (sent.event_id, sent.command, sent.layer, sent.seed, sent.reason) == (
        told["command_id"],
        "CULL",
        "0",
        1,
        "it does harm",
    )
    assert received.key == b"tamiyo-api-2"
    assert abs(sent.expires_at - sent.occurred_at - 600_000_000) < 1_000_000
    path = f"/api/v1/commands/{sent.event_id}"
    assert tamiyo.json(path)["status"] == "PENDING"
    line.send(
        Run("tamiyo-api-2").answered(
            sent.event_id,
            refused="CULL does not fit a seed that is DORMANT.",
            topic=SeedCommand.TOPIC,
        )
    )
    wait_for(lambda: tamiyo.json(path)["status"] == "REJECTED")
    tamiyo.signal(signal.SIGKILL)
    tamiyo.start()
    tamiyo.wait_ready()
    wait_for(lambda: tamiyo.get(path)[0] == 200)
    answered = tamiyo.json(path)
    assert (answered["status"], answered["answer"]["reason"]) == (
        "REJECTED",
        "CULL does not fit a seed that is DORMANT.",
    )
    for wrong in (
        {**ORDER, "command": "GERMINATE"},
        {**ORDER, "kernel_id": "k"},
        {**ORDER, "command": "SET_ALPHA"},
        {**ORDER, "seed": -1},
    ):
        assert tamiyo.post("/api/v1/runs/tamiyo-api-2/decisions", wrong)[0] == 422
    assert tamiyo.post("/api/v1/runs/nobody/decisions", ORDER)[0] == 404
