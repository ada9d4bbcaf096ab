"""Synthetic runs with planted faults, and how well the detectors find them.

`python -m tests.unit.anomalies.planted` prints the table of `esper/anomalies/README.md`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Any, Final

from esper.anomalies import DETECTORS, AlertBook, AlertRules, Observer, fold
from esper.events import Event
from esper.events.records import (
    CacheSampled,
    CompilationFailed,
    EpochEnded,
    KernelFailed,
    RunCompleted,
    RunStarted,
    SeedHealth,
    SeedTransitioned,
    Stage,
    TrainingStep,
)

EPOCH: Final = 50
"""Steps of an epoch."""
LENGTH: Final = 1_000
"""Steps of a run."""
_WARM_UP: Final = 40
_HEALTH_EVERY: Final = 10
_SEEDS: Final = (("a", 0), ("a", 1), ("b", 0), ("b", 1))
_KEPT: Final = 50  # clean runs that faults are planted into
_RUN: Final = "planted"
BEGAN_US: Final = 1_700_000_000_000_000


def seeded(seed: int) -> Random:
    """The generator of a simulation."""
    return Random(seed)  # noqa: S311  # nothing secret comes of it


def made(record: type[Event], number: int, at_us: int, **fields: Any) -> Any:
    """An event with these fields; nothing of it is checked, so the others may be left out."""
    envelope = {
        "event_id": f"{record.NAME}-{number}",
        "occurred_at": at_us,
        "run_id": _RUN,
        "sender_id": "trainer",
        "trace_id": "",
        "causation_id": None,
    }
    return _bare(record, {**envelope, **fields})


def _bare(record: type[Event], datum: dict[str, Any]) -> Any:
    event = object.__new__(record)
    # as Record.from_avro does, without what it does to fields that are not there
    object.__setattr__(event, "__dict__", datum)
    return event


def _changed(event: Event, **fields: Any) -> Any:
    return _bare(type(event), {**event.to_avro(), **fields})


def clean_run(random: Random, length: int = LENGTH) -> list[Event]:
    """A run in which nothing is wrong: a decaying loss after a warm-up, noise whose spread
    wanders, some batches of outliers, steps that wait for the disk, a kernel that passes its stages
    and a held-out loss that becomes better.
    """
    noise = random.uniform(0.03, 0.15)
    floor, height = random.uniform(0.05, 1.0), random.uniform(1.0, 5.0)
    norm, step_us = random.uniform(0.1, 10.0), random.uniform(2e3, 2e5)
    at_us = BEGAN_US
    events: list[Event] = [made(RunStarted, 0, at_us)]
    for step in range(1, length + 1):
        curve = floor + height * math.exp(-3 * step / length)
        warming = max(0.0, 1 - step / _WARM_UP)
        spread = noise * (1 + 0.4 * math.sin(step / 90))
        outlier = random.uniform(1.5, 4.0) if random.random() < 0.005 else 1.0
        stall = random.uniform(2, 20) if random.random() < 0.003 or step % EPOCH == 1 else 1.0
        duration = step_us * stall * random.lognormvariate(0.0, 0.08)
        at_us += int(duration)
        events.append(
            made(
                TrainingStep,
                step,
                at_us,
                epoch=(step - 1) // EPOCH,
                step=step,
                loss=curve * (1 + warming) * outlier * random.lognormvariate(0.0, spread),
                gradient_norm=norm
                * (0.3 + math.exp(-2 * step / length) + warming)
                * outlier
                * random.lognormvariate(0.0, 0.3),
                duration_us=int(duration),
            )
        )
        if step % _HEALTH_EVERY == 0:
            events += _health(random, step, at_us)
        if step % EPOCH == 0:
            at_us += int(20 * step_us)
            events.append(
                made(
                    EpochEnded,
                    step,
                    at_us,
                    epoch=step // EPOCH - 1,
                    step=step,
                    validation_loss=curve * random.lognormvariate(0.0, 0.01),
                )
            )
            events += _passing(step // EPOCH, at_us)
    return [*events, made(RunCompleted, 0, at_us, epoch=length // EPOCH, step=length)]


def _health(random: Random, step: int, at_us: int) -> list[Event]:
    return [
        made(
            SeedHealth,
            step,
            at_us,
            layer=layer,
            seed=seed,
            step=step,
            epoch=(step - 1) // EPOCH,
            activation_variance=random.uniform(0.1, 2.0),
            dead_ratio=random.choice((0.0, 0.0, 0.25, 0.5)),
            gradient_norm=random.lognormvariate(-2.0, 0.5),
        )
        for layer, seed in _SEEDS
    ]


def _passing(epoch: int, at_us: int) -> list[Event]:
    path: dict[int, Stage] = {
        2: "GERMINATED",
        3: "TRAINING",
        8: "BLENDING",
        10: "SHADOWING",
        12: "PROBATIONARY",
        15: "FOSSILIZED",
    }
    return [transition(path[epoch], epoch, at_us)] if epoch in path else []


def transition(stage: Stage, epoch: int, at_us: int, *, seed: int = 0) -> Event:
    """Seed `a` goes to a stage."""
    place = {"layer": "a", "seed": seed, "epoch": epoch, "step": epoch * EPOCH}
    moved: Event = made(SeedTransitioned, epoch, at_us, to_stage=stage, **place)
    return moved


Plant = Callable[[Random, list[Event], int], list[Event]]
"""Puts a fault into a run from a step on."""


def _steps(
    events: list[Event], first: int, last: float, change: Callable[[TrainingStep], TrainingStep]
) -> list[Event]:
    return [
        change(event) if isinstance(event, TrainingStep) and first <= event.step < last else event
        for event in events
    ]


def _spike(random: Random, events: list[Event], at: int) -> list[Event]:
    factor, steps = random.uniform(3, 10), random.randint(8, 25)

    def change(one: TrainingStep) -> TrainingStep:
        falling = 1 + (factor - 1) * (1 - (one.step - at) / (2 * steps))
        falls: TrainingStep = _changed(one, loss=one.loss * falling)
        return falls

    return _steps(events, at, at + steps, change)


def _divergence(random: Random, events: list[Event], at: int) -> list[Event]:
    doubling = random.uniform(30, 150)
    return _steps(
        events,
        at,
        math.inf,
        lambda one: _changed(one, loss=one.loss * 2 ** min(20, (one.step - at) / doubling)),
    )


def _not_finite(random: Random, events: list[Event], at: int) -> list[Event]:
    loss = random.choice((math.nan, math.inf))
    return _steps(events, at, math.inf, lambda one: _changed(one, loss=loss))


def _explosion(random: Random, events: list[Event], at: int) -> list[Event]:
    factor, steps = random.uniform(10, 1_000), random.randint(5, 30)
    return _steps(
        events,
        at,
        at + steps,
        lambda one: _changed(one, gradient_norm=one.gradient_norm * factor),
    )


def _vanishing(random: Random, events: list[Event], at: int) -> list[Event]:
    factor = random.choice((0.0, 1e-4, 1e-6))
    return _steps(
        events,
        at,
        math.inf,
        lambda one: _changed(one, gradient_norm=one.gradient_norm * factor),
    )


def _slow(random: Random, events: list[Event], at: int) -> list[Event]:
    factor, steps = random.uniform(4, 20), random.randint(10, 60)
    return _steps(
        events,
        at,
        at + steps,
        lambda one: _changed(one, duration_us=int(one.duration_us * factor)),
    )


def _dead(random: Random, events: list[Event], at: int) -> list[Event]:
    gone: dict[str, Any] = random.choice(
        ({"dead_ratio": 1.0, "activation_variance": 0.0}, {"gradient_norm": 0.0})
    )
    return [
        _changed(event, **gone)
        if isinstance(event, SeedHealth) and event.layer == "b" and event.step >= at
        else event
        for event in events
    ]


def _stuck(random: Random, events: list[Event], at: int) -> list[Event]:
    """The seed waits for its kernel; its patience, ten epochs, ends at the step of the fault."""
    del random
    epoch = at // EPOCH - 10
    kept = [event for event in events if not isinstance(event, SeedTransitioned)]
    began = next(
        number
        for number, event in enumerate(kept)
        if isinstance(event, TrainingStep) and event.step == epoch * EPOCH + 1
    )
    return [
        *kept[:began],
        transition("GERMINATED", epoch, kept[began].occurred_at),
        *kept[began:],
    ]


def _silent(random: Random, events: list[Event], at: int) -> list[Event]:
    del random
    return [
        event
        for event in events
        if isinstance(event, RunStarted)
        or (isinstance(event, TrainingStep | EpochEnded | SeedHealth) and event.step <= at)
    ]


def _plateau(random: Random, events: list[Event], at: int) -> list[Event]:
    """The held-out loss stays where it was; its patience, twelve epochs, ends at the step."""
    first = at - 12 * EPOCH
    losses = [
        event.validation_loss
        for event in events
        if isinstance(event, EpochEnded) and event.step <= first
    ]
    return [
        _changed(event, validation_loss=min(losses) * random.uniform(1.0, 1.1))
        if isinstance(event, EpochEnded) and event.step > first
        else event
        for event in events
    ]


def _with(events: list[Event], at: int, record: type[Event], fields: list[Any]) -> list[Event]:
    """With further events in a row behind the step."""
    place = next(
        number
        for number, event in enumerate(events)
        if isinstance(event, TrainingStep) and event.step == at
    )
    at_us = events[place].occurred_at
    more = [made(record, number, at_us, **one) for number, one in enumerate(fields)]
    return [*events[: place + 1], *more, *events[place + 1 :]]


def _thrash(random: Random, events: list[Event], at: int) -> list[Event]:
    turnover = random.randint(10, 100)
    return _with(events, at, CacheSampled, [cache(n, turnover) for n in range(6)])


def cache(sample: int, turnover: int, share: float = 1.0) -> dict[str, Any]:
    """Counts of a cache of four kernels; `share` of its lookups drive one out."""
    return {
        "hits_memory": 0,
        "hits_disk": sample * turnover,
        "hits_store": 0,
        "misses": 0,
        "evictions": int(sample * turnover * share),
        "limit_entries": 4,
    }


def _uncompiled(random: Random, events: list[Event], at: int) -> list[Event]:
    errors = [{"error": "no shape"}] * random.randint(3, 9)
    return _with(events, at, CompilationFailed, errors)


def _kernel(random: Random, events: list[Event], at: int) -> list[Event]:
    failures = [
        {
            "layer": "b",
            "seed": random.randint(0, 1),
            "kernel_id": "f" * 64,
            "phase": "FORWARD",
            "error": "it raised",
            "consecutive_errors": number,
            "epoch": (at - 1) // EPOCH,
            "step": at,
        }
        for number in range(1, 4)
    ]
    return _with(events, at, KernelFailed, failures)


PLANTS: Final[dict[str, Plant]] = {
    "loss_not_finite": _not_finite,
    "loss_spike": _spike,
    "divergence": _divergence,
    "plateau": _plateau,
    "gradient_explosion": _explosion,
    "gradient_vanishing": _vanishing,
    "dead_layer": _dead,
    "stuck_seed": _stuck,
    "slow_step": _slow,
    "stale_telemetry": _silent,
    "cache_thrash": _thrash,
    "compile_failures": _uncompiled,
    "kernel_failures": _kernel,
}
"""A fault for each detector."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well one detector does.

    Attributes:
        detector: Its name.
        found: Fraction of the planted faults that it found.
        delay: Median number of steps from fault to anomaly; for a silent trainer, seconds.
        false_alarms: Alerts in 100,000 steps without a fault.
    """

    detector: str
    found: float
    delay: float
    false_alarms: float


def delay(name: str, random: Random, clean: list[Event]) -> float | None:
    """Steps from a fault planted into a clean run to its anomaly; None if there is none."""
    at = random.randrange(14 * EPOCH, 17 * EPOCH)
    events = PLANTS[name](random, clean, at)
    only = [detector for detector in DETECTORS if detector.name == name]
    observer = Observer(detectors=only)
    for event in events:
        for finding in observer.see(event):
            if finding.step >= at - EPOCH:
                return max(0, finding.step - at)
    last = events[-1].occurred_at
    for second in range(0, 100_000, 10):
        if observer.at(last + second * 1_000_000):
            return second
    return None


def false_alarms(runs: int, random: Random) -> Counter[str]:
    """Alerts by detector in runs without a fault."""
    raised: Counter[str] = Counter()
    for _ in range(runs):
        observer, book = Observer(), AlertBook()
        for event in clean_run(random):
            findings = observer.see(event)
            if findings:
                book, changes = fold(book, findings, AlertRules())
                raised.update(one.alert.subject.detector for one in changes if one.kind == "RAISED")
        raised.update(one.subject.detector for one in observer.at(BEGAN_US + 10**15))
    return raised


def measure(*, trials: int, runs: int, seed: int) -> list[Quality]:
    """The table: `trials` faults for each detector, and `runs` runs of `LENGTH` steps without."""
    random = seeded(seed)
    alarms = false_alarms(runs, random)
    clean = [clean_run(random) for _ in range(min(trials, _KEPT))]
    table = []
    for name in PLANTS:
        delays = [delay(name, random, clean[trial % len(clean)]) for trial in range(trials)]
        found = [one for one in delays if one is not None]
        table.append(
            Quality(
                name,
                len(found) / trials,
                median(found) if found else math.nan,
                alarms[name] * 100_000 / (runs * LENGTH),
            )
        )
    return table


def markdown(table: Sequence[Quality]) -> str:
    """The table as documents have it."""
    lines = [
        "| detector | detected | median delay | false alarms in 100,000 steps |",
        "|---|---|---|---|",
    ]
    for one in table:
        unit = "s" if one.detector == "stale_telemetry" else "steps"
        lines.append(
            f"| {one.detector} | {one.found:.1%} | {one.delay:.0f} {unit} | "
            f"{one.false_alarms:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(measure(trials=200, runs=500, seed=1)))  # noqa: T201  # what it is for
