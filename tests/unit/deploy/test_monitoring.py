"""The files of deploy/monitoring: Prometheus and Alertmanager take them, every alert fires where it
should and is in the runbook, and every figure that is asked for is one of Nissa's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from esper_processors.nissa.alerting.routes import DeliveryCounts
from esper_processors.nissa.collectors import Collectors
from tests.unit.nissa.test_metrics import NOW, live_run, scene

ROOT: Final = Path(__file__).parents[3]
MONITORING: Final = ROOT / "deploy" / "monitoring"
needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="install prometheus (Debian: apt install prometheus)"
)
needs_alertmanager = pytest.mark.skipif(
    shutil.which("amtool") is None,
    reason="install Alertmanager (Debian: apt install prometheus-alertmanager)",
)
_PARTS: Final = re.compile(r"_(bucket|count|sum|total)$")


def rules() -> list[dict[str, Any]]:
    """Every rule, those that record and those that alarm."""
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> list[str]:
    """Every query of the dashboard."""
    text = json.loads((MONITORING / "grafana" / "esper.json").read_text())
    return [one["expr"] for panel in text["panels"] for one in panel.get("targets", ())]


def checked(*command: str, folder: Path = MONITORING) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_each_alert_fires_where_it_should_and_nowhere_else() -> None:
    checked("promtool", "check", "rules", "rules.yml")
    checked("promtool", "test", "rules", "rules_test.yml")
    tried = (MONITORING / "rules_test.yml").read_text()
    assert [one["alert"] for one in rules() if "alert" in one and one["alert"] not in tried] == []


@needs_prometheus
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (MONITORING / "prometheus.yml").read_text()
    for name in ("nissa.token", "root.pem"):
        assert f"/run/secrets/{name}" in text
        (tmp_path / name).touch()
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets", str(tmp_path)))
    shutil.copy(MONITORING / "rules.yml", tmp_path)
    checked("promtool", "check", "config", "prometheus.yml", folder=tmp_path)


@needs_alertmanager
def test_alertmanager_takes_its_configuration() -> None:
    checked("amtool", "check-config", "alertmanager.yml")


@needs_prometheus
def test_prometheus_can_answer_every_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [one.replace("$run", ".*") for one in dashboard()]
    recorded = [{"record": f"q{place}", "expr": one} for place, one in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]})
    )
    checked("promtool", "check", "rules", "queries.yml", folder=tmp_path)


def test_every_figure_that_is_asked_for_is_one_of_nissa_s_or_recorded() -> None:
    live, view, run = live_run()
    live.take("telemetry.cache", run.cache(memory=1, disk=1, store=1, misses=1), NOW)
    whole = scene(live, view)
    assert whole.deliveries == DeliveryCounts()
    exposed = Collectors().exposition(whole).decode()
    known = {_PARTS.sub("", name) for name in re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE)}
    recorded = {one["record"] for one in rules() if "record" in one}
    asked = {
        name
        for query in (*dashboard(), *(one["expr"] for one in rules()))
        for name in re.findall(r"\besper[a-z0-9_:]+", query)
    }
    assert len(asked) > 20
    assert {
        name for name in asked if name not in recorded and _PARTS.sub("", name) not in known
    } == set()


def test_every_alert_is_in_the_runbook_and_nothing_else() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    chapters = re.findall(r"^## (Esper\w+)$", text, re.MULTILINE)
    alerts = {one["alert"]: one["annotations"] for one in rules() if "alert" in one}
    assert chapters == list(alerts)
    for name, said in alerts.items():
        assert said["runbook_url"] == f"docs/runbook.md#{name.lower()}"
