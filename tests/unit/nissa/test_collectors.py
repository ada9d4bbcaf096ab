"""Collectors of other packages: how they come in, and that their mistakes cost their own metrics
alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from esper import plugins
from esper.clock import ManualClock, SystemClock
from esper.errors import RejectedError, UsageError
from esper.events.records import TrainingStep
from esper_processors.nissa.app import _TOPICS
from esper_processors.nissa.collectors import MOST_SAMPLES, Collectors, installed
from esper_processors.nissa.compilations import Compilations
from esper_processors.nissa.custom import Definition
from esper_processors.nissa.live import Live
from esper_processors.nissa.metrics import OWN
from esper_processors.nissa.runs import RunView, fold
from esper_processors.nissa.scene import Collector, Scene
from esper_processors.time_limit import time_limit
from tests.plugins import COLLECTOR, install
from tests.unit.nissa.journal import Run
from tests.waiting import PATIENCE_S

Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Install a package with a collector beside Esper."""

    def install_one(
        source: str = COLLECTOR, package: str = "esper_grafts", name: str = "grafts"
    ) -> None:
        monkeypatch.delitem(sys.modules, package, raising=False)
        groups = {plugins.COLLECTORS: {name: "GRAFTS"}}
        monkeypatch.syspath_prepend(install(tmp_path / package, package, source, groups))

    return install_one


def page(collectors: Collectors, scene: Scene | None = None) -> dict[str, float]:
    """The values on the page by name and labels, as a Prometheus client parses them."""
    text = collectors.exposition(scene or Scene((), Compilations(), Live(), 0, 1.0, 0)).decode()
    return {
        sample.name
        + "".join(f"/{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(collect: Any, **changed: Any) -> Collectors:
    """Esper's own collectors and one of a package."""
    return Collectors({"grafts": Collector("grafts", collect, **changed)})


def test_an_installed_collector_counts_what_it_takes(put: Put) -> None:
    """It gets the events of its records alone, and the scene; its metrics stand on the page beside
    Esper's own, which stay as they are.
    """
    put()
    run, live = Run("r", ManualClock()), Live()
    collectors = Collectors(installed(_TOPICS))
    view = fold(RunView(run_id="r"), run.started())
    live.take("telemetry.training.step", run.step(7, loss=1.5), run.clock.now_us())
    for event in (*run.germinated("0", 1), run.step(7, loss=1.5), *run.germinated("0", 2)):
        collectors.take(event)
        collectors.take(event)  # Kafka may deliver it twice
    scene = Scene((view,), Compilations(), live, run.clock.now_us(), 1.0, 0)
    shown = page(collectors, scene)
    assert shown["grafts_begun_total/conv1d"] == 1  # both have the same decision in this journal
    assert shown["grafts_runs"] == 1
    assert not collectors.failures
    alone = page(Collectors(), scene)
    assert alone.items() <= shown.items()
    assert len(alone) + 2 == len(shown)
    assert shown["esper_training_loss/r"] == 1.5


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import nothing_like_it", r"package esper_grafts .* cannot be loaded \(ModuleNotFoundErr"),
        ("GRAFTS = 1", "package esper_grafts .* is int, and has to be a Collector"),
        (COLLECTOR.replace('"grafts", c', '"other", c'), "package esper_grafts .* for 'other'"),
        (COLLECTOR.replace('"grafts", c', '"Graf ts", c'), "'Graf ts' is no name of a collector"),
        (COLLECTOR.replace("(AdaptationApplied,)", "(int,)"), "takes <class 'int'>, which is no"),
        (
            COLLECTOR.replace("AdaptationApplied", "FieldReport"),
            "'grafts' of package esper_grafts takes FieldReport, which is on innov.*; Nissa reads",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(put: Put, source: str, sentence: str) -> None:
    """When Nissa starts, in one sentence."""
    put(source)
    with pytest.raises(UsageError, match=sentence):
        installed(_TOPICS)


@pytest.mark.parametrize("name", ["esper", "esper_training", "esper_mine"])
def test_names_that_begin_as_nissa_s_own_are_refused(put: Put, name: str) -> None:
    """Whatever Nissa may call a metric tomorrow."""
    put(COLLECTOR.replace('"grafts", c', f'"{name}", c'), name=name)
    with pytest.raises(
        UsageError, match=f"'{name}' of package esper_grafts .* begin with esper_ are of Nissa"
    ):
        installed(_TOPICS)


@pytest.mark.parametrize("name", [own.name for own in OWN])
def test_no_package_takes_the_name_of_a_collector_of_esper(put: Put, name: str) -> None:
    """Logs and counts of failures would not tell them apart."""
    put(COLLECTOR.replace('"grafts", c', f'"{name}", c'), name=name)
    with pytest.raises(UsageError, match=r"package esper_grafts .* name of one of Esper's own"):
        installed(_TOPICS)


def test_two_packages_whose_metrics_may_clash_are_named(put: Put) -> None:
    """The same name, and one that begins with the other: `grafts_all_x` may be of either."""
    put()
    put(COLLECTOR, package="esper_more")
    with pytest.raises(UsageError, match="Two packages offer 'grafts' of package esper_"):
        installed(_TOPICS)


def test_a_package_whose_name_begins_with_another_s_is_named(put: Put) -> None:
    """As above; names that only look alike are no clash."""
    put()
    put(COLLECTOR.replace('"grafts", c', '"graftsall", c'), package="alike", name="graftsall")
    assert set(installed(_TOPICS)) == {"grafts", "graftsall"}
    put(COLLECTOR.replace('"grafts", c', '"grafts_all", c'), package="more", name="grafts_all")
    with pytest.raises(
        UsageError, match=r"'grafts_all' of package more .* grafts_ are of package esper_grafts"
    ):
        installed(_TOPICS)


def test_declared_metrics_have_no_name_of_a_package(put: Put) -> None:
    """Over HTTP, and when a definition of before the package's installation is read."""
    put()
    collectors = Collectors(installed(_TOPICS))
    taken = Definition(name="grafts_mine", kind="gauge", help="h")
    with pytest.raises(RejectedError, match="grafts of package esper_grafts; take another prefix"):
        collectors.declare(taken, {})
    assert Collectors().declare(taken, {})
    assert collectors.declare(Definition(name="graft", kind="gauge", help="h"), {})
    with pytest.raises(RejectedError, match="are Nissa's own"):
        collectors.declare(Definition(name="esper_x", kind="gauge", help="h"), {})


class Strange(BaseException):
    """What no `except Exception` holds."""


def _raised(error: BaseException) -> Callable[..., Any]:
    def collect(*_: object) -> Any:
        raise error

    return collect


def _midway(*_: object) -> Iterable[Metric]:
    yield GaugeMetricFamily("grafts_good", "Good", value=1)
    raise ValueError("midway")


def _sampled(name: str, labels: dict[str, Any], value: Any = 1.0, *, times: int = 1) -> Any:
    def collect(*_: object) -> Iterable[Metric]:
        family = GaugeMetricFamily("grafts_x", "X")
        for _time in range(times):
            family.add_sample(name, labels, value)
        yield family

    return collect


def _many(*_: object) -> Iterable[Metric]:
    family = GaugeMetricFamily("grafts_x", "X", labels=["n"])
    for number in range(MOST_SAMPLES):
        family.add_metric([str(number)], 1)
    yield family


def _endless(*_: object) -> Iterable[Metric]:
    number = 0
    while True:
        number += 1
        yield GaugeMetricFamily(f"grafts_{number}", "X")


WRONG = {
    "raises": _raised(ZeroDivisionError("by zero")),
    "raises midway": _midway,
    "ends the process": _raised(SystemExit(2)),
    "interrupts": _raised(KeyboardInterrupt()),
    "raises what is no Exception": _raised(Strange("odd")),
    "gives nothing": lambda *_: None,
    "gives words": lambda *_: ["grafts_x 1"],
    "has another's name": lambda *_: [GaugeMetricFamily("esper_training_loss", "X", value=1)],
    "has a name twice": lambda *_: [GaugeMetricFamily("grafts_x", "X", value=1)] * 2,
    "has no name": lambda *_: [GaugeMetricFamily("grafts x", "X", value=1)],
    "has another's sample": _sampled("esper_training_loss", {}),
    "has a sample of two lines": _sampled("grafts_x 1\nesper_training_loss", {}),
    "has a label of two words": _sampled("grafts_x", {"a b": "c"}),
    "has a label of Prometheus": _sampled("grafts_x", {"__name__": "c"}),
    "has a number as label": _sampled("grafts_x", {"a": 3}),
    "has a word as value": _sampled("grafts_x", {}, "much"),
    "has labels twice": _sampled("grafts_x", {"a": "b"}, times=2),
    "has too many": _many,
    "never ends": _endless,
}


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_what_a_collector_gives_wrong_costs_its_own_metrics(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page has everybody else's and the number of failures; the log names the collector."""
    collectors = one(WRONG[kind])
    with caplog.at_level(logging.WARNING):
        shown = page(collectors)
    assert collectors.failures == {"grafts": 1}
    assert shown.pop("esper_collector_failures_total/grafts") == 1
    assert shown == page(Collectors())
    assert "The collector grafts failed, time 1" in caplog.text
    assert page(collectors)["esper_collector_failures_total/grafts"] == 2


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(2), KeyboardInterrupt(), Strange("odd")]
)
def test_a_collector_that_cannot_take_an_event_stops_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is counted; the log has the first, second, fourth and so on; others get the
    event.
    """
    seen: list[object] = []

    def kept(memory: object, event: object) -> None:
        del memory
        seen.append(event)

    collectors = Collectors(
        {
            "bad": Collector("bad", lambda *_: (), (TrainingStep,), dict, _raised(error)),
            "good": Collector(
                "good", lambda *_: (), (TrainingStep,), dict, lambda _, e: seen.append(e)
            ),
        }
    )
    event = Run("r", ManualClock()).step(1, loss=1.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(9):
            collectors.take(event)
    assert len(seen) == 9
    assert collectors.failures == {"bad": 9}
    assert len(caplog.records) == 4  # 1, 2, 4, 8


def test_a_collector_that_does_not_end_is_ended() -> None:
    """Whether it makes metrics or takes an event."""

    def sleeps(*_: object) -> Any:
        SystemClock().sleep(10 * PATIENCE_S)

    slow = Collector("grafts", sleeps, (TrainingStep,), dict, sleeps)
    collectors = Collectors({"grafts": slow}, limit=partial(time_limit, 0.2))
    collectors.take(Run("r", ManualClock()).step(1, loss=1.0))
    assert "esper_nissa_uptime_seconds" in page(collectors)
    assert collectors.failures == {"grafts": 2}


def test_a_collector_that_cannot_begin_is_named() -> None:
    """When Nissa starts."""
    with pytest.raises(UsageError, match=r"collector 'grafts' of package .* begin \(KeyError"):
        one(lambda *_: (), begin=_raised(KeyError("x")))


def test_esper_s_own_fail_alone_too() -> None:
    """A scene that one of them cannot read costs its metrics; the others stand there."""
    broken = Scene((), None, Live(), 0, 1.0, 0)  # type: ignore[arg-type]
    collectors = Collectors()
    shown = page(collectors, broken)
    assert collectors.failures == {"compilations": 1}
    assert "esper_nissa_uptime_seconds" in shown
    assert not any(name.startswith("esper_compilation") for name in shown)


def test_counters_and_histograms_pass(caplog: pytest.LogCaptureFixture) -> None:
    """What Prometheus takes is taken, with the suffixes that its client gives."""

    def collect(*_: object) -> Iterable[Metric]:
        from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415  # only here

        yield CounterMetricFamily("grafts_seen", "Seen", value=3)
        histogram = HistogramMetricFamily("grafts_seconds", "Took")
        histogram.add_metric([], [("1", 2.0), ("+Inf", 3.0)], sum_value=1.5)
        yield histogram

    shown = page(one(collect))
    assert shown["grafts_seen_total"] == 3
    assert shown["grafts_seconds_bucket/+Inf"] == shown["grafts_seconds_count"] == 3
    assert not caplog.records
