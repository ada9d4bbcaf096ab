"""Rows a second into chDB: `python -m tests.bench.history.rows [MESSAGES]`. The last line is JSON.

Stages: `container` makes the Avro containers, `insert` parses them in ClickHouse, `sink` is the whole way from a real broker's log to rows that
a query finds (a second of the clock, and a second of processor time, which other work on the machine does not stretch), with the longest time
from a message's acknowledgement to its row.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from esper.clock import SystemClock
from esper.config import KafkaSettings
from esper.events.codec import encode
from esper.events.envelope import Origin
from esper.events.records import SeedHealth
from esper.history.__main__ import collect_rarely
from esper.history.container import container, layout
from esper.history.engine import open_engine
from esper.history.migrations import migrate
from esper.history.sink import BLOCK_MESSAGES, Sink
from esper.oona import topics
from esper.oona.kafka import KafkaBus
from esper.oona.port import Received
from esper.stack import jars
from esper.stack.broker import Node
from esper.stack.ports import PortClaims
from esper.stack.solo import running_broker

MESSAGES = 1_000_000


def health(count: int) -> list[SeedHealth]:
    """So many health signals of one run."""
    origin = Origin("bench", "trainer-0", "0" * 32, SystemClock())
    return [
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
        for number in range(count)
    ]


def _cpu() -> float:
    """Seconds of processor time that this process has used, in all its threads."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure, and print what was found."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    clock = SystemClock()
    collect_rarely()
    messages = [encode(event) for event in health(count)]
    folder = Path(tempfile.mkdtemp(prefix="esper-bench-"))
    found: dict[str, float] = {"messages": count, "bytes_a_message": round(sum(len(message.value) for message in messages) / count)}
    engine = open_engine(folder / "history", "")
    try:
        migrate(engine.client, clock)
        place = layout(SeedHealth.SCHEMA_ID)
        received = [Received(message.topic, 0, number, message.key, message.value, (), 0) for number, message in enumerate(messages)]
        blocks = [received[first : first + BLOCK_MESSAGES] for first in range(0, count, BLOCK_MESSAGES)]
        began = clock.monotonic()
        made = [container(SeedHealth.SCHEMA_ID, "bench", block) for block in blocks]
        found["container_per_s"] = round(count / (clock.monotonic() - began))
        began = clock.monotonic()
        for block in made:
            engine.client.raw_insert(
                place.table.name, column_names=list(place.columns), insert_block=block, fmt="Avro", settings={"async_insert": 0}
            )
        found["insert_per_s"] = round(count / (clock.monotonic() - began))
        del made, blocks, received
        with PortClaims() as claims:
            node = Node(folder / "kafka", claims.choose(salt="bench", preferred=()), claims.choose(salt="bench controller", preferred=()))
            with running_broker(node, jars.kafka(lambda _: None), cluster_id="ZXNwZXItYmVuY2gtYnJva2", clock=clock):
                topics.ensure(node.bootstrap, KafkaSettings(bootstrap=node.bootstrap))
                bus = KafkaBus(node.bootstrap)
                with bus.producer(sender_id="bench", queue_messages=count + 1) as producer:
                    for message in messages:
                        producer.send_message(message)
                    producer.flush(120)
                del messages[20:]
                sink, stop = Sink(engine.client, bus, clock), threading.Event()
                thread = threading.Thread(target=sink.run, args=(stop,))
                began, spent = clock.monotonic(), _cpu()
                thread.start()
                while sink.progress.rows < count:
                    clock.sleep(0.01)
                found["sink_per_s"] = round(count / (clock.monotonic() - began))
                found["sink_per_cpu_s"] = round(count / (_cpu() - spent))
                waits = []
                with bus.producer(sender_id="bench") as producer:
                    for number in range(20):
                        producer.send_message(messages[number])
                        producer.flush(5)
                        began = clock.monotonic()
                        while sink.progress.rows <= count + number:
                            clock.sleep(0.002)
                        waits.append(clock.monotonic() - began)
                found["visible_s_max_of_20"] = round(max(waits), 3)
                stop.set()
                thread.join()
    finally:
        engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
