"""Telemetry as it is now: the newest values in memory, lost with the process and rebuilt by the
next ones. No I/O; the clock's time is passed in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from esper.events import Event
from esper.events.records import CacheSampled, ResourceSampled, SeedHealth, TrainingStep
from esper_processors.nissa.runs import RunView

SILENT_US = 3_600_000_000
"""A run that says nothing for an hour counts as gone: its trainer was killed, and no journal event
will ever say so.
"""
SAMPLES = 100
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the histogram of health signals' latency, seconds."""
_RUNS = 256
_NAMES = 10_000
"""Processes, caches, and seeds of one run, that are held at most: whoever may write to a topic
chooses their names.
"""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Latency:
    """Time from a signal's emission to its reading here.

    `counts` has one entry a bucket and one for what is slower than all.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_S) + 1))
    sum_s: float = 0.0

    def note(self, seconds: float) -> None:
        """One more signal."""
        self.counts[bisect_left(LATENCY_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Pulse:
    """Newest telemetry of one run. `health` is by layer and seed."""

    training: TrainingStep | None = None
    health: dict[tuple[str, int], float] = field(default_factory=dict)
    seen_at: int = 0
    samples: int = 0


class Live:
    """Newest telemetry of all runs and processes, and a ring of aggregated samples."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Pulse] = OrderedDict()
        self.resources: dict[str, ResourceSampled] = {}
        self.caches: dict[tuple[str, str], CacheSampled] = {}
        self.health_latency = Latency()
        self.events: Counter[str] = Counter()
        self.samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self.delay_us = 0

    def pulse(self, run_id: str) -> Pulse:
        """A run's newest telemetry; empty when there was none."""
        return self._runs.get(run_id, Pulse())

    def caches_of(self, runs: Iterable[str]) -> list[CacheSampled]:
        """The newest counts of every kernel cache of these runs, and of those that belong to no
        run.
        """
        run_ids = {*runs, ""}
        return [cache for (run_id, _), cache in sorted(self.caches.items()) if run_id in run_ids]

    def take(self, topic: str, event: Event, now_us: int) -> None:
        """Note an event that has just been read."""
        self.events[topic] += 1
        self.delay_us = max(now_us - event.occurred_at, 0)
        if isinstance(event, ResourceSampled):
            _keep(self.resources, event.process, event)
        elif isinstance(event, CacheSampled):
            _keep(self.caches, (event.run_id, event.sender_id), event)
        elif isinstance(event, SeedHealth):
            self.health_latency.note(self.delay_us / 1e6)
        if not event.run_id:
            return
        pulse = self._runs.setdefault(event.run_id, Pulse())
        # the run that was silent longest leaves first, not the one that began first
        self._runs.move_to_end(event.run_id)
        pulse.seen_at = max(pulse.seen_at, event.occurred_at)
        if isinstance(event, TrainingStep) and (
            # after a restart old events come again: the newest by its own time stands
            pulse.training is None or event.occurred_at >= pulse.training.occurred_at
        ):
            pulse.training = event
            pulse.samples += event.samples
        elif isinstance(event, SeedHealth):
            _keep(pulse.health, (event.layer, event.seed), event.health)
        if len(self._runs) > _RUNS:
            self.forget(next(iter(self._runs)))

    def forget(self, run_id: str) -> None:
        """Drop a run that ended."""
        self._runs.pop(run_id, None)
        for key in [key for key in self.caches if key[0] == run_id]:
            del self.caches[key]

    def current(self, views: Iterable[RunView], now_us: int) -> tuple[RunView, ...]:
        """Runs that go on: not ended, and heard of within the hour.

        Only these have metrics with their name.
        """
        return tuple(
            view
            for view in views
            if not view.ended
            and now_us - max(view.updated_at, self.pulse(view.run_id).seen_at) < SILENT_US
        )

    def sample(self, views: Sequence[RunView], now_us: int) -> None:
        """Aggregate the present into one sample."""
        self.samples.append(
            {
                "at": now_us,
                "events": self.events.total(),
                "delay_us": self.delay_us,
                "resources": {
                    name: {
                        "cpu_percent": reading.cpu_percent,
                        "rss_bytes": reading.rss_bytes,
                        "gpu_bytes": reading.gpu_bytes,
                    }
                    for name, reading in sorted(self.resources.items())
                },
                "runs": {
                    view.run_id: {
                        "step": self.step(view),
                        "training_loss": self.training_loss(view),
                        "validation_accuracy": view.validation_accuracy,
                        "samples": self.pulse(view.run_id).samples,
                        "seeds": view.stages(),
                    }
                    for view in self.current(views, now_us)
                },
            }
        )

    def training_loss(self, view: RunView) -> float | None:
        """Loss of the newest step, or of the newest epoch when no step was heard."""
        training = self.pulse(view.run_id).training
        return training.loss if training else view.train_loss

    def step(self, view: RunView) -> int:
        """Newest step that was heard of."""
        training = self.pulse(view.run_id).training
        return max(training.step, view.step) if training else view.step


def _keep(newest: dict[K, V], key: K, value: V) -> None:
    """Note the newest value of a key; the oldest key leaves where there are too many."""
    # out and in again: so the first key is the one that was heard of longest ago
    newest.pop(key, None)
    newest[key] = value
    if len(newest) > _NAMES:
        del newest[next(iter(newest))]
