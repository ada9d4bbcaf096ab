"""Claims about the control APIs on a whole stack, with a real trainer that they start, ask, lose
sight of and end.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.identity import Identity
from esper.stack import status
from tests.integration.run.whole import endpoints, esper
from tests.servicefixtures import client_of, credentials
from tests.waiting import until

CLOCK = SystemClock()
RUN = "asked"


class People:
    """An operator with a token, who asks the parts of the stack in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._settings = Settings(home=home)

    def ask(self, part: str, method: str, path: str, body: object = None) -> httpx.Response:
        """One request to a part; 503 while it is away."""
        url = getattr(endpoints(self.home), f"{part}_url")
        try:
            with client_of(url) as client:
                return client.request(
                    method, path, json=body, headers=credentials(self._settings, CLOCK, "operator")
                )
        except httpx.TransportError:
            return httpx.Response(503)

    def run(self) -> dict[str, Any]:
        """The run as Tolaria tells it; empty while it cannot."""
        answer = self.ask("tolaria", "GET", f"/api/v1/runs/{RUN}")
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    def pid(self) -> int:
        """The pid of Tolaria's part."""
        now = status(self._settings)
        part = now.part("tolaria") if now else None
        return part.process.pid if part and part.process and part.phase == "ready" else 0


@pytest.fixture
def people(home: Path) -> Iterator[People]:
    """Somebody who asks, and whose trainer is gone afterwards."""
    somebody = People(home)
    yield somebody
    trainer = (somebody.run() or {}).get("trainer")
    if trainer and (process := Identity.of(trainer["pid"])) is not None and trainer["alive"]:
        process.end(clock=CLOCK, timeout=300)


@pytest.mark.slow
def test_a_run_is_started_asked_lost_sight_of_and_ended_over_http(people: People) -> None:
    """A run that HTTP started obeys requests over HTTP and from the command line, and a manual
    decision through the guardrails.

    Tolaria's part is killed while the run stands still: the trainer lives on, and the next life of
    the part knows it and its journal again. Told to end, the part ends the trainer in order; the
    run is STOPPED, and goes on when it is asked to.
    """
    body = {
        "recipe": "mnist1d",
        "run_id": RUN,
        "overrides": ["run.epochs=100000"],
        "reason": "a try",
    }
    started = people.ask("tolaria", "POST", "/api/v1/runs", body)
    assert started.status_code == 202, started.text
    until(lambda: people.run().get("epoch", 0) >= 1, "an epoch")
    trainer = people.run()["trainer"]
    assert trainer["alive"]

    layer = next(iter(people.run()["layers"]))
    decided = people.ask(
        "tamiyo",
        "POST",
        f"/api/v1/runs/{RUN}/decisions",
        {"command": "TERMINATE", "layer": layer, "seed": 3, "reason": "closed"},
    )
    assert decided.status_code == 202, decided.text
    until(lambda: _told(people, decided) == "APPLIED", "the decision's answer")
    until(lambda: people.run()["layers"][layer]["3"] == "TERMINATED", "the seed's stage")
    again = people.ask(
        "tamiyo",
        "POST",
        f"/api/v1/runs/{RUN}/decisions",
        {"command": "TERMINATE", "layer": layer, "seed": 3, "reason": "closed"},
    )
    until(lambda: _told(people, again) == "REJECTED", "the refusal")
    shown = people.ask("nissa", "GET", f"/api/v1/adaptations?run={RUN}").json()["adaptations"]
    results = {one["command_id"]: (one["source"], one["result"]) for one in shown}
    assert results[decided.json()["command_id"]] == ("operator", "APPLIED")

    paused = people.ask("tolaria", "POST", f"/api/v1/runs/{RUN}/pause", {"reason": "a look"})
    until(
        lambda: (
            people.ask("tolaria", "GET", paused.headers["location"]).json()["status"] == "ANSWERED"
        ),
        "the pause",
    )
    assert people.run()["status"] == "PAUSED"
    before, step = people.pid(), people.run()["step"]
    os.kill(before, signal.SIGKILL)
    until(lambda: people.pid() not in (0, before) and people.run(), "Tolaria's next life")
    found = people.run()
    assert (found["status"], found["step"]) == ("PAUSED", step)
    assert (found["trainer"]["pid"], found["trainer"]["alive"]) == (trainer["pid"], True)
    resumed = esper(people.home, "resume", RUN, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["answer"]["event"] == "RunResumed"
    until(lambda: people.run().get("step", 0) > step, "another step")

    before = people.pid()
    os.kill(before, signal.SIGTERM)
    until(lambda: people.pid() not in (0, before) and people.run(), "Tolaria's third life")
    until(lambda: people.run().get("status") == "STOPPED", "the trainer's end")
    refused = esper(people.home, "pause", RUN)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "has stopped" in refused.stderr
    last = people.run()["step"]
    gone_on = people.ask("tolaria", "POST", "/api/v1/runs", {"run_id": RUN, "resume": True})
    assert gone_on.status_code == 202, gone_on.text
    until(
        lambda: people.run().get("status") == "RUNNING" and people.run()["step"] > last,
        "the resumed run",
    )


def _told(people: People, decided: httpx.Response) -> str:
    answer = people.ask("tamiyo", "GET", decided.headers["location"])
    return str(answer.json()["status"]) if answer.status_code == 200 else ""
