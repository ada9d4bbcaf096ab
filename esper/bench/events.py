"""Events: codec, emitting and the way to a real broker.

The codec is measured in processor time, the rest by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from esper.bench.estimate import Estimate, p99, rate
from esper.bench.figure_registry import Bench, figure
from esper.errors import UnavailableError
from esper.events import Origin, decode, encode
from esper.events.records import TrainingStep
from esper.oona.bus.emitter import Emitter
from esper.oona.bus.kafka import KafkaBus

T = TypeVar("T")

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


def _each(bench: Bench, call: Callable[[T], object], things: Sequence[T]) -> Estimate:
    """Calls a second, whose results are not kept: what piles up would be the garbage collector's
    figure.
    """

    def work() -> None:
        for one in things:
            call(one)

    return rate(len(things), np.array([bench.processor_seconds(work) for _ in range(_ROUNDS)]))


@figure("encode", "events/s", "events to framed messages with headers", at_least=200_000)
def encoding(bench: Bench) -> Estimate:
    """The codec alone."""
    return _each(bench, encode, trained(bench, _EVENTS))


@figure("decode", "events/s", "framed messages to events", at_least=200_000)
def decoding(bench: Bench) -> Estimate:
    """The codec alone."""
    return _each(bench, decode, [encode(event).value for event in trained(bench, _EVENTS)])


@figure(
    "telemetry_to_broker",
    "events/s",
    "events through codec and producer to a real broker, acknowledged",
    at_least=10_000,
)
def telemetry_to_broker(bench: Bench) -> Estimate:
    """From the first call to the last acknowledgement."""
    bus, events = KafkaBus(bench.broker()), trained(bench, _SENT)
    # room for all of them: a full queue would measure waiting, not sending
    with bus.producer(sender_id="bench", queue_messages=_SENT) as producer:

        def work() -> None:
            for event in events:
                producer.send(event)
            if producer.flush(_FLUSH_S):
                raise UnavailableError(
                    "The broker of the benchmark does not take events; see whether the "
                    "disk has room."
                )

        work()
        # after one round that pays for connections and metadata
        seconds = [bench.seconds(work) for _ in range(4)]
    return rate(_SENT, np.array(seconds))


@figure(
    "emit", "us", "what the training thread pays to emit while the emitter sends, p99", at_most=20
)
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
