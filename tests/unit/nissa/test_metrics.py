"""Claims about metrics, status and the newest telemetry."""

from __future__ import annotations

import os
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from esper.clock import ManualClock
from esper.events import Origin
from esper_processors.nissa.collectors import Collectors
from esper_processors.nissa.compilations import Compilations
from esper_processors.nissa.custom import Definition, Series
from esper_processors.nissa.live import SAMPLES, SILENT_US, Live
from esper_processors.nissa.resources import default_samplers, sampled
from esper_processors.nissa.runs import RunView, fold
from esper_processors.nissa.scene import Scene
from esper_processors.nissa.status import status
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
    families = text_string_to_metric_families(Collectors().exposition(scraped).decode())
    return {family.name: [sample.labels for sample in family.samples] for family in families}


def test_seeds_are_no_labels_and_runs_only_while_they_live() -> None:
    """No metric has a seed label.

    A run's name is gone once it has ended, or was silent for an hour.
    """
    live, view, run = live_run()
    parsed = shown(scene(live, view))
    assert parsed["esper_training_loss"] == [{"run": "r"}]
    assert not any("seed" in labels for samples in parsed.values() for labels in samples)
    for gone in (
        scene(live, fold(view, run.completed(accuracy=0.5))),
        scene(live, view, now_us=NOW + SILENT_US),
    ):
        assert not any("run" in labels for samples in shown(gone).values() for labels in samples)
    assert (
        status(scene(live, view, now_us=NOW + SILENT_US), samples=0)["runs"][0]["status"]
        == "SILENT"
    )


def test_nothing_is_shown_that_was_not_heard() -> None:
    """Without a compilation there is no latency, without a step or an epoch no loss, and never a
    cache hit that nobody counted.
    """
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
    """Samples are a ring: after 130 the oldest is the 31st, and the status gives as many as it is
    asked for.
    """
    live, view, _ = live_run()
    for number in range(130):
        live.sample([replace(view, step=number)], NOW + number)
    answer = status(scene(live, view), samples=SAMPLES)
    assert [sample["at"] - NOW for sample in answer["samples"]] == list(range(30, 130))
    assert len(status(scene(live, view), samples=3)["samples"]) == 3
    assert status(scene(live, view), samples=0)["samples"] == []


def samples(scraped: Scene) -> dict[tuple[str, str], float]:
    """Values by metric and tier, as a Prometheus client parses them."""
    families = text_string_to_metric_families(Collectors().exposition(scraped).decode())
    return {
        (one.name, one.labels.get("tier", "")): one.value
        for family in families
        for one in family.samples
    }


def test_cache_counts_are_shown_by_tier_while_their_run_lives() -> None:
    """What memory lacked the disk was asked for, what both lacked the store: hits, misses and rates
    follow; after the run's end they are gone.
    """
    live, view, run = live_run()
    live.take("telemetry.cache", run.cache(memory=80, disk=10, store=5, misses=5), NOW)
    shown_now = samples(scene(live, view))
    hits = {
        tier: shown_now["esper_kernel_cache_hits", tier] for tier in ("memory", "disk", "store")
    }
    misses = {
        tier: shown_now["esper_kernel_cache_misses", tier] for tier in ("memory", "disk", "store")
    }
    assert (hits, misses) == (
        {"memory": 80, "disk": 10, "store": 5},
        {"memory": 20, "disk": 10, "store": 5},
    )
    assert shown_now["esper_kernel_cache_hit_rate", "memory"] == 0.8
    assert shown_now["esper_kernel_cache_evictions", ""] == 3
    ended = fold(view, run.completed(accuracy=0.5))
    assert "esper_kernel_cache_hits" not in shown(scene(live, ended))
    live.forget("r")
    assert live.caches == {}


def test_custom_metrics_stand_beside_the_built_in_ones() -> None:
    """A declared metric shows its newest value with its labels; a counter gets _total.

    What nobody declared is not shown.
    """
    queue = Definition(
        name="queue_depth", kind="gauge", help="Jobs that wait", labels=("zone", "queue")
    )
    sent = Definition(name="mails_sent", kind="counter", help="Mails sent", unit="mails")
    labels = (("queue", "a"), ("zone", "b"))
    series = [
        Series("queue_depth", labels, 1.0, 1),
        Series("queue_depth", labels, 4.0, 2),
        Series("stray", (), 1.0, 1),
    ]
    series.append(Series("mails_sent", (), 9.0, 1))
    text = (
        Collectors()
        .exposition(
            replace(
                scene(Live()), definitions={one.name: one for one in (queue, sent)}, series=series
            )
        )
        .decode()
    )
    assert 'queue_depth{queue="a",zone="b"} 4.0' in text
    assert "mails_sent_total 9.0" in text
    assert "stray" not in text


def test_checkpoints_rollbacks_and_the_latency_of_health_signals_are_measured() -> None:
    """Snapshots, rollbacks and the timeline are gauges of the run.

    A health signal read 30 ms after its emission falls into its bucket.
    """
    live, view, run = live_run()
    for event in (run.checkpoint(40), run.unstable(), run.rolled_back(1)):
        view = fold(view, event)
    live.take("telemetry.seed.health", run.health("0", 0, 0.5), NOW + 30_000)
    found = samples(scene(live, view))
    assert found["esper_checkpoints_taken", ""] == 1
    assert found["esper_checkpoint_stall_seconds", ""] == 0.0025
    assert (found["esper_rollback_count", ""], found["esper_run_timeline", ""]) == (1, 1)
    assert live.health_latency.counts == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert abs(found["esper_health_signal_latency_seconds_sum", ""] - 0.03) < 1e-9


def test_collectors_read_this_process_and_the_machine() -> None:
    """A sample has this process with its memory and the machine with at least as much, as events of
    their own.
    """
    origin = Origin("", "nissa", "0" * 32, ManualClock())
    own, whole = sampled(default_samplers("nissa"), origin)
    assert (own.process, own.pid) == ("nissa", os.getpid())
    assert (whole.process, whole.pid) == ("machine", 0)
    assert 1 << 20 < own.rss_bytes < whole.rss_bytes
    assert own.event_id != whole.event_id
