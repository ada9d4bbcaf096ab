"""Claims about live alerts of a Nissa on a real broker, with real servers that they go to."""

from __future__ import annotations

import hashlib
import hmac
import math
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esper.events import Event
from esper.events.records import AlertRaised, AlertResolved, AnomalyDetected, AuditRecorded
from esper_processors.nissa.alerting.instants import text_of
from tests.integration.processors.test_nissa import metrics, run_of
from tests.integration.processors.workers import CLOCK, Line, Worker, running, shared_home, wait_for
from tests.listeners import Listener, Posted, listening, taking_mail
from tests.unit.nissa.journal import Run
from tests.waiting import never

SECRET = "not that secret"  # noqa: S105  # of these tests alone


@dataclass(frozen=True)
class Alerting:
    """A Nissa with every route, and what they lead to."""

    nissa: Worker
    webhook: Listener
    alertmanager: Listener
    mail: Listener
    line: Line

    def posted(self, run_id: str) -> list[dict[str, Any]]:
        """What the webhook was told of a run."""
        return [one.json for one in self.webhook.posted if one.json["run_id"] == run_id]

    def alerts(self, query: str) -> list[dict[str, Any]]:
        """What the API lists."""
        return list(self.nissa.json(f"/api/v1/alerts?{query}")["alerts"])

    def on_topic(self, run_id: str) -> list[Event]:
        """What stands on the topic about a run, without waiting for more."""
        seen = self.line.wait(lambda event, _: event.run_id == run_id, count=0)
        return [event for event, _ in seen if event.NAME.startswith(("Alert", "Anomaly"))]


@pytest.fixture(scope="module")
def alerting(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    """The worker that is ready, and servers that listen."""
    home = shared_home(tmp_path_factory)
    secret = home / "webhook.secret"
    secret.write_text(f"{SECRET}\n")
    with ExitStack() as stack:
        webhook, alertmanager = (stack.enter_context(listening()) for _ in range(2))
        mail = stack.enter_context(taking_mail())
        settings = {
            "ESPER_ALERTS__WEBHOOK_URL": f"{webhook.url}/alerts",
            "ESPER_ALERTS__WEBHOOK_SECRET_FILE": str(secret),
            "ESPER_ALERTS__ALERTMANAGER_URL": alertmanager.url,
            "ESPER_ALERTS__MAIL_TO": "ops@example.org",
            "ESPER_ALERTS__MAIL_FROM": "esper@example.org",
            "ESPER_ALERTS__SMTP_SERVER": mail.url,
        }
        nissa = stack.enter_context(running("nissa", broker, home, settings))
        line = Line(broker, "observability.alerts", "audit.events")
        stack.callback(line.close)
        yield Alerting(nissa, webhook, alertmanager, mail, line)


def troubled(run: Run) -> list[Event]:
    """A run whose loss becomes NaN."""
    return [
        run.started(),
        *(run.step(number, loss=1.0) for number in range(1, 6)),
        run.step(6, loss=math.nan),
    ]


def healed(run: Run) -> list[Event]:
    """And learns again, for as long as the detector wants to see."""
    return [run.step(number, loss=1.0) for number in range(7, 32)]


def test_a_loss_that_is_nan_reaches_people_and_a_kill_says_nothing_twice(
    alerting: Alerting, record_property: Any
) -> None:
    """The alert is on the topic, in the API, at the webhook with a good signature, at Alertmanager
    and in a mail. Killed with SIGKILL and given every event again, Nissa still knows it, raises it
    no second time, and says when it is over.
    """
    run = Run("alerts-1")
    events = troubled(run)
    sent_us = CLOCK.now_us()
    alerting.line.send(*events)
    (raised, _), *_ = alerting.line.wait(
        lambda event, _: isinstance(event, AlertRaised) and event.run_id == "alerts-1"
    )
    assert isinstance(raised, AlertRaised)
    # how long it took is told, and not judged
    record_property("alert_delay_ms", (raised.occurred_at - sent_us) / 1e3)
    assert (raised.detector, raised.severity, raised.step) == ("loss_not_finite", "CRITICAL", 6)
    assert raised.evidence == (events[-1].event_id,)
    wait_for(lambda: bool(alerting.posted("alerts-1")))
    (post,) = [one for one in alerting.webhook.posted if one.json["run_id"] == "alerts-1"]
    assert_signed(post)
    assert (post.path, post.json["event"], post.json["value"]) == ("/alerts", "AlertRaised", None)

    def managed() -> list[tuple[str, dict[str, Any]]]:
        return [
            (one.path, alert)
            for one in alerting.alertmanager.posted
            for alert in one.json
            if alert["labels"].get("run") == "alerts-1"
        ]

    wait_for(lambda: bool(managed()))
    (path, told), *_ = managed()
    assert (path, told["labels"]["alertname"]) == ("/api/v2/alerts", "loss_not_finite")
    wait_for(lambda: any("alerts-1" in one["Subject"] for one in alerting.mail.mails))
    assert {one["To"] for one in alerting.mail.mails} == {"ops@example.org"}
    (listed,) = alerting.alerts("run=alerts-1&open=true")
    assert (listed["alert_id"], listed["withheld"]) == (raised.alert_id, "")
    assert metrics(alerting.nissa)['esper_alerts_open{severity="critical"}'] >= 1

    alerting.nissa.signal(signal.SIGKILL)
    alerting.nissa.start()
    alerting.nissa.wait_ready()
    assert [one["alert_id"] for one in alerting.alerts("run=alerts-1&open=true")] == [
        raised.alert_id
    ]
    alerting.line.send(*events, *healed(run))
    (over, _), *_ = alerting.line.wait(
        lambda event, _: isinstance(event, AlertResolved) and event.run_id == "alerts-1"
    )
    assert isinstance(over, AlertResolved)
    assert (over.alert_id, over.why) == (raised.alert_id, "CLEARED")
    wait_for(lambda: len(alerting.posted("alerts-1")) == 2)
    assert [type(event) for event in alerting.on_topic("alerts-1")] == [
        AnomalyDetected,
        AlertRaised,
        AlertResolved,
    ]
    assert alerting.alerts("run=alerts-1&open=true") == []
    (past,) = alerting.alerts("run=alerts-1&open=false")
    assert (past["alert_id"], past["why"]) == (raised.alert_id, "CLEARED")


def assert_signed(post: Posted) -> None:
    """That a post is by whoever knows the secret, as a receiver would check it."""
    stamp = post.headers["X-Esper-Timestamp"]
    expected = hmac.new(SECRET.encode(), f"{stamp}.".encode() + post.body, hashlib.sha256)
    assert hmac.compare_digest(post.headers["X-Esper-Signature"], f"sha256={expected.hexdigest()}")


def test_a_silence_withholds_is_kept_audited_and_ends(alerting: Alerting) -> None:
    """What it covers is detected and listed as silenced, and nobody hears of it, also after kill
    -9; deleted, it is gone. A silence that cannot be is refused with a remedy.
    """
    body = {"until": "2099-01-01T00:00:00Z", "reason": "known", "run": "alerts-2*"}
    code, problem = alerting.nissa.post("/api/v1/alerts/silences", body)
    assert (code, "more than a year" in problem["detail"]) == (422, True)
    body["until"] = "2000-01-01T00:00:00Z"
    code, problem = alerting.nissa.post("/api/v1/alerts/silences", body)
    assert (code, "name a later time" in problem["detail"]) == (422, True)
    body["until"] = in_an_hour()
    code, silence = alerting.nissa.post("/api/v1/alerts/silences", body)
    assert (code, silence["who"], silence["reason"]) == (201, "tests", "known")
    alerting.nissa.signal(signal.SIGKILL)
    alerting.nissa.start()
    alerting.nissa.wait_ready()
    assert [
        one["silence_id"] for one in alerting.nissa.json("/api/v1/alerts/silences")["silences"]
    ] == [silence["silence_id"]]
    alerting.line.send(*troubled(Run("alerts-2")))
    alerting.line.wait(
        lambda event, _: isinstance(event, AnomalyDetected) and event.run_id == "alerts-2"
    )
    wait_for(lambda: [one["withheld"] for one in alerting.alerts("run=alerts-2")] == ["SILENCED"])
    assert never(lambda: alerting.posted("alerts-2"))
    place = f"/api/v1/alerts/silences/{silence['silence_id']}"
    assert alerting.nissa.ask("DELETE", place, role="viewer")[0] == 403
    assert alerting.nissa.ask("DELETE", place, role="operator")[0] == 200
    assert alerting.nissa.ask("DELETE", place, role="operator")[0] == 404
    alerting.nissa.signal(signal.SIGKILL)
    alerting.nissa.start()
    alerting.nissa.wait_ready()
    assert alerting.nissa.json("/api/v1/alerts/silences")["silences"] == []
    actions = ("POST /api/v1/alerts/silences", "DELETE /api/v1/alerts/silences/{silence_id}")
    for action in actions:
        alerting.line.wait(
            lambda event, _, action=action: (  # type: ignore[misc]
                isinstance(event, AuditRecorded)
                and event.action == action
                and event.status in (200, 201)
            )
        )


def test_a_route_that_fails_holds_up_nobody_and_is_counted(alerting: Alerting) -> None:
    """A webhook that refuses costs its own notice; an answer that asks for patience is asked
    again; a redirect is not followed.
    """
    name = 'esper_alert_route_failures_total{route="webhook"}'
    before = metrics(alerting.nissa).get(name, 0)
    alerting.webhook.statuses += [503, 404]
    alerting.line.send(*troubled(Run("alerts-3")))
    wait_for(lambda: len(alerting.posted("alerts-3")) == 2)
    wait_for(lambda: metrics(alerting.nissa).get(name) == before + 1)
    alerting.webhook.statuses += [302]
    alerting.line.send(*troubled(Run("alerts-4")))
    wait_for(lambda: metrics(alerting.nissa).get(name) == before + 2)
    wait_for(lambda: any("alerts-4" in one["Subject"] for one in alerting.mail.mails))
    wait_for(lambda: run_of(alerting.nissa, "alerts-4").get("step") == 6)
    assert "did not take an alert (failure 1): 127.0.0.1" in Path(alerting.nissa.log).read_text()


def in_an_hour() -> str:
    """As people write it."""
    return text_of(CLOCK.now_us() + 3_600_000_000)
