"""The list of figures, and what a measurement may use: a clock, a folder, a broker, and results
that several figures share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from esper.bench.estimate import Estimate
from esper.clock import Clock
from esper.config import KafkaSettings
from esper.errors import EsperError, UnavailableError

T = TypeVar("T")

_START_S = 60.0  # on a busy machine a broker answers before its partitions have leaders


@dataclass(slots=True)
class Bench:
    """One run of the benchmarks.

    `folder` is its own and goes afterwards; `held` is closed at the end, last come first gone.
    """

    clock: Clock
    folder: Path
    held: ExitStack
    progress: Callable[[str], None]
    _shared: dict[Callable[[Bench], Any], Any] = field(default_factory=dict)

    def once(self, make: Callable[[Bench], T]) -> T:
        """What `make` gives, made at the first call: measurements side by side from which several
        figures follow, a broker, a stack.

        Raises:
            EsperError: the error of the first call, at each: what cannot be measured is not tried
                again.
        """
        if make not in self._shared:
            try:
                self._shared[make] = make(self)
            except EsperError as error:
                # kept: ten figures of a broker that does not start must not wait for it ten times
                self._shared[make] = error
        if isinstance(self._shared[make], EsperError):
            raise self._shared[make]
        found: T = self._shared[make]
        return found

    def seconds(self, work: Callable[[], object]) -> float:
        """How long one call takes."""
        began = self.clock.monotonic()
        work()
        return self.clock.monotonic() - began

    def processor_seconds(self, work: Callable[[], object]) -> float:
        """Processor time that one call takes on this thread: what it costs, which other work on the
        machine does not stretch.
        """
        began = time.thread_time()
        work()
        return time.thread_time() - began

    def broker(self) -> str:
        """Bootstrap string of a real broker of this run's own, with all of Esper's topics."""
        return self.once(_broker)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what it is called, how it is measured, and the bar that it is held against
    (`at_most` or `at_least`, or none).
    """

    name: str
    family: str
    about: str
    unit: str
    measure: Callable[[Bench], Estimate]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bar(self) -> str:
        """The bar in words; empty without one."""
        return (
            f"<= {self.at_most:g}"
            if self.at_most is not None
            else f">= {self.at_least:,g}"
            if self.at_least is not None
            else ""
        )

    def met(self, value: float) -> bool | None:
        """Whether a value meets the bar; None without one."""
        if self.at_most is not None:
            return value <= self.at_most
        return value >= self.at_least if self.at_least is not None else None


FIGURES: dict[str, Figure] = {}
"""Every figure by name, in the order of measurement; `esper.bench.report` imports the families."""


def figure(
    name: str, unit: str, about: str, *, at_most: float | None = None, at_least: float | None = None
) -> Callable[[Callable[[Bench], Estimate]], Callable[[Bench], Estimate]]:
    """Register a measurement as a figure of the family that its module is named after."""

    def register(measure: Callable[[Bench], Estimate]) -> Callable[[Bench], Estimate]:
        family = measure.__module__.rpartition(".")[2]
        FIGURES[name] = Figure(name, family, about, unit, measure, at_most, at_least)
        return measure

    return register


def _broker(bench: Bench) -> str:
    from esper.oona.admin import topic_creation  # noqa: PLC0415  # figures without a broker need no Kafka client
    from esper.stack.embedded import aot, jars  # noqa: PLC0415  # as above
    from esper.stack.embedded.broker import BrokerNode  # noqa: PLC0415  # as above
    from esper.stack.embedded.solo import running_broker  # noqa: PLC0415  # as above
    from esper.stack.processes.ports import PortClaims  # noqa: PLC0415  # as above

    bench.progress("starting a broker")
    claims, folder = bench.held.enter_context(PortClaims()), bench.folder / "kafka"
    node = BrokerNode(
        folder,
        *(
            claims.choose(salt=f"{folder} {name}", preferred=())
            for name in ("broker", "controller")
        ),
    )
    classpath = jars.kafka(bench.progress)
    options = aot.java_options(classpath)
    bench.held.enter_context(
        running_broker(
            node,
            classpath,
            cluster_id="ZXNwZXItYmVuY2gtYnJva2",
            clock=bench.clock,
            java_options=options,
        )
    )
    busy = Retrying(
        retry=retry_if_exception_type(UnavailableError),
        stop=stop_after_delay(_START_S),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    busy(topic_creation.ensure, node.bootstrap, KafkaSettings(bootstrap=node.bootstrap))
    return node.bootstrap
