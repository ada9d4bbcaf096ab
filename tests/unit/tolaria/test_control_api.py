"""Claims about Tolaria's control API, behind a real socket on the bus in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.events import Event, decode
from esper.events.records import PauseRequested, RollbackRequested, RunRequested
from esper.oona.bus.memory import MemoryBus
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import Intake
from esper.service import create_app
from esper.tolaria.control import trainers as module
from esper.tolaria.control.api import Control, add_routes
from esper.tolaria.control.requests import RequestSender
from esper.tolaria.control.run_ledger import REQUESTS, RunLedger
from esper.tolaria.control.trainers import Trainers
from tests.servicefixtures import (
    HOLDERS,
    Holder,
    Recorder,
    Row,
    assert_answered_by_role,
    assert_every_route_has_a_row,
    credentials,
    served,
)
from tests.stackfixtures import eventually
from tests.unit.nissa.journal import Run

TABLE = (
    Row("GET", "/health", None),
    Row("GET", "/openapi.json", "viewer"),
    Row("GET", "/api/v1/status", "viewer"),
    Row("GET", "/api/v1/runs", "viewer"),
    Row("GET", "/api/v1/runs/{run_id}", "viewer", "/api/v1/runs/going"),
    Row(
        "GET",
        "/api/v1/runs/{run_id}/commands/{command_id}",
        "viewer",
        "/api/v1/runs/going/commands/none",
    ),
    Row("POST", "/api/v1/runs", "operator", body={"recipe": "mnist1d", "run_id": "ended"}),
    *(
        Row("POST", f"/api/v1/runs/{{run_id}}/{what}", "operator", f"/api/v1/runs/going/{what}", {})
        for what in ("pause", "resume", "checkpoint", "rollback")
    ),
)
SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")


@dataclass
class Part:
    """The API and what it stands on."""

    app: FastAPI
    client: httpx.Client
    settings: Settings
    clock: Clock
    bus: MemoryBus
    trainers: Trainers

    def ask(
        self, method: str, path: str, body: object = None, *, holder: Holder = "operator"
    ) -> httpx.Response:
        """Ask as an operator, unless said otherwise."""
        return self.client.request(
            method, path, json=body, headers=credentials(self.settings, self.clock, holder)
        )

    def requests(self) -> list[Event]:
        """Everything that stands on the topic of requests."""
        with self.bus.reader([REQUESTS], start="beginning") as reader:
            return [decode(received.value) for received in reader.poll(1000, 0.2)]


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Part]:
    """A part that knows a run that goes on and one that has ended.

    A trainer is a program that sleeps.
    """
    monkeypatch.setattr(module, "command", lambda *_, **__: SLEEPER)
    settings, clock, bus = Settings(home=tmp_path), SystemClock(), MemoryBus()
    going, ended = Run("going", clock), Run("ended", clock)
    journal = [
        going.started(),
        *going.germinated("0", 1),
        going.epoch_ended(validation_accuracy=0.4),
        going.checkpoint(40),
    ]
    with bus.producer(sender_id="trainer") as producer:
        for event in (*journal, ended.started(), ended.completed(accuracy=0.7)):
            producer.send(event)
        producer.flush(5)
    letters = bus.producer(sender_id="tolaria")
    ledger = RunLedger(bus, Intake.of(DeadLetters(letters, "tolaria", clock)))
    ledger.start()
    trainers = Trainers(settings, environment=os.environ, embedded=False, clock=clock)
    app = create_app(
        title="t",
        part="tolaria",
        settings=settings,
        clock=clock,
        ready=lambda: {"journal": ledger.caught_up},
        audit=Recorder(),
    )
    with bus.producer(sender_id="tolaria") as producer:
        add_routes(app, Control(ledger, trainers, RequestSender(producer), clock))
        with served(app, settings) as client:
            assert eventually(lambda: ledger.caught_up)
            yield Part(app, client, settings, clock, bus, trainers)
        trainers.end(10)
        ledger.stop()
        letters.close()


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_route_asks_for_its_role(part: Part, holder: Holder) -> None:
    """Every route has its row.

    Without a valid token it is 401, with too low a role 403, with the right one neither.
    """
    assert_every_route_has_a_row(part.app, TABLE)

    def ask(row: Row, headers: Mapping[str, str]) -> httpx.Response:
        return part.client.request(
            row.method, row.path or row.route, json=row.body, headers=headers
        )

    for row in TABLE:
        assert_answered_by_role(ask, row, holder, credentials(part.settings, part.clock, holder))


def test_a_run_is_told_of_by_its_journal(part: Part) -> None:
    """Status, epoch, seeds and snapshots are those of the journal; an unknown run is 404."""
    told = part.ask("GET", "/api/v1/runs/going").json()
    assert (told["status"], told["epoch"], told["validation_accuracy"]) == ("RUNNING", 1, 0.4)
    assert told["seeds"] == {"DORMANT": 7, "GERMINATED": 1}
    assert told["layers"]["0"]["1"] == "GERMINATED"
    assert [one["snapshot_id"] for one in told["checkpoints"]] == ["0-40"]
    assert {
        run["run_id"]: run["status"] for run in part.ask("GET", "/api/v1/runs").json()["runs"]
    } == {
        "going": "RUNNING",
        "ended": "COMPLETED",
    }
    status = part.ask("GET", "/api/v1/status").json()
    assert status["packages"]["torch"]
    assert len(status["runs"]) == 2
    assert part.ask("GET", "/api/v1/runs/nobody").status_code == 404


def test_requests_become_events_and_are_refused_where_nobody_hears_them(part: Part) -> None:
    """Each of the four is on Kafka with its reason and expiry once 202 is answered.

    An unknown run is 404, an ended one 409, an unknown snapshot 422.
    """
    answer = part.ask("POST", "/api/v1/runs/going/pause", {"reason": "a look", "expires_s": 5})
    assert answer.status_code == 202
    told = part.ask("GET", answer.headers["location"]).json()
    assert (told["status"], told["request"], told["reason"]) == (
        "PENDING",
        "PauseRequested",
        "a look",
    )
    for what in ("resume", "checkpoint"):
        assert part.ask("POST", f"/api/v1/runs/going/{what}").status_code == 202
    assert (
        part.ask("POST", "/api/v1/runs/going/rollback", {"snapshot_id": "0-40"}).status_code == 202
    )
    sent = part.requests()
    assert [event.NAME for event in sent] == [
        "PauseRequested",
        "ResumeRequested",
        "CheckpointRequested",
        "RollbackRequested",
    ]
    pause, back = sent[0], sent[3]
    assert isinstance(pause, PauseRequested)
    assert (pause.event_id, pause.run_id) == (told["command_id"], "going")
    assert abs(pause.expires_at - pause.occurred_at - 5_000_000) < 1_000_000
    assert isinstance(back, RollbackRequested)
    assert back.snapshot_id == "0-40"
    assert part.ask("POST", "/api/v1/runs/nobody/pause").status_code == 404
    assert part.ask("POST", "/api/v1/runs/ended/pause").status_code == 409
    refused = part.ask("POST", "/api/v1/runs/going/rollback", {"snapshot_id": "9-9"})
    assert refused.status_code == 422
    assert "0-40" in refused.json()["detail"]
    assert len(part.requests()) == 4


def test_a_start_is_checked_recorded_and_carried_out(part: Part) -> None:
    """A good recipe gives 202, RunRequested on Kafka and a living process.

    While it lives the run cannot be started again.
    """
    body = {"recipe": "mnist1d", "run_id": "new", "overrides": ["run.epochs=2"], "reason": "a try"}
    answer = part.ask("POST", "/api/v1/runs", body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == "/api/v1/runs/new"
    (sent,) = part.requests()
    assert isinstance(sent, RunRequested)
    assert (sent.run_id, sent.recipe, sent.overrides, sent.reason) == (
        "new",
        "mnist1d",
        ("run.epochs=2",),
        "a try",
    )
    told = part.ask("GET", "/api/v1/runs/new").json()
    assert (told["status"], told["trainer"]["alive"]) == ("STARTING", True)
    assert part.ask("POST", "/api/v1/runs", body).status_code == 409
    assert part.ask("POST", "/api/v1/runs/new/pause").status_code == 409
    assert eventually(lambda: part.trainers.last_words("new") == "up")
    part.trainers.end(10)
    told = part.ask("GET", "/api/v1/runs/new").json()
    assert (told["status"], told["reason"], told["trainer"]["alive"]) == (
        "NOT STARTED",
        "up",
        False,
    )


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"recipe": "mnist1"}, 403, "did you mean mnist1d"),
        ({"recipe": "mnist1d", "overrides": ["run.epoch=2"]}, 422, "run.epochs"),
        ({"recipe": "mnist1d", "overrides": ["tamiyo.policy.max_activ=2"]}, 422, "max_active"),
        ({"recipe": "mnist1d", "run_id": "../x"}, 422, "names a folder"),
        ({"recipe": "mnist1d", "run_id": "going"}, 409, "resume"),
        ({"recipe": "mnist1d", "run_id": "ended"}, 409, "another run_id"),
        ({"run_id": "ended", "resume": True}, 409, "another run_id"),
        ({"run_id": "nobody", "resume": True}, 404, "to resume"),
    ],
)
def test_what_cannot_be_started_is_refused_before_anything_happens(
    part: Part, body: dict[str, object], status: int, says: str
) -> None:
    """A wrong key or name is 422 with the nearest right one, a recipe that is not listed 403, a
    taken run 409, an unknown one to resume 404; nothing is sent or started.
    """
    answer = part.ask("POST", "/api/v1/runs", body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert part.requests() == []
    assert part.trainers.all() == []


def test_a_run_whose_trainer_died_is_stopped(part: Part) -> None:
    """When the trainer that this part started dies without an end in its journal, the run is
    STOPPED, and requests to it are 409.
    """
    part.trainers.start("going", "mnist1d", (), resume=True)
    assert part.ask("GET", "/api/v1/runs/going").json()["status"] == "RUNNING"
    part.trainers.end(10)
    told = part.ask("GET", "/api/v1/runs/going").json()
    assert (told["status"], told["trainer"]["exit_code"]) == ("STOPPED", -15)
    assert part.ask("POST", "/api/v1/runs/going/pause").status_code == 409


def test_without_a_broker_nothing_is_promised(part: Part) -> None:
    """While Kafka is away a request is 503 and no trainer is started."""
    part.bus.set_online(False)
    answer = part.ask("POST", "/api/v1/runs", {"recipe": "mnist1d", "run_id": "dark"})
    assert answer.status_code == 503
    assert part.trainers.find("dark") is None
