"""kill -9 of the history at random moments, and a broker that stands still: nothing lost, nothing
doubled.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

from esper.clock import SystemClock
from esper.events.codec import encode
from esper.events.topics import TOPICS
from esper.history.queries import wait_caught_up
from esper.oona.bus.kafka import KafkaBus
from esper.oona.inbound.count import committed
from tests.integration.history.historyfixtures import (
    PlainProducer,
    history_part,
    launch,
    steps,
    transitions,
)
from tests.waiting import PATIENCE_S, until

KILLS = 5


def test_killed_at_random_moments_it_has_every_message_once(broker: str, tmp_path: Path) -> None:
    """Five kills, each up to 1.5 s after the process answers again, under steady traffic with
    transactions and poison; raw rows plus dead letters equal what is committed.
    """
    chance = random.Random(20240)  # noqa: S311 - which moments does not matter, only that they repeat
    bus = KafkaBus(broker)
    ended = threading.Event()
    failed: list[BaseException] = []

    def traffic() -> None:
        try:
            producer = PlainProducer(broker)
            with bus.journal_producer(run_id="killed") as journal:
                journal.begin(10)
                number = 0
                while not ended.is_set():
                    producer.send(steps("killed", range(number * 50, number * 50 + 50)))
                    journal.commit(
                        [
                            encode(event)
                            for event in transitions("killed", range(number * 2, number * 2 + 2))
                        ]
                    )
                    if number % 10 == 0:
                        producer.send_raw(
                            "telemetry.training.step", b"killed", b"poison %d" % number
                        )
                    number += 1
                    ended.wait(0.03)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    thread = threading.Thread(target=traffic)
    thread.start()
    with history_part(tmp_path, broker) as part:
        try:
            port = int(part.url.rpartition(":")[2])
            for _ in range(KILLS):
                until(lambda: part.ask("SELECT 1"))
                SystemClock().sleep(chance.uniform(0.0, 1.5))
                part.child.kill()
                part.child = launch(tmp_path, broker, port).child
        finally:
            ended.set()
            thread.join(PATIENCE_S)
        assert not failed
        assert wait_caught_up(part.url, bus, timeout=PATIENCE_S, settings=part.settings)
        assert wait_caught_up(part.url, bus, timeout=PATIENCE_S, settings=part.settings)
        letters = dict(
            part.ask(
                "SELECT source_topic, toUInt32(count()) FROM dead_lettered WHERE consumer "
                "= 'history' GROUP BY source_topic"
            )
        )
        rows = dict(part.ask("SELECT topic, toUInt32(count()) FROM raw_events GROUP BY topic"))
        totals = {topic: rows.get(topic, 0) + letters.get(topic, 0) for topic in TOPICS}
        assert totals == committed(bus, list(TOPICS))
        assert letters["telemetry.training.step"] >= 2
        doubled = part.ask(
            "SELECT topic, _partition, _offset, count() AS n FROM raw_events GROUP BY 1, "
            "2, 3 HAVING n > 1"
        )
        assert not doubled
        assert not part.ask(
            "SELECT event_id, count() AS n FROM events WHERE run_id = 'killed' GROUP BY "
            "event_id HAVING n > 1"
        )
