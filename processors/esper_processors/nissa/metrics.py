"""Esper's own Prometheus metrics, made from the views at the time of the scrape: what is gone has
no label left to remove. Pure.

prometheus_client appends `_total` to counters, so the names that are fixed without it
(`esper_adaptation_count`, ...) are gauges, with a counter of another name beside them.
`esper_kernel_cache_hits` appears once a kernel cache has sent its counts; until then it would be
invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from esper.events.records import CacheSampled
from esper.lifecycle import HOLDING
from esper_processors.nissa.compilations import BUCKETS_S
from esper_processors.nissa.custom import newest
from esper_processors.nissa.live import LATENCY_S
from esper_processors.nissa.runs import RunView
from esper_processors.nissa.scene import Collector, Scene

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


def _gauge(
    name: str,
    text: str,
    labels: Sequence[str],
    values: Iterator[tuple[Sequence[str], float | None]],
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values:
        # left out and not 0: no value yet is no measurement
        if value is not None:
            family.add_metric(label, value)
    return family


def _by_run(
    name: str, text: str, runs: Sequence[RunView], value: Callable[[RunView], float | None]
) -> GaugeMetricFamily:
    return _gauge(name, text, ["run"], (([view.run_id], value(view)) for view in runs))


def _training(scene: Scene, _memory: None) -> Iterator[Family]:
    runs, live = scene.current, scene.live
    yield _by_run(
        "esper_training_loss", "Training loss of the newest step, nats", runs, live.training_loss
    )
    yield _by_run(
        "esper_training_accuracy",
        "Training accuracy of the newest epoch, fraction",
        runs,
        lambda view: view.train_accuracy,
    )
    yield _by_run(
        "esper_validation_loss",
        "Held-out loss of the newest epoch, nats",
        runs,
        lambda view: view.validation_loss,
    )
    yield _by_run(
        "esper_validation_accuracy",
        "Held-out accuracy of the newest epoch, fraction",
        runs,
        lambda view: view.validation_accuracy,
    )
    yield _by_run("esper_training_epoch", "Epochs completed", runs, lambda view: view.epoch)
    yield _by_run("esper_training_step", "Optimizer steps completed", runs, live.step)
    yield _by_run(
        "esper_training_gradient_norm",
        "Norm of the host's gradient at the newest step",
        runs,
        lambda view: (
            training.gradient_norm if (training := live.pulse(view.run_id).training) else None
        ),
    )
    yield _by_run(
        "esper_telemetry_lost",
        "Telemetry events that the run dropped",
        runs,
        lambda view: view.lost,
    )


def _seeds(scene: Scene, _memory: None) -> Iterator[Family]:
    runs, live = scene.current, scene.live
    yield _gauge(
        "esper_seed_active_count",
        "Seeds of a layer whose slot holds or waits for a kernel",
        ["run", "layer"],
        (
            ([view.run_id, layer], sum(stage in HOLDING for stage in seeds.values()))
            for view in runs
            for layer, seeds in sorted(view.seeds.items())
        ),
    )
    yield _gauge(
        "esper_seed_stage_count",
        "Seeds by lifecycle stage",
        ["run", "stage"],
        (
            ([view.run_id, stage], count)
            for view in runs
            for stage, count in sorted(view.stages().items())
        ),
    )
    health = GaugeMetricFamily(
        "esper_seed_health", "Mean health score of a layer's seeds, 0 to 1", labels=["run", "layer"]
    )
    for view in runs:
        scores: dict[str, list[float]] = {}
        for (layer, _), score in live.pulse(view.run_id).health.items():
            scores.setdefault(layer, []).append(score)
        for layer, layer_scores in sorted(scores.items()):
            health.add_metric([view.run_id, layer], sum(layer_scores) / len(layer_scores))
    yield health


def _adaptations(scene: Scene, _memory: None) -> Iterator[Family]:
    runs = scene.current
    yield _by_run(
        "esper_adaptation_count",
        "Adaptations accepted",
        runs,
        lambda view: sum(view.adaptations.values()),
    )
    total = CounterMetricFamily(
        "esper_adaptations",
        "Adaptations by command and result",
        labels=["run", "command", "result"],
    )
    outcomes = CounterMetricFamily(
        "esper_adaptation_outcomes", "Adaptations that ended, by verdict", labels=["run", "verdict"]
    )
    reviews = CounterMetricFamily("esper_reviews", "Packets that Tamiyo answered", labels=["run"])
    failures = CounterMetricFamily("esper_kernel_failures", "Kernel failures", labels=["run"])
    for view in runs:
        for result, counts in (("applied", view.adaptations), ("rejected", view.rejections)):
            for command, count in sorted(counts.items()):
                total.add_metric([view.run_id, command, result], count)
        for verdict in sorted(set(view.outcomes.values())):
            outcomes.add_metric(
                [view.run_id, verdict], sum(each == verdict for each in view.outcomes.values())
            )
        reviews.add_metric([view.run_id], view.reviews)
        failures.add_metric([view.run_id], view.failures)
    yield from (total, outcomes, reviews, failures)


def _recovery(scene: Scene, _memory: None) -> Iterator[Family]:
    runs = scene.current
    yield _by_run(
        "esper_checkpoints_taken",
        "Snapshots of the run that are durable",
        runs,
        lambda view: view.checkpoints,
    )
    yield _by_run(
        "esper_checkpoint_step",
        "Step of the snapshot that the run can go back to",
        runs,
        lambda view: view.checkpoint_step,
    )
    yield _by_run(
        "esper_checkpoint_stored_bytes",
        "Bytes that the run's snapshots gave the store",
        runs,
        lambda view: view.checkpoint_bytes,
    )
    yield _by_run(
        "esper_checkpoint_stall_seconds",
        "Time that the newest snapshot took from training",
        runs,
        lambda view: view.checkpoint_stall_us / 1e6 if view.checkpoints else None,
    )
    yield _by_run("esper_rollback_count", "Rollbacks of the run", runs, lambda view: view.rollbacks)
    yield _by_run(
        "esper_instability_count",
        "Times that training turned unstable",
        runs,
        lambda view: view.instabilities,
    )
    yield _by_run(
        "esper_run_timeline",
        "Timeline of the run, which each rollback counts up",
        runs,
        lambda view: view.timeline,
    )


def _caches(scene: Scene, _memory: None) -> Iterator[Family]:
    """Counts by tier: what one tier did not have, the next was asked for."""
    caches = scene.live.caches_of(view.run_id for view in scene.current)
    if not caches:
        return
    labels = ["run", "process", "tier"]
    hits = GaugeMetricFamily(
        "esper_kernel_cache_hits", "Kernels that a tier of the cache had", labels=labels
    )
    misses = GaugeMetricFamily(
        "esper_kernel_cache_misses", "Kernels that a tier of the cache did not have", labels=labels
    )
    rate = GaugeMetricFamily(
        "esper_kernel_cache_hit_rate",
        "Hits of a tier among the questions to it, 0 to 1",
        labels=labels,
    )
    for cache in caches:
        # from the last tier backwards: what a tier lacked is what all behind it had, and all misses
        left = cache.misses
        for tier, had in (
            ("store", cache.hits_store),
            ("disk", cache.hits_disk),
            ("memory", cache.hits_memory),
        ):
            values = [cache.run_id, cache.sender_id, tier]
            hits.add_metric(values, had)
            misses.add_metric(values, left)
            if had + left:
                rate.add_metric(values, had / (had + left))
            left += had
    yield from (hits, misses, rate)
    plain: tuple[tuple[str, str, Callable[[CacheSampled], float]], ...] = (
        (
            "esper_kernel_cache_evictions",
            "Kernels that had to leave memory",
            lambda cache: cache.evictions,
        ),
        (
            "esper_kernel_cache_prefetched",
            "Kernels fetched before they were asked for",
            lambda cache: cache.prefetched,
        ),
        ("esper_kernel_cache_entries", "Kernels in memory", lambda cache: cache.entries),
        ("esper_kernel_cache_bytes", "Bytes of the kernels in memory", lambda cache: cache.bytes),
        ("esper_kernel_cache_limit_bytes", "Most bytes in memory", lambda cache: cache.limit_bytes),
        (
            "esper_kernel_cache_hit_seconds",
            "Mean time of a hit in memory",
            lambda cache: cache.latency_us / 1e6,
        ),
    )
    for name, text, value in plain:
        yield _gauge(
            name,
            text,
            ["run", "process"],
            (([cache.run_id, cache.sender_id], value(cache)) for cache in caches),
        )


def _custom(scene: Scene, _memory: None) -> Iterator[Family]:
    """What was declared and sent.

    Series of metrics that nobody declared here stay in the history alone.
    """
    values = newest(scene.series)
    for name, definition in sorted(scene.definitions.items()):
        kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
        text = f"{definition.help}, {definition.unit}" if definition.unit else definition.help
        labels = sorted(definition.labels)
        family = kind(name, text, labels=labels)
        for label_values, series in sorted(values.get(name, {}).items()):
            # a series from before the metric was declared may have other labels, and would spoil
            # the page
            if [label for label, _ in label_values] == labels:
                family.add_metric([value for _, value in label_values], series.value)
        yield family


def _compilations(scene: Scene, _memory: None) -> Iterator[Family]:
    view = scene.compilations
    latency = GaugeMetricFamily(
        "esper_compilation_latency", "Time of the newest compilation, seconds"
    )
    if view.compiled:
        latency.add_metric([], view.last_s)
    yield latency
    histogram = HistogramMetricFamily("esper_compilation_seconds", "Time of compilations, seconds")
    bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
    histogram.add_metric(
        [],
        # Prometheus's buckets are cumulative, these counts are not
        list(zip(bounds, map(float, accumulate(view.counts)), strict=True)),
        sum_value=view.sum_s,
    )
    yield histogram
    total = CounterMetricFamily("esper_compilations", "Compilations by result", labels=["result"])
    for result, count in (
        ("started", view.started),
        ("failed", view.failed),
        ("compiled", view.compiled),
    ):
        total.add_metric([result], count)
    yield total


def _processes(scene: Scene, _memory: None) -> Iterator[Family]:
    resources = sorted(scene.live.resources.items())
    yield _gauge(
        "esper_process_cpu_percent",
        "CPU of a process, percent of one core",
        ["process"],
        (([n], r.cpu_percent) for n, r in resources),
    )
    yield _gauge(
        "esper_process_rss_bytes",
        "Resident memory of a process",
        ["process"],
        (([n], r.rss_bytes) for n, r in resources),
    )
    yield _gauge(
        "esper_process_gpu_bytes",
        "GPU memory of a process",
        ["process"],
        (([n], r.gpu_bytes) for n, r in resources),
    )
    events = CounterMetricFamily(
        "esper_nissa_events", "Events read since Nissa started", labels=["topic"]
    )
    for topic, count in sorted(scene.live.events.items()):
        events.add_metric([topic], count)
    yield events
    refused = CounterMetricFamily(
        "esper_dead_letters",
        "Messages that Nissa refused since it started, by topic and class of error",
        labels=["topic", "error"],
    )
    for (topic, error), count in sorted(scene.refused.items()):
        refused.add_metric([topic, error], count)
    yield refused
    latency = HistogramMetricFamily(
        "esper_health_signal_latency_seconds",
        "Time from a health signal's emission to its reading here",
    )
    signals = scene.live.health_latency
    bounds = [*(str(bound) for bound in LATENCY_S), "+Inf"]
    latency.add_metric(
        [],
        list(zip(bounds, map(float, accumulate(signals.counts)), strict=True)),
        sum_value=signals.sum_s,
    )
    yield latency
    yield GaugeMetricFamily(
        "esper_nissa_lag",
        "Offsets between what Nissa has read and the ends of the topics",
        value=scene.lag,
    )
    yield GaugeMetricFamily(
        "esper_nissa_delay_seconds",
        "Age of the newest event when it was read",
        value=scene.live.delay_us / 1e6,
    )
    yield GaugeMetricFamily(
        "esper_nissa_uptime_seconds", "Time since Nissa started", value=scene.uptime_s
    )


def _alerts(scene: Scene, _memory: None) -> Iterator[Family]:
    yield _gauge(
        "esper_alerts_open",
        "Alerts that hold and are not withheld",
        ["severity"],
        (([severity.lower()], count) for severity, count in sorted(scene.alerts_open.items())),
    )
    figures = scene.deliveries
    for name, text, counts in (
        ("deliveries", "Deliveries that a route took", figures.delivered),
        ("failures", "Deliveries that a route did not take", figures.failures),
        ("drops", "Alerts that were lost because too many waited for a route", figures.dropped),
    ):
        family = CounterMetricFamily(
            f"esper_alert_route_{name}", f"{text}, since Nissa started", labels=["route"]
        )
        for route, count in sorted(counts.items()):
            family.add_metric([route], count)
        yield family


OWN: Final = (
    Collector("training", _training),
    Collector("seeds", _seeds),
    Collector("adaptations", _adaptations),
    Collector("recovery", _recovery),
    Collector("compilations", _compilations),
    Collector("caches", _caches),
    Collector("processes", _processes),
    Collector("custom", _custom),
    Collector("alerts", _alerts),
)
"""Esper's own collectors, in the order of the page."""
