"""Claims about where alerts go, and what those who get them are told."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esper.anomalies import Alert, Subject
from esper.anomalies.anomaly import Severity
from esper.clock import ManualClock
from esper.config import AlertSettings, Settings
from esper.errors import UsageError
from esper_processors.nissa.alerting import conditions, notices, routes, silences
from esper_processors.nissa.alerting.mail import Mail
from esper_processors.nissa.alerting.notices import Notice
from esper_processors.nissa.alerting.posting import Alertmanager, Webhook, signature
from esper_processors.nissa.alerting.routes import QUEUE, DeliveryError, Dispatcher
from esper_processors.nissa.alerting.silences import SilenceRule
from tests.listeners import listening, taking_mail
from tests.waiting import PATIENCE_S, until

CLOCK = ManualClock()
NOW = CLOCK.now_us()


def alert(severity: Severity = "CRITICAL", run_id: str = "run-1", **fields: Any) -> Alert:
    """One about a layer."""
    subject = Subject("dead_layer", run_id, "blocks.0\nBcc: x@y", 2)
    told = {"step": 40, "epoch": 1, "value": math.nan, "expected": 1.0, **fields}
    return Alert(subject, severity, NOW, sentence="It is dead.", event_ids=("e",), anomalies=3,
                 last_us=NOW, **told)  # fmt: skip


RAISED = notices.raised(alert(), CLOCK)
OVER = notices.resolved(alert(), NOW + 5_000_000, "CLEARED", CLOCK)


def test_alertmanager_is_told_labels_times_and_the_end(tmp_path: Path) -> None:
    """What holds ends by itself soon, unless it is told again; what is over has its end."""
    del tmp_path
    with listening() as listener:
        Alertmanager(f"{listener.url}/", "WARNING", CLOCK).deliver([RAISED, OVER])
    (post,) = listener.posted
    holds, over = post.json
    assert post.path == "/api/v2/alerts"
    assert holds["labels"] == {
        "alertname": "dead_layer",
        "severity": "critical",
        "run": "run-1",
        "layer": "blocks.0\nBcc: x@y",
        "seed": "2",
        "job": "esper-nissa",
    }
    assert holds["annotations"]["summary"] == "It is dead."
    assert holds["startsAt"] == over["startsAt"] == "2023-11-14T22:13:20Z"
    assert (holds["endsAt"], over["endsAt"]) == ("2023-11-14T22:16:20Z", "2023-11-14T22:13:25Z")


def test_a_webhooks_body_is_plain_json_with_a_signature(tmp_path: Path) -> None:
    """NaN is null; another body, time or secret has another signature."""
    secret = tmp_path / "secret"
    secret.write_text(" s3cret\n")
    with listening() as listener:
        Webhook(f"{listener.url}/x", str(secret), "WARNING", CLOCK).deliver([RAISED])
    (post,) = listener.posted
    assert (post.json["value"], post.json["layer"]) == (None, "blocks.0\nBcc: x@y")
    stamp = post.headers["X-Esper-Timestamp"]
    assert stamp == "1700000000"
    good = signature(b"s3cret", stamp, post.body)
    assert post.headers["X-Esper-Signature"] == good
    others = {
        signature(b"s3cret", "1700000001", post.body),
        signature(b"other", stamp, post.body),
        signature(b"s3cret", stamp, post.body + b" "),
    }
    assert good not in others
    secret.write_text("")
    with pytest.raises(DeliveryError, match="is empty: write the secret into it"):
        Webhook("http://h", str(secret), "WARNING", CLOCK).deliver([RAISED])


@pytest.mark.parametrize(("status", "transient"), [(500, True), (429, True), (400, False),
                                                   (302, False)])  # fmt: skip
def test_only_what_may_pass_is_tried_again(tmp_path: Path, status: int, *, transient: bool) -> None:
    """A server that is broken or busy; not one that refuses, or that names another address."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    with listening() as listener:
        listener.statuses.append(status)
        with pytest.raises(DeliveryError, match=f"answers with status {status}") as found:
            Webhook(f"{listener.url}/secret-path", str(secret), "WARNING", CLOCK).deliver([RAISED])
    assert found.value.transient is transient
    assert "secret-path" not in str(found.value)
    with pytest.raises(DeliveryError, match="does not answer") as found:
        Webhook(listener.url, str(secret), "WARNING", CLOCK).deliver([RAISED])
    assert found.value.transient


def test_a_mail_says_what_where_and_when(tmp_path: Path) -> None:
    """In text, to everybody; a layer's name adds no header."""
    del tmp_path
    with taking_mail() as listener:
        mail = Mail(AlertSettings(mail_to="a@h, b@h", mail_from="e@h", smtp_server=listener.url))
        mail.deliver([RAISED, OVER])
        until(lambda: len(listener.mails) == 2)
    first, second = listener.mails
    assert (first["To"], first["Bcc"]) == ("a@h, b@h", None)
    assert "[Esper] CRITICAL dead_layer blocks.0 Bcc" in first["Subject"]
    text = str(first.get_payload())
    assert "Run:       run-1" in text
    assert "Step:      40 (epoch 1)" in text
    assert "[Esper] over, CRITICAL" in second["Subject"]
    assert first["Message-ID"] != second["Message-ID"]
    gone = Mail(AlertSettings(mail_to="a@h", mail_from="e@h", smtp_server=listener.url))
    with pytest.raises(DeliveryError, match=r"127.0.0.1 does not answer"):
        gone.deliver([RAISED])


class Slow:
    """A route that takes nothing until it is let, and fails as often as it is told."""

    name, resends = "slow", True

    def __init__(self, severity: Severity = "WARNING", faults: Sequence[Exception] = ()) -> None:
        self.severity = severity
        self.taken: list[Notice] = []
        self._faults = list(faults)

    def deliver(self, due: Sequence[Notice]) -> None:
        """Fail, or take them."""
        if self._faults:
            raise self._faults.pop(0)
        self.taken += due


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries come at once."""
    with monkeypatch.context() as patch:
        patch.setattr(routes, "BACKOFF_S", (0.0,) * 3)
        yield


def worked(dispatcher: Dispatcher, done: Any) -> None:
    """Let a dispatcher work until a condition holds."""

    async def work() -> None:
        work = asyncio.gather(*(dispatcher._work(lane) for lane in dispatcher._lanes))
        async with asyncio.timeout(PATIENCE_S):
            while not done():  # noqa: ASYNC110  # a condition of any kind
                await asyncio.sleep(0.01)
        work.cancel()

    asyncio.run(work())


def test_failures_are_tried_again_counted_and_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What may pass is tried some times; what will not, once; a fault of ours is a failure too."""
    caplog.set_level(logging.WARNING)
    busy = [DeliveryError("Busy.", transient=True)]
    ill = Slow(faults=[*busy * 4, DeliveryError("No.", transient=False), ZeroDivisionError("x")])
    ill.name = "ill"
    well = Slow()
    dispatcher = Dispatcher([ill, well], log_from="WARNING")
    for _ in range(4):
        dispatcher.dispatch(RAISED)
    with impatient(monkeypatch):
        worked(dispatcher, lambda: sum(dispatcher.figures.delivered.values()) == 5)
    assert (len(ill.taken), len(well.taken)) == (1, 4)
    assert dispatcher.figures.failures == {"ill": 3}
    assert dispatcher.figures.delivered == {"ill": 1, "slow": 4}
    assert "The route ill did not take an alert (failure 1): Busy." in caplog.text


def test_a_full_queue_loses_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing waits for a route that hangs, and the log still has every alert."""
    caplog.set_level(logging.WARNING)
    dispatcher = Dispatcher([Slow()], log_from="WARNING")
    for _ in range(QUEUE + 3):
        dispatcher.dispatch(RAISED)
    assert dispatcher.figures.dropped == {"slow": 3}
    assert caplog.text.count("Alert: CRITICAL dead_layer") == QUEUE + 3
    dispatcher.resend([RAISED])
    assert dispatcher.figures.dropped == {"slow": 3}


def test_each_route_has_its_least_severity() -> None:
    """The log too."""
    warning = notices.raised(alert("WARNING"), CLOCK)
    grave, every = Slow("CRITICAL"), Slow()
    dispatcher = Dispatcher([grave, every], log_from="CRITICAL")
    for one in (warning, RAISED):
        dispatcher.dispatch(one)
    worked(dispatcher, lambda: len(every.taken) == 2 and len(grave.taken) == 1)
    dispatcher.resend([warning, RAISED])
    worked(dispatcher, lambda: len(every.taken) == 4 and len(grave.taken) == 2)
    assert grave.taken == [RAISED, RAISED]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WEBHOOK_URL": "ftp://h", "WEBHOOK_SECRET_FILE": "/s"}, "WEBHOOK_URL is no address"),
        ({"WEBHOOK_URL": "https://h"}, "WEBHOOK_URL needs ESPER_ALERTS__WEBHOOK_SECRET_FILE"),
        ({"ALERTMANAGER_URL": "file:///etc/passwd"}, "ALERTMANAGER_URL is no address"),
        ({"MAIL_TO": "a@h", "SMTP_SERVER": "h"}, "MAIL_TO needs ESPER_ALERTS__MAIL_FROM"),
        ({"MAIL_TO": "a@h", "MAIL_FROM": "b@h"}, "MAIL_TO needs ESPER_ALERTS__SMTP_SERVER"),
        ({"SMTP_SERVER": "h:x", "MAIL_TO": "a@h", "MAIL_FROM": "b@h"}, "is no host:port"),
        ({"SMTP_USER": "u", "SMTP_PASSWORD_FILE": "/p"}, "needs ESPER_ALERTS__SMTP_STARTTLS"),
    ],
)
def test_settings_that_no_alert_could_be_sent_by_are_refused(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence that names the variable, and no URL, which may be a secret."""
    for name, value in variables.items():
        monkeypatch.setenv(f"ESPER_ALERTS__{name}", value)
    with pytest.raises(UsageError, match=sentence) as found:
        Settings.load(guest=True)
    assert "passwd" not in str(found.value)


def test_conditions_of_the_stack() -> None:
    """A lag that does not shrink, and a disk with little left; each is over by itself."""
    many = conditions.LAG + 1
    assert not any(hasattr(one, "severity") for one in conditions.lag([many] * 5, NOW))
    (found,) = conditions.lag([many] * 6, NOW)
    assert hasattr(found, "severity")
    assert conditions.lag([many + 5 - place for place in range(6)], NOW) == []
    (over,) = conditions.lag([many] * 6 + [0], NOW)
    assert not hasattr(over, "severity")
    gib, tib = 1 << 30, 1 << 40
    levels = {
        free: [getattr(one, "severity", "over") for one in conditions.disk(free, total, NOW)]
        for free, total in ((tib // 200, tib), (tib // 25, tib), (tib // 2, tib), (gib // 8, gib),
                            (gib // 2, gib), (int(0.052 * tib), tib))
    }  # fmt: skip
    assert list(levels.values()) == [
        ["CRITICAL"],
        ["WARNING"],
        ["over"],
        ["CRITICAL"],
        ["WARNING"],
        [],
    ]


def test_a_silence_is_kept_as_it_was_and_ends_by_itself() -> None:
    """Too many are refused."""
    patterns = {"run": "r-*", "detector": "*", "layer": "*"}
    rule = silences.begun(
        who="me", reason="known", now_us=NOW, until_us=NOW + 5, patterns=patterns, known=()
    )
    assert silences.decode(silences.encode(rule)) == rule
    assert silences.holding([rule], NOW + 4) == [rule]
    assert silences.holding([rule], NOW + 5) == []
    assert rule.silence().covers(Subject("plateau", "r-1"), NOW)
    many = [
        SilenceRule(silence_id=str(n), who="", reason="", created_us=0, until_us=NOW + 9)
        for n in range(silences.SILENCES)
    ]
    with pytest.raises(Exception, match="which is the most; delete one"):
        silences.begun(
            who="me", reason="r", now_us=NOW, until_us=NOW + 5, patterns=patterns, known=many
        )
