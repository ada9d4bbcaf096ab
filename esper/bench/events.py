"""Events: codec, emitting, the way to a real broker, and the fold of a journal. Codec and fold are measured in processor time, the rest by the clock."""

from __future__ import annotations

from functools import partial

import numpy as np

from esper.bench.estimate import Estimate, p99, rate
from esper.bench.registry import Bench, figure
from esper.clock import ManualClock
from esper.errors import UnavailableError
from esper.events import Origin, decode, encode
from esper.events.records import LayerInventory, TrainingStep
from esper.lifecycle import Context, Guardrails, RunState, decide, evolve
from esper.lifecycle.commands import EndEpoch, RunCommand, StartRun
from esper.oona.emitter import Emitter
from esper.oona.kafka import KafkaBus

_EVENTS = 5_000
_ROUNDS = 12
_SENT = 30_000
_EMITTED = 4_000
_BETWEEN_S = 2e-4  # from one emit to the next: a run emits far less often
_FLUSH_S = 60.0


def trained(bench: Bench, count: int) -> list[TrainingStep]:
    """So many events of training steps."""
    origin = Origin("bench", "trainer", "0" * 32, bench.clock)
    return [
        TrainingStep(
            **origin.envelope(f"step/{number}"),
            epoch=0,
            step=number,
            loss=1.0,
            accuracy=0.5,
            gradient_norm=1.0,
            learning_rate=1e-3,
            samples=100,
            duration_us=5,
        )
        for number in range(count)
    ]


@figure("encode", "events/s", "events to framed messages with headers", at_least=200_000)
def encoding(bench: Bench) -> Estimate:
    """The codec alone."""
    events = trained(bench, _EVENTS)
    return rate(_EVENTS, np.array([bench.processor_seconds(lambda: [encode(event) for event in events]) for _ in range(_ROUNDS)]))


@figure("decode", "events/s", "framed messages to events", at_least=200_000)
def decoding(bench: Bench) -> Estimate:
    """The codec alone."""
    values = [encode(event).value for event in trained(bench, _EVENTS)]
    return rate(_EVENTS, np.array([bench.processor_seconds(lambda: [decode(value) for value in values]) for _ in range(_ROUNDS)]))


@figure("telemetry_to_broker", "events/s", "events through codec and producer to a real broker, acknowledged", at_least=10_000)
def telemetry_to_broker(bench: Bench) -> Estimate:
    """From the first call to the last acknowledgement."""
    bus, events = KafkaBus(bench.broker()), trained(bench, _SENT)
    with bus.producer(sender_id="bench", queue_messages=_SENT) as producer:

        def work() -> None:
            for event in events:
                producer.send(event)
            if producer.flush(_FLUSH_S):
                raise UnavailableError("The broker of the benchmark does not take events; see whether the disk has room.")

        work()
        seconds = [bench.seconds(work) for _ in range(4)]
    return rate(_SENT, np.array(seconds))


@figure("emit", "us", "what the training thread pays to emit while the emitter sends, p99", at_most=20)
def emit(bench: Bench) -> Estimate:
    """With the emitter's own thread at work against a real broker."""
    emitter = Emitter(KafkaBus(bench.broker()).producer(sender_id="bench"), clock=bench.clock)
    emitter.start()
    seconds = []
    for event in trained(bench, _EMITTED):
        seconds.append(bench.seconds(partial(emitter.emit, event)))
        bench.clock.sleep(_BETWEEN_S)
    emitter.flush(_FLUSH_S)
    emitter.stop()
    return p99(np.array(seconds)).scaled(1e6)


def journal() -> tuple[list[bytes], RunState]:
    """The messages of a run with 500 epochs, and its state at the end."""
    state, context = RunState("bench"), Context(Origin("bench", "trainer", "0" * 32, ManualClock()), 0, Guardrails())
    layers = (LayerInventory(name="a", kind="Linear", in_features=4, out_features=4, parameters=20, chunks=(1, 1, 1, 1)),)
    nothing = dict.fromkeys(("source_sha256", "versions", "instruction_set", "blas"), "")
    start = StartRun(
        incarnation=0,
        recipe="bench",
        config="{}",
        seed=0,
        decisions="LIVE",
        total_steps=1,
        layers=layers,
        parameters=1,
        threads=1,
        onednn=False,
        **nothing,
    )
    figures = dict.fromkeys(
        ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "learning_rate"), 0.5
    )
    commands: list[RunCommand] = [start, *[EndEpoch(step=0, parameters_digest="", alphas=(), **figures) for _ in range(499)]]
    values = []
    for command in commands:
        for event in decide(state, command, context):
            state = evolve(state, event)
            values.append(encode(event).value)
    return values, state


@figure("fold", "events/s", "a journal decoded and folded", at_least=100_000)
def fold(bench: Bench) -> Estimate:
    """Every event is an EpochEnded, whose digest proves the state each time: the most that a fold has to do."""
    values, state = journal()

    def work() -> RunState:
        folded = RunState("bench")
        for value in values:
            folded = evolve(folded, decode(value))  # type: ignore[arg-type]  # the journal holds journal events
        return folded

    if work() != state:
        raise UnavailableError("The fold does not give the state that was written; `make test` says where.")
    return rate(len(values), np.array([bench.processor_seconds(work) for _ in range(_ROUNDS)]))
