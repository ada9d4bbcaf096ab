"""Claims about metrics, status and the newest telemetry."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from esper.clock import ManualClock
from processors.nissa.compilations import Compilations
from processors.nissa.live import SAMPLES, SILENT_US, Live
from processors.nissa.metrics import Scene, exposition
from processors.nissa.runs import RunView, fold
from processors.nissa.status import status
from tests.unit.nissa.journal import Run

NOW = ManualClock().now_us()


def scene(live: Live, *views: RunView, now_us: int = NOW) -> Scene:
    """What is scraped at a time."""
    return Scene(views, Compilations(), live, now_us, 1.0, 0)


def live_run() -> tuple[Live, RunView, Run]:
    """A run after its start, with a step of telemetry."""
    run, live = Run("r", ManualClock()), Live()
    view = fold(RunView(run_id="r"), run.started())
    live.take("telemetry.training.step", run.step(7, loss=1.5), NOW)
    return live, view, run


def shown(scraped: Scene) -> dict[str, list[dict[str, str]]]:
    """Labels by metric name, as a Prometheus client parses them."""
    families = text_string_to_metric_families(exposition(scraped).decode())
    return {family.name: [sample.labels for sample in family.samples] for family in families}


def test_seeds_are_no_labels_and_runs_only_while_they_live() -> None:
    """No metric has a seed label; a run's name is gone once it has ended, or was silent for an hour."""
    live, view, run = live_run()
    parsed = shown(scene(live, view))
    assert parsed["esper_training_loss"] == [{"run": "r"}]
    assert not any("seed" in labels for samples in parsed.values() for labels in samples)
    for gone in (scene(live, fold(view, run.completed(accuracy=0.5))), scene(live, view, now_us=NOW + SILENT_US)):
        assert not any("run" in labels for samples in shown(gone).values() for labels in samples)
    assert status(scene(live, view, now_us=NOW + SILENT_US), samples=0)["runs"][0]["status"] == "SILENT"


def test_nothing_is_shown_that_was_not_heard() -> None:
    """Without a compilation there is no latency, without a step or an epoch no loss, and never a cache hit that nobody counted."""
    parsed = shown(scene(Live(), RunView(run_id="r", updated_at=NOW)))
    assert parsed["esper_compilation_latency"] == []
    assert parsed["esper_training_loss"] == []
    assert "esper_kernel_cache_hits" not in parsed


def test_the_newest_step_wins() -> None:
    """A step that is delivered late does not replace a newer one."""
    live, view, run = live_run()
    assert isinstance(run.clock, ManualClock)
    old = run.step(8, loss=1.4)
    run.clock.advance(1)
    live.take("telemetry.training.step", run.step(9, loss=1.3), NOW)
    live.take("telemetry.training.step", old, NOW)
    assert live.training_loss(view) == 1.3
    assert live.step(view) == 9


def test_the_last_hundred_samples_are_kept() -> None:
    """Samples are a ring: after 130 the oldest is the 31st, and the status gives as many as it is asked for."""
    live, view, _ = live_run()
    for number in range(130):
        live.sample([replace(view, step=number)], NOW + number)
    answer = status(scene(live, view), samples=SAMPLES)
    assert [sample["at"] - NOW for sample in answer["samples"]] == list(range(30, 130))
    assert len(status(scene(live, view), samples=3)["samples"]) == 3
    assert status(scene(live, view), samples=0)["samples"] == []
