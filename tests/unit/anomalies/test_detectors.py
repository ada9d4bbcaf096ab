"""What each detector fires on, and what it leaves alone."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable
from typing import Any

import pytest

from esper.anomalies import DETECTORS, Anomaly, Cleared, Finding, Observer, Subject
from esper.events import Event
from esper.events.records import (
    CacheSampled,
    CompilationFailed,
    EpochEnded,
    KernelCompiled,
    RunCompleted,
    RunPaused,
    RunResumed,
    RunStarted,
    SeedHealth,
    TrainingStep,
)
from tests.unit.anomalies.planted import (
    BEGAN_US,
    EPOCH,
    PLANTS,
    cache,
    clean_run,
    delay,
    made,
    seeded,
    transition,
)

MINUTE_US = 60_000_000


def step(number: int, **fields: Any) -> Event:
    """A step with usual figures, but for those that are given."""
    # a little noise that needs no generator: the spread of a constant is its least
    usual = {"loss": 1 + number % 3 / 50, "gradient_norm": 1.0, "duration_us": 1_000, "epoch": 0}
    event: Event = made(
        TrainingStep, number, BEGAN_US + number * 1_000, **{**usual, **fields, "step": number}
    )
    return event


def found(events: Iterable[Event], observer: Observer | None = None) -> list[Finding]:
    """All findings of some events."""
    observer = observer or Observer()
    return [finding for event in events for finding in observer.see(event)]


def names(findings: list[Finding]) -> set[str]:
    """The detectors that found anomalies."""
    return {one.subject.detector for one in findings if isinstance(one, Anomaly)}


def epochs(losses: Iterable[float]) -> list[Event]:
    """Epochs with these held-out losses."""
    return [
        made(EpochEnded, at, BEGAN_US + at, epoch=at, step=(at + 1) * EPOCH, validation_loss=loss)
        for at, loss in enumerate(losses)
    ]


@pytest.mark.parametrize("name", PLANTS)
def test_a_detector_finds_its_fault_and_is_silent_before(name: str) -> None:
    """In a run with noise, outliers and stalls."""
    random = seeded(5)
    clean = clean_run(random)
    assert delay(name, random, clean) is not None
    only = [detector for detector in DETECTORS if detector.name == name]
    observer = Observer(detectors=only)
    assert found(clean, observer) == []
    assert observer.at(clean[-1].occurred_at + 1_000 * MINUTE_US) == []


@pytest.mark.parametrize("name", PLANTS)
def test_an_observer_goes_on_from_its_state(name: str) -> None:
    """Killed anywhere and begun again from a pickle, it finds what one finds that lived."""
    random = seeded(11)
    at = 15 * EPOCH
    events = PLANTS[name](random, clean_run(random), at)
    whole = found(events)
    first = Observer()
    half = next(n for n, event in enumerate(events) if getattr(event, "step", 0) >= at)
    early = found(events[:half], first)
    again = Observer(state=pickle.loads(pickle.dumps(first.state)))  # noqa: S301  # its own
    # by their text, since NaN is not equal to itself
    assert repr(early + found(events[half:], again)) == repr(whole)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_critical(loss: float) -> None:
    """At once, of a step and of the held-out split; over after twenty finite steps."""
    events = [step(1), step(2, loss=loss), *(step(number) for number in range(3, 30))]
    first, *rest = found(events)
    assert isinstance(first, Anomaly)
    assert (first.severity, first.step, first.event_ids) == ("CRITICAL", 2, ("TrainingStep-2",))
    assert rest == [Cleared(first.subject, 22, 0, BEGAN_US + 22_000)]
    assert names(found(epochs([1.0, loss]))) == {"loss_not_finite"}


def test_one_batch_of_outliers_is_no_spike() -> None:
    """Three steps in a row are, and the anomaly names them."""
    calm = [step(number) for number in range(1, 60)]
    assert found([*calm, step(60, loss=50.0), step(61, loss=60.0), step(62)]) == []
    (anomaly,) = found([*calm, *(step(number, loss=50.0) for number in (60, 61, 62))])
    assert isinstance(anomaly, Anomaly)
    assert anomaly.subject.detector == "loss_spike"
    assert anomaly.event_ids == ("TrainingStep-60", "TrainingStep-61", "TrainingStep-62")
    assert anomaly.expected == pytest.approx(1.02, abs=0.02)
    assert "48.8 times the usual 1.025" in anomaly.sentence


def test_a_loss_without_a_logarithm_is_not_judged() -> None:
    """Some losses are negative."""
    assert found(step(number, loss=-1.0 - number) for number in range(200)) == []


def test_a_run_that_goes_back_begins_anew() -> None:
    """After a rollback the higher loss of an earlier step is no anomaly."""
    low = [step(number, loss=0.01) for number in range(100, 300)]
    assert found([*low, *(step(number, loss=2.0) for number in range(50, 200))]) == []


def test_a_plateau_waits_for_its_patience_and_ends_with_a_better_loss() -> None:
    """Twelve epochs without a loss that is a thousandth better."""
    findings = found(epochs([1.0, 0.5, *([0.4999] * 12), 0.3]))
    first, last = findings
    assert isinstance(first, Anomaly)
    assert (first.epoch, first.expected) == (14, 0.5)
    assert "0.5 at epoch 2" in first.sentence
    assert isinstance(last, Cleared)


def test_gradients_that_were_never_reported_do_not_vanish() -> None:
    """A loop of one's own may report no norm."""
    assert found(step(number, gradient_norm=0.0) for number in range(200)) == []


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_gradients_that_are_not_finite_explode(norm: float) -> None:
    """Three steps in a row; not where a float16 loss scale finds its size, and later skips one."""
    first = [step(number, gradient_norm=norm) for number in range(5)]
    calm = [step(number) for number in range(5, 60)]
    assert found([*first, *calm, step(60, gradient_norm=norm), step(61)]) == []
    last = [step(number, gradient_norm=norm) for number in range(62, 65)]
    assert names(found([*first, *calm, *last])) == {"gradient_explosion"}


def health(sample: int, seed: int, **fields: Any) -> Event:
    """Health of a seed of layer `a`."""
    alive = {"activation_variance": 1.0, "dead_ratio": 0.0, "gradient_norm": 1.0}
    event: Event = made(
        SeedHealth,
        sample,
        BEGAN_US + sample,
        **{**alive, **fields, "layer": "a", "seed": seed, "step": sample, "epoch": 0},
    )
    return event


def test_a_layer_is_dead_when_all_its_chunks_are() -> None:
    """One chunk alone is none, a frozen layer neither."""
    half = [health(sample, seed, dead_ratio=float(seed)) for sample in range(9) for seed in (0, 1)]
    assert found(half) == []
    frozen = [health(sample, seed, gradient_norm=0.0) for sample in range(9) for seed in (0, 1)]
    assert found(frozen) == []
    dead = [health(sample, seed, dead_ratio=1.0) for sample in range(3) for seed in (0, 1)]
    (anomaly,) = found(dead)
    assert isinstance(anomaly, Anomaly)
    assert anomaly.subject == Subject("dead_layer", "planted", "a")
    assert anomaly.sentence == ("Layer a is dead: its output is the same for every sample.")


def test_a_stuck_seed_is_named_until_it_moves() -> None:
    """By the epochs of its stage."""
    moved = transition("TRAINING", 0, BEGAN_US, seed=3)
    events = [moved, *epochs(0.9**number for number in range(41))]
    first, second = found(events)
    assert isinstance(first, Anomaly)
    assert (first.subject.layer, first.subject.seed, first.value) == ("a", 3, 40)
    assert isinstance(second, Anomaly)
    *_, cleared = found([*events, transition("CULLED", 41, BEGAN_US, seed=3)])
    assert isinstance(cleared, Cleared)
    assert cleared.subject == first.subject


def test_silence_is_no_fault_of_a_run_that_paused_or_ended() -> None:
    """Of one that trains it is, in proportion to its longest gap; a pause is no gap."""
    began = made(RunStarted, 0, BEGAN_US)
    later = BEGAN_US + 60 * MINUTE_US
    for end in (RunPaused, RunCompleted):
        observer = Observer()
        found([began, made(end, 1, BEGAN_US, epoch=0, step=0)], observer)
        assert observer.at(later) == []
    paused = made(RunPaused, 1, BEGAN_US, epoch=0, step=0)
    resumed = made(RunResumed, 1, later, epoch=0, step=0)
    observer = Observer()
    found([began, paused, resumed], observer)
    assert observer.at(later + 4 * MINUTE_US) == []
    (anomaly,) = observer.at(later + 30 * MINUTE_US)
    assert isinstance(anomaly, Anomaly)
    assert anomaly.sentence == "The run has said nothing for 30 minutes and has not ended."
    (cleared,) = found([made(RunResumed, 2, later + 31 * MINUTE_US, epoch=0, step=0)], observer)
    assert isinstance(cleared, Cleared)
    # telemetry of before a pause, read after it: topics have no order among them
    observer = Observer()
    paused = made(RunPaused, 1, BEGAN_US + MINUTE_US, epoch=0, step=0)
    found([began, paused, step(1)], observer)
    assert observer.at(later) == []
    slow = made(EpochEnded, 0, later, epoch=0, step=9, validation_loss=1.0)
    observer = Observer()
    found([began, slow], observer)
    assert observer.at(later + 9 * 60 * MINUTE_US) == []


def test_a_cache_thrashes_when_it_drives_out_what_it_fetches() -> None:
    """Not when it is merely full, and not where a new process begins to count."""
    busy = [made(CacheSampled, n, BEGAN_US, **cache(n, 100, share=0.1)) for n in range(9)]
    assert found(busy) == []
    restarted = [made(CacheSampled, n, BEGAN_US, **cache(n % 3, 100)) for n in range(12)]
    assert found(restarted) == []
    thrashing = [made(CacheSampled, n, BEGAN_US, **cache(n, 100)) for n in range(4)]
    assert names(found(thrashing)) == {"cache_thrash"}


def test_one_kernel_that_compiles_ends_a_row_of_failures() -> None:
    """Two failures are none: the compiler tries a blueprint several ways."""
    failed = [made(CompilationFailed, n, BEGAN_US, error="no shape") for n in range(3)]
    compiled = made(KernelCompiled, 0, BEGAN_US)
    assert found([*failed[:2], compiled, *failed[:2]]) == []
    anomaly, cleared = found([*failed, compiled])
    assert isinstance(anomaly, Anomaly)
    assert anomaly.event_ids == tuple(f"CompilationFailed-{n}" for n in range(3))
    assert isinstance(cleared, Cleared)


def test_a_run_is_forgotten() -> None:
    """With all that was known of it, for one that ended long ago."""
    observer = Observer()
    found(clean_run(seeded(1), 100), observer)
    observer.forget("planted")
    assert observer.state == Observer().state
