"""Collectors at work: Esper's own and those of installed packages, each so that what it does wrong
costs its own metrics alone.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector as Source

from esper.errors import RejectedError, UsageError, printable
from esper.events import Event
from esper.plugins import COLLECTORS, package_of, together
from esper_processors.nissa import custom
from esper_processors.nissa.custom import OWN_PREFIX, Definition
from esper_processors.nissa.metrics import OWN
from esper_processors.nissa.scene import Collector, Scene

_log = logging.getLogger(__name__)
MOST_SAMPLES: Final = 10_000
"""Samples that a package's collector may give at most: each is a series that Prometheus keeps."""
_SAMPLE: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def installed(topics: Collection[str]) -> dict[str, Collector]:
    """The collectors of installed packages by name; `topics` are those that Nissa reads.

    Raises:
        UsageError: one cannot be used, takes events of another topic, or has metrics whose names
            may be those of another; the package is named.
    """
    collectors = together(COLLECTORS, Collector, {collector.name: collector for collector in OWN})
    packages = {
        name: collector
        for name, collector in collectors.items()
        if name not in {own.name for own in OWN}
    }
    for name, collector in packages.items():
        whose = f"The collector {name!r} of package {package_of(COLLECTORS, name)}"
        # compared with the underscore behind both: `gpu` and `gpu_fans` clash, `gpu` and `gpus` do
        # not
        for other, owner in ((OWN_PREFIX.rstrip("_"), "Nissa itself"), *_others(name, packages)):
            if f"{name}_".startswith(f"{other}_"):
                raise UsageError(
                    f"{whose} has metrics whose names begin with {name}_, and those that begin "
                    f"with {other}_ are of {owner}: uninstall one of them, or let it take another "
                    "name."
                )
        for record in collector.takes:
            if record.TOPIC not in topics:
                raise UsageError(
                    f"{whose} takes {record.NAME}, which is on {record.TOPIC}; Nissa reads "
                    f"{', '.join(sorted(topics))}: mend or uninstall that package."
                )
    return packages


def _others(name: str, packages: Mapping[str, Collector]) -> Iterator[tuple[str, str]]:
    for other in packages:
        if other != name:
            yield other, f"package {package_of(COLLECTORS, other)}"


class Collectors:
    """Esper's own collectors and `packages`, with what each remembers; each works within `limit`.

    `failures` counts, by collector, what it has raised and what it gave that is no metric.

    Raises:
        UsageError: one cannot begin.
    """

    def __init__(
        self,
        packages: Mapping[str, Collector] | None = None,
        *,
        limit: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._limit = limit
        self._packages = dict(packages or {})
        self._all = (*OWN, *self._packages.values())
        self._memory = {collector.name: _initial_memory(collector) for collector in self._all}
        self._takers: dict[type[Event], list[Collector]] = {}
        self.failures: Counter[str] = Counter()
        for collector in self._all:
            for record in collector.takes:
                self._takers.setdefault(record, []).append(collector)

    def take(self, event: Event) -> None:
        """Give an event that was read to those that take its record."""
        for collector in self._takers.get(type(event), ()):
            try:
                with self._limit():
                    collector.take(self._memory[collector.name], event)
            # SystemExit and KeyboardInterrupt too: they would end Nissa, and signals reach its
            # loop instead
            except BaseException as error:  # noqa: BLE001
                self._failed(collector, error)

    def exposition(self, scene: Scene) -> bytes:
        """Every metric with its present value, in Prometheus' text format."""
        return b"".join(
            [*(self._text(collector, scene) for collector in self._all), self._failure_counts()]
        )

    def declare(self, definition: Definition, known: Mapping[str, Definition]) -> bool:
        """Whether a declared metric is new, as `custom.declare` does.

        Raises:
            UsageError: as `custom.declare` does.
            RejectedError: as there, or the name may be one of a package's collector; so one that
                was declared before the package was installed is put aside.
        """
        for name in self._packages:
            if definition.name.startswith(f"{name}_"):
                raise RejectedError(
                    f"Names that begin with {name}_ are of the collector {name} of package "
                    f"{package_of(COLLECTORS, name)}; take another prefix than {definition.name} "
                    "has."
                )
        return custom.declare(definition, known)

    def _text(self, collector: Collector, scene: Scene) -> bytes:
        """The metrics of a collector; nothing where it fails."""
        try:
            with self._limit():
                families = collector.collect(scene, self._memory[collector.name])
                if collector.name in self._packages:
                    # a list, so that a generator runs here, within the limit, and is checked to its
                    # end
                    families = list(_sound(families, f"{collector.name}_"))
                return _rendered(families)
        except BaseException as error:  # noqa: BLE001  # see above
            self._failed(collector, error)
            return b""

    def _failed(self, collector: Collector, error: BaseException) -> None:
        """Count a failure; the log has a line for the first, second, fourth and so on."""
        self.failures[collector.name] += 1
        count = self.failures[collector.name]
        # a power of two: one that fails at every scrape must not fill the log
        if not count & (count - 1):
            _log.warning("The collector %s failed, time %d", collector.name, count, exc_info=error)

    def _failure_counts(self) -> bytes:
        family = CounterMetricFamily(
            "esper_collector_failures",
            "Times that a collector of metrics failed since Nissa started",
            labels=["collector"],
        )
        for name, count in sorted(self.failures.items()):
            family.add_metric([name], count)
        return _rendered([family])


def _initial_memory(collector: Collector) -> Any:
    try:
        return collector.begin()
    except Exception as error:
        raise UsageError(
            f"The collector {collector.name!r} of package "
            f"{package_of(COLLECTORS, collector.name)} cannot begin ({type(error).__name__}: "
            f"{printable(str(error)[:400])}): mend or uninstall that package."
        ) from error


def _sound(families: Iterable[Metric], prefix: str) -> Iterator[Metric]:
    """The families of a package, if Prometheus can read them: one bad line would cost every metric
    of the page.

    Raises:
        UsageError: what is wrong with one.
    """
    names, count = set[str](), 0
    for family in families:
        if not isinstance(family, Metric):
            raise UsageError(
                f"it gave {type(family).__name__}, and has to give metric families of "
                "prometheus_client"
            )
        if not family.name.startswith(prefix) or family.name in names:
            raise UsageError(
                f"it gave {family.name[:200]!r}: each name begins with {prefix} and comes once"
            )
        names.add(family.name)
        series = set[tuple[str, tuple[tuple[str, str], ...]]]()
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            # prometheus_client checks names when it makes a family, but not what is put into
            # `samples`
            if not (_SAMPLE.fullmatch(sample.name) and sample.name.startswith(family.name)):
                raise UsageError(f"{sample.name[:200]!r} is no sample of {family.name}")
            if not all(_LABEL.fullmatch(label) for label in sample.labels):
                raise UsageError(f"{family.name} has a label that Prometheus does not take")
            if (sample.name, labels) in series:
                raise UsageError(f"{family.name} has the labels {dict(labels)} twice")
            series.add((sample.name, labels))
        count += 1 + len(family.samples)
        if count > MOST_SAMPLES:
            raise UsageError(f"it gave more than {MOST_SAMPLES:,} samples")
        yield family


class _Families(Source):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _rendered(families: Iterable[Metric]) -> bytes:
    # a registry for each: one that fails would take the others' metrics with it
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)
