"""A collector of an installed package in a Nissa on a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.processors.test_nissa import events_of, metrics
from tests.integration.processors.workers import Line, Worker, running, wait_for
from tests.plugins import COLLECTOR, install
from tests.unit.nissa.journal import Run

GROUPS = {"esper.collectors": {"grafts": "GRAFTS"}}
FAILING = COLLECTOR.replace('if event.command == "GERMINATE":', "if event.nothing_like_it:")


@pytest.mark.parametrize("source", [COLLECTOR, FAILING])
def test_a_package_s_metrics_stand_beside_nissa_s(
    source: str, broker: str, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted from the events that Nissa reads; where the collector raises at each, Nissa
    shows all else and how often that was.

    Nobody may declare a metric under its name.
    """
    site = install(tmp_path / "site", "esper_grafts", source, GROUPS)
    monkeypatch.setenv("PYTHONPATH", str(site))
    (tmp_path / "home").mkdir(mode=0o700)
    run = Run(f"collected-{source == FAILING}".lower())
    with running("nissa", broker, tmp_path / "home") as nissa:
        line.send(*events_of(run))
        wait_for(lambda: f'esper_adaptation_count{{run="{run.run_id}"}}' in metrics(nissa))
        seen = (
            'esper_collector_failures_total{collector="grafts"}'
            if source == FAILING
            else 'grafts_begun_total{family="conv1d"}'
        )
        wait_for(lambda: metrics(nissa).get(seen, 0) >= 1, told=lambda: str(metrics(nissa)))
        shown = metrics(nissa)
        assert shown[f'esper_adaptation_count{{run="{run.run_id}"}}'] == 1
        assert shown["grafts_runs"] >= 1
        mine = {"name": "grafts_mine", "kind": "gauge", "help": "h"}
        code, refused = nissa.post("/api/v1/metrics/definitions", mine)
        assert code == 409, refused
        assert "collector grafts of package esper_grafts" in refused["detail"]
        assert nissa.get("/health", None)[0] == 200


def test_a_package_that_clashes_keeps_nissa_from_starting(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence names it, and the exit code is that of a usage error."""
    source = COLLECTOR.replace('"grafts", c', '"esper_mine", c')
    groups = {"esper.collectors": {"esper_mine": "GRAFTS"}}
    site = install(tmp_path / "site", "esper_grafts", source, groups)
    monkeypatch.setenv("PYTHONPATH", str(site))
    (tmp_path / "home").mkdir(mode=0o700)
    nissa = Worker("nissa", broker, tmp_path / "home")
    nissa.start()
    assert nissa.wait(60) == 2
    (said,) = nissa.log.read_text().strip().splitlines()
    assert "The collector 'esper_mine' of package esper_grafts has metrics whose names" in said
