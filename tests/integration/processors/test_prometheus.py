"""Claims about deploy/monitoring at work: a real Prometheus scrapes a Nissa, a real alert fires
through a real Alertmanager into a webhook, and is over once its cause is.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from tests.commands import ROOT
from tests.integration.processors.workers import CLOCK, Worker, free_port
from tests.listeners import Listener, listening
from tests.servicefixtures import token
from tests.waiting import PATIENCE_S, until

MONITORING: Final = ROOT / "deploy" / "monitoring"
ALERT: Final = "EsperNissaDown"
pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("prometheus-alertmanager") is None,
    reason=(
        "install Prometheus and Alertmanager (Debian: apt install prometheus "
        "prometheus-alertmanager)"
    ),
)


@dataclass(frozen=True)
class Watched:
    """Nissa, who scrapes her, and who is told."""

    nissa: Worker
    prometheus: str
    alertmanager: str
    people: Listener

    def value(self, query: str) -> str:
        """The value of a query of one series; empty without one."""
        answer = httpx.get(
            f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=PATIENCE_S
        )
        found = answer.json()["data"]["result"]
        return str(found[0]["value"][1]) if found else ""

    def told(self, status: str) -> list[dict[str, Any]]:
        """Alerts of the rule that people were told of with this status."""
        return [
            alert
            for posted in self.people.posted
            for alert in posted.json["alerts"]
            if alert["labels"]["alertname"] == ALERT and alert["status"] == status
        ]


@contextmanager
def program(log: Path, *command: str) -> Iterator[None]:
    """A program that ends with the test."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as running:
        try:
            yield
        finally:
            running.terminate()
            running.wait(PATIENCE_S)


@pytest.fixture
def watched(nissa: Worker, tmp_path: Path) -> Iterator[Watched]:
    """The files of deploy/monitoring, with the addresses of this test and its haste."""
    ports = free_port(), free_port()
    (tmp_path / "token").write_text(token(nissa.settings, CLOCK))
    with listening() as people, ExitStack() as stack:
        scraping = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        scraping["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (managers,) = scraping["alerting"]["alertmanagers"]
        managers["static_configs"][0]["targets"] = [f"127.0.0.1:{ports[1]}"]
        (job,) = scraping["scrape_configs"]
        job["scheme"] = "http"
        del job["tls_config"]
        job["authorization"]["credentials_file"] = str(tmp_path / "token")
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{nissa.port}"]
        rules = yaml.safe_load((MONITORING / "rules.yml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.update({"for": "1s"} if "for" in rule else {})
        telling = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
        telling["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        telling["receivers"][0]["webhook_configs"][0]["url"] = f"{people.url}/alerts"
        for name, content in (
            ("prometheus.yml", scraping),
            ("rules.yml", rules),
            ("alertmanager.yml", telling),
        ):
            (tmp_path / name).write_text(yaml.safe_dump(content))
        stack.enter_context(
            program(
                tmp_path / "alertmanager.log",
                "prometheus-alertmanager",
                f"--config.file={tmp_path / 'alertmanager.yml'}",
                f"--storage.path={tmp_path / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{ports[1]}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            program(
                tmp_path / "prometheus.log",
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{ports[0]}",
            )
        )
        prometheus, alertmanager = (f"http://127.0.0.1:{port}" for port in ports)
        yield Watched(nissa, prometheus, alertmanager, people)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=PATIENCE_S).is_success
    except httpx.HTTPError:
        return False


def test_a_nissa_that_dies_is_told_and_that_she_is_back(watched: Watched) -> None:
    until(lambda: answers(watched.prometheus))
    until(lambda: answers(watched.alertmanager))
    until(lambda: watched.value('up{job="nissa"}') == "1")
    until(lambda: watched.value("esper_nissa_uptime_seconds") != "")
    watched.nissa.signal(signal.SIGKILL)
    until(lambda: bool(watched.told("firing")))
    (alert, *_) = watched.told("firing")
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#espernissadown"
    watched.nissa.start()
    watched.nissa.wait_ready()
    until(lambda: bool(watched.told("resolved")))
    assert watched.value(f'ALERTS{{alertname="{ALERT}", alertstate="firing"}}') == ""
