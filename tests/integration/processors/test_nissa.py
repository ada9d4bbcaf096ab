"""Claims about Nissa as a process on a real broker."""

from __future__ import annotations

import re
import signal

from esper.events import Event, Message
from tests.integration.processors.workers import Line, Worker, wait_for
from tests.unit.nissa.journal import Run

EXACT = (
    "esper_training_loss",
    "esper_adaptation_count",
    "esper_seed_active_count",
    "esper_compilation_latency",
)


def metrics(worker: Worker) -> dict[str, float]:
    """Every sample of `/metrics` by its name with labels."""
    code, body = worker.get("/metrics")
    assert code == 200
    lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def run_of(worker: Worker, run_id: str) -> dict[str, object]:
    """The entry of a run in the status; empty when there is none."""
    found = [run for run in worker.json("/api/v1/status")["runs"] if run["run_id"] == run_id]
    return dict(found[0]) if found else {}


def events_of(run: Run) -> list[Event]:
    """A run that has grown a seed, with telemetry and a compilation."""
    return [
        run.started(),
        *run.germinated("0", 1),
        *(run.step(number, loss=2 - number / 100) for number in range(100)),
        *(run.health("0", seed, 0.8) for seed in range(4)),
        run.compiled(0.18),
        run.epoch_ended(validation_accuracy=0.41),
    ]


def test_metrics_and_status_tell_what_the_topics_told(nissa: Worker, line: Line) -> None:
    """The metrics with fixed names stand there under exactly these names, and the status has the
    run's epoch, step, loss, seeds and adaptations.
    """
    run = Run("nissa-1")
    line.send(*events_of(run))
    wait_for(lambda: metrics(nissa).get('esper_training_loss{run="nissa-1"}') == 2 - 0.99)
    wait_for(
        lambda: (
            {'esper_seed_health{layer="0",run="nissa-1"}', "esper_compilation_latency"}
            <= set(metrics(nissa))
        )
    )
    wait_for(lambda: run_of(nissa, "nissa-1").get("epoch") == 1)
    shown = metrics(nissa)
    assert shown['esper_adaptation_count{run="nissa-1"}'] == 1
    assert shown['esper_seed_active_count{layer="0",run="nissa-1"}'] == 1
    assert shown["esper_compilation_latency"] == 0.18
    assert abs(shown['esper_seed_health{layer="0",run="nissa-1"}'] - 0.8) < 1e-9
    assert {re.split(r"[{ ]", name)[0] for name in shown} >= set(EXACT)
    status = run_of(nissa, "nissa-1")
    assert status["status"] == "RUNNING"
    assert status["seeds"] == {"DORMANT": 7, "GERMINATED": 1}
    assert status["adaptations"] == {"GERMINATE": 1}
    assert status["validation_accuracy"] == 0.41


def test_counts_survive_a_kill_and_repetition(nissa: Worker, line: Line) -> None:
    """Killed with SIGKILL and started again, Nissa shows the same counts of a live run, also when
    every event comes a second time.
    """
    run = Run("nissa-2")
    events = events_of(run)
    line.send(*events)
    wait_for(lambda: run_of(nissa, "nissa-2").get("epoch") == 1)
    nissa.signal(signal.SIGKILL)
    nissa.start()
    nissa.wait_ready()
    wait_for(lambda: run_of(nissa, "nissa-2").get("epoch") == 1)
    shown = run_of(nissa, "nissa-2")
    assert (shown["seeds"], shown["adaptations"], shown["validation_accuracy"]) == (
        {"DORMANT": 7, "GERMINATED": 1},
        {"GERMINATE": 1},
        0.41,
    )
    last = run.germinated("0", 2)
    line.send(*events, *last)
    wait_for(lambda: run_of(nissa, "nissa-2").get("seeds") == {"DORMANT": 6, "GERMINATED": 2})
    assert run_of(nissa, "nissa-2")["adaptations"] == {"GERMINATE": 2}
    assert metrics(nissa)['esper_adaptation_count{run="nissa-2"}'] == 2


def test_a_run_that_ended_has_no_labels(nissa: Worker, line: Line) -> None:
    """After RunCompleted no metric carries the run's id any more.

    The status still knows how it ended.
    """
    run = Run("nissa-3")
    line.send(*events_of(run))
    wait_for(lambda: any("nissa-3" in name for name in metrics(nissa)))
    line.send(run.completed(accuracy=0.9))
    wait_for(lambda: run_of(nissa, "nissa-3").get("status") == "COMPLETED")
    assert not any("nissa-3" in name for name in metrics(nissa))
    assert run_of(nissa, "nissa-3")["accuracy"] == 0.9


def test_poison_does_not_stop_it(nissa: Worker, line: Line) -> None:
    """Bytes that are no event are dead-lettered, and what follows on the same partition
    is shown.
    """
    run = Run("nissa-4")
    line.send(Message("telemetry.training.step", b"nissa-4", b"nonsense", ()), *events_of(run))
    wait_for(lambda: run_of(nissa, "nissa-4").get("epoch") == 1)
    letters = line.wait(
        lambda event, _: event.NAME == "DeadLettered" and event.sender_id == "nissa"
    )
    assert letters
