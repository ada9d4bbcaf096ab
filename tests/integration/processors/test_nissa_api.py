"""Claims about Nissa's API as a process on a real broker."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.records import AuditRecorded, MetricRecorded, ResourceSampled
from esper.service import create_app
from esper_processors.nissa.api import Nissa, add_routes
from tests.integration.processors.test_nissa import events_of, metrics, run_of
from tests.integration.processors.workers import Line, Worker, wait_for
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

DEFINITION: dict[str, Any] = {
    "name": "queue_depth",
    "kind": "gauge",
    "help": "Jobs that wait",
    "unit": "jobs",
    "labels": ["queue"],
}
SAMPLE: dict[str, Any] = {
    "samples": [{"name": "queue_depth", "value": 4, "labels": {"queue": "a"}}]
}
SILENCE: dict[str, Any] = {"until": "2999-01-01T00:00:00Z", "reason": "a test"}
TABLE = (
    Row("GET", "/health", None),
    Row("GET", "/openapi.json", "viewer"),
    Row("GET", "/metrics", "viewer"),
    Row("GET", "/api/v1/status", "viewer"),
    Row("GET", "/api/v1/adaptations", "viewer"),
    Row("GET", "/api/v1/metrics/definitions", "viewer"),
    Row("POST", "/api/v1/metrics/definitions", "operator", body=DEFINITION),
    Row("POST", "/api/v1/metrics", "operator", body=SAMPLE),
    Row("GET", "/api/v1/alerts", "viewer"),
    Row("GET", "/api/v1/alerts/silences", "viewer"),
    Row("POST", "/api/v1/alerts/silences", "operator", body=SILENCE),
    Row("DELETE", "/api/v1/alerts/silences/{silence_id}", "operator", "/api/v1/alerts/silences/x"),
)


def test_every_route_has_its_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The table of roles below names each route that Nissa adds."""
    settings, clock = Settings(home=tmp_path_factory.mktemp("home")), SystemClock()
    app = create_app(
        title="t", part="nissa", settings=settings, clock=clock, ready=dict, audit=Recorder()
    )
    nothing: Any = None
    asks = Nissa(
        scene=nothing,
        collectors=nothing,
        attempts=nothing,
        declare=nothing,
        record=nothing,
        alerting=nothing,
    )
    add_routes(app, asks)
    assert_every_route_has_a_row(app, TABLE)


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_route_asks_for_its_role(nissa: Worker, holder: Holder) -> None:
    """The running worker answers 401 without a valid token, 403 with too low a role, and neither
    with the right one.
    """
    headers = credentials(nissa.settings, SystemClock(), holder)
    with client_of(f"http://127.0.0.1:{nissa.port}") as client:

        def ask(row: Row, given: Mapping[str, str]) -> httpx.Response:
            return client.request(row.method, row.path or row.route, json=row.body, headers=given)

        for row in TABLE:
            assert_answered_by_role(ask, row, holder, headers)


def test_adaptations_tell_decision_answer_and_outcome_and_survive_a_kill(
    nissa: Worker, line: Line
) -> None:
    """Three decisions, applied, rejected and unanswered, are given in pages newest first, and again
    the same after kill -9 and a second telling.
    """
    run = Run("api-1")
    told = [
        run.started(),
        run.reviewed("d1", "d2", "d3"),
        run.answered("d1"),
        run.answered("d2", refused="Seed 0[1] rests."),
        run.outcome("d1"),
    ]
    line.send(*told)

    def shown() -> dict[str, Any]:
        return {
            one["decision_id"]: one
            for one in nissa.json("/api/v1/adaptations?run=api-1")["adaptations"]
        }

    def complete() -> bool:
        found = shown()
        return (
            len(found) == 3
            and found["d1"]["verdict"] == "FOSSILIZED"
            and found["d2"]["result"] == "REJECTED"
        )

    wait_for(complete)
    before = shown()
    assert (before["d1"]["result"], before["d1"]["reward"], before["d1"]["confidence"]) == (
        "APPLIED",
        1.0,
        0.9,
    )
    assert (before["d2"]["reason"], before["d3"]["result"]) == ("Seed 0[1] rests.", "PENDING")
    first = nissa.json("/api/v1/adaptations?run=api-1&limit=2")
    second = nissa.json(f"/api/v1/adaptations?run=api-1&limit=2&cursor={first['cursor']}")
    assert [one["decision_id"] for one in (*first["adaptations"], *second["adaptations"])] == [
        "d3",
        "d2",
        "d1",
    ]
    assert second["cursor"] is None
    assert nissa.get("/api/v1/adaptations?cursor=nonsense")[0] == 422
    nissa.signal(signal.SIGKILL)
    nissa.start()
    nissa.wait_ready()
    wait_for(complete)
    line.send(*told)
    line.send(run.epoch_ended(validation_accuracy=0.5))
    wait_for(lambda: run_of(nissa, "api-1").get("epoch") == 1)
    assert shown() == before


def test_a_run_that_goes_back_is_followed(nissa: Worker, line: Line) -> None:
    """Checkpoints, an instability and a rollback do not stop Nissa: they are counted, and the seeds
    are the restored ones.
    """
    run = Run("api-2")
    line.send(
        *events_of(run),
        run.checkpoint(40),
        run.unstable(),
        run.rolled_back(1),
        run.epoch_ended(validation_accuracy=0.6),
    )
    wait_for(lambda: run_of(nissa, "api-2").get("validation_accuracy") == 0.6)
    found = run_of(nissa, "api-2")
    assert (
        found["rollbacks"],
        found["checkpoints"],
        found["instabilities"],
        found["timeline"],
    ) == (1, 1, 1, 1)
    assert found["seeds"] == {"DORMANT": 7, "FOSSILIZED": 1}
    assert metrics(nissa)['esper_rollback_count{run="api-2"}'] == 1


def test_cache_hits_appear_once_a_cache_was_heard(nissa: Worker, line: Line) -> None:
    """After CacheSampled esper_kernel_cache_hits stands there by tier."""
    run = Run("api-3")
    line.send(run.started(), run.cache(memory=80, disk=10, store=5, misses=5))
    name = 'esper_kernel_cache_hits{process="trainer",run="api-3",tier="memory"}'
    wait_for(lambda: metrics(nissa).get(name) == 80)


def test_custom_metrics_are_recorded_shown_and_kept(nissa: Worker, broker: str) -> None:
    """A declared metric is taken, stands on telemetry.custom and in /metrics, also after kill -9.

    What does not fit is refused and not recorded.
    """
    line = Line(broker, "telemetry.custom", "audit.events")
    try:
        assert nissa.post("/api/v1/metrics/definitions", DEFINITION)[0] in (200, 201)
        assert nissa.post("/api/v1/metrics/definitions", DEFINITION)[0] == 200
        assert (
            nissa.post("/api/v1/metrics/definitions", {**DEFINITION, "kind": "counter"})[0] == 409
        )
        assert (
            nissa.post(
                "/api/v1/metrics/definitions", {**DEFINITION, "name": "esper_training_loss"}
            )[0]
            == 409
        )
        code, problem = nissa.post(
            "/api/v1/metrics/definitions", {**DEFINITION, "name": "queue-depth"}
        )
        assert (code, "take letters" in problem["detail"]) == (422, True)
        assert nissa.post("/api/v1/metrics", SAMPLE) == (202, {"recorded": 1})
        bad = [
            {"name": "queue_depth", "value": 9, "labels": {"queue": "b"}},
            {"name": "nobody", "value": 1, "labels": {}},
        ]
        code, problem = nissa.post("/api/v1/metrics", {"samples": bad})
        assert (code, "define it" in problem["detail"]) == (422, True)
        wait_for(lambda: metrics(nissa).get('queue_depth{queue="a"}') == 4)
        nissa.signal(signal.SIGKILL)
        nissa.start()
        nissa.wait_ready()
        wait_for(lambda: metrics(nissa).get('queue_depth{queue="a"}') == 4)
        assert (
            nissa.post(
                "/api/v1/metrics",
                {"samples": [{"name": "queue_depth", "value": 5, "labels": {"queue": "a"}}]},
            )[0]
            == 202
        )
        recorded = [
            event
            for event, _ in line.wait(
                lambda event, _: isinstance(event, MetricRecorded) and event.value == 5
            )
        ]
        assert [
            (event.name, event.unit) for event in recorded if isinstance(event, MetricRecorded)
        ] == [("queue_depth", "jobs")]
        wait_for(lambda: metrics(nissa).get('queue_depth{queue="a"}') == 5)
        assert 'queue_depth{queue="b"}' not in metrics(nissa)
        audited = line.wait(
            lambda event, _: (
                isinstance(event, AuditRecorded)
                and event.action == "POST /api/v1/metrics"
                and event.status == 202
            )
        )
        assert isinstance(audited[0][0], AuditRecorded)
    finally:
        line.close()


@pytest.mark.slow
def test_resources_are_sampled_every_fifteen_seconds(nissa: Worker, broker: str) -> None:
    """Nissa's own process and the machine are on telemetry.resources, in /metrics, and in the ring
    of samples.
    """
    line = Line(broker, "telemetry.resources")
    try:
        for name in ("nissa", "machine"):
            line.wait(
                lambda event, _, name=name: (  # type: ignore[misc]
                    isinstance(event, ResourceSampled) and event.process == name
                )
            )
    finally:
        line.close()
    wait_for(lambda: metrics(nissa).get('esper_process_rss_bytes{process="machine"}', 0) > 1 << 20)
    wait_for(
        lambda: any(
            "nissa" in one["resources"]
            for one in nissa.json("/api/v1/status?samples=100")["samples"]
        )
    )


def test_a_port_in_use_ends_the_worker_with_a_sentence(broker: str, tmp_path: Path) -> None:
    """Where somebody else listens on its port, the worker ends by itself with exit code 3 and one
    sentence that says what to do.
    """
    worker = Worker("nissa", broker, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", worker.port))
        taken.listen()
        worker.start()
        assert worker.wait(300) == 3
    said = worker.log.read_text()
    assert f"Port {worker.port} on 127.0.0.1 is in use" in said.splitlines()[-1]
    assert "Traceback" not in said
