"""The history: from Kafka to rows that a query finds, stage by stage."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial

import numpy as np

from esper.bench.estimate import Estimate, Samples, exactly, p99, rate
from esper.bench.figure_registry import Bench, figure
from esper.errors import UnavailableError
from esper.events import Message, Origin, encode
from esper.events.records import SeedHealth
from esper.history.__main__ import collect_rarely
from esper.history.confined.engine import open_engine
from esper.history.sink import BLOCK_MESSAGES, Sink
from esper.history.tables.container import container, layout
from esper.history.tables.migrations import migrate
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Received

MESSAGES = 300_000
_VISIBLE = 40
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Found:
    """Seconds of each block to become a container and to be inserted; rows a second of the sink.

    Seconds until a row was visible.
    """

    containers: Samples
    inserts: Samples
    sink_rows: float
    visible: Samples


def messages(bench: Bench, count: int) -> list[Message]:
    """So many health signals of one run."""
    origin = Origin("bench", "trainer", "0" * 32, bench.clock)
    return [
        encode(
            SeedHealth(
                **origin.envelope(f"health/{number}"),
                layer=f"layers.{number % 12}",
                seed=number % 4,
                chunk_start=0,
                chunk_size=25,
                epoch=0,
                step=number,
                stage="DORMANT",
                activation_variance=0.5,
                dead_ratio=0.0,
                correlation=0.1,
                gradient_norm=1.5,
                gradient_variance=0.2,
                latency_us=0,
                errors=0,
                recovering=False,
                health=0.9,
                ready=False,
            )
        )
        for number in range(count)
    ]


def found(bench: Bench) -> Found:
    """Each stage in turn, on a history and a broker of this run's own."""
    # as the history's own process does: else the collector would be the figure
    collect_rarely()
    bus, ready = KafkaBus(bench.broker()), messages(bench, MESSAGES)
    engine = open_engine(bench.folder / "history", "")
    bench.held.callback(engine.close)
    migrate(engine.client, bench.clock)
    place = layout(SeedHealth.SCHEMA_ID)
    received = [
        Received(message.topic, 0, number, message.key, message.value, (), 0)
        for number, message in enumerate(ready)
    ]
    blocks = [
        received[first : first + BLOCK_MESSAGES] for first in range(0, MESSAGES, BLOCK_MESSAGES)
    ]
    containers, inserts = [], []
    for block in blocks:
        began = bench.clock.monotonic()
        made = container(SeedHealth.SCHEMA_ID, "bench", block)
        between = bench.clock.monotonic()
        engine.client.raw_insert(
            place.table.name,
            column_names=list(place.columns),
            insert_block=made,
            fmt="Avro",
            # else ClickHouse answers before the rows are stored
            settings={"async_insert": 0},
        )
        containers.append((between - began) / len(block))
        inserts.append((bench.clock.monotonic() - between) / len(block))
    # what is held makes the collector slower while the sink is measured
    del received, blocks
    with bus.producer(sender_id="bench", queue_messages=MESSAGES + 1) as producer:
        for message in ready:
            producer.send_message(message)
        producer.flush(_PATIENCE_S)
    sink, stop = Sink(engine.client, bus, bench.clock), threading.Event()
    thread = threading.Thread(target=sink.run, args=(stop,))
    began = bench.clock.monotonic()
    thread.start()
    try:
        _until(bench, sink, MESSAGES, 0.01)
        took = bench.clock.monotonic() - began
        visible = _waits(bench, bus, sink, ready[:_VISIBLE])
    finally:
        stop.set()
        thread.join()
    return Found(np.array(containers), np.array(inserts), MESSAGES / took, visible)


def _waits(bench: Bench, bus: KafkaBus, sink: Sink, sent: list[Message]) -> Samples:
    waits = []
    with bus.producer(sender_id="bench") as producer:
        for message in sent:
            rows = sink.progress.rows
            producer.send_message(message)
            producer.flush(5)
            waits.append(bench.seconds(partial(_until, bench, sink, rows + 1, 0.002)))
    return np.array(waits)


def _until(bench: Bench, sink: Sink, rows: int, pause: float) -> None:
    if not bench.clock.wait_until(lambda: sink.progress.rows >= rows, _PATIENCE_S, pause):
        raise UnavailableError(
            f"The history has {sink.progress.rows} of {rows} rows after {_PATIENCE_S:g} s. "
            f"{sink.progress.trouble}"
        )


@figure(
    "history_rows",
    "rows/s",
    "health signals from a real broker's log to rows that a query finds, the whole way",
    at_least=300_000,
)
def history_rows(bench: Bench) -> Estimate:
    """One catch-up of everything that is there, so without an interval."""
    return exactly(bench.once(found).sink_rows)


@figure("history_containers", "rows/s", "messages to Avro containers")
def history_containers(bench: Bench) -> Estimate:
    """Over blocks."""
    return rate(1, bench.once(found).containers)


@figure("history_insert", "rows/s", "Avro containers parsed and stored by ClickHouse")
def history_insert(bench: Bench) -> Estimate:
    """Over blocks."""
    return rate(1, bench.once(found).inserts)


@figure("history_visible", "s", "from a message's acknowledgement to its row, p99", at_most=2)
def history_visible(bench: Bench) -> Estimate:
    """One message after the other."""
    return p99(bench.once(found).visible)
