"""The history process on a real broker, and the command line on its history."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import clickhouse_connect
import pytest

from esper.events.codec import encode
from esper.events.topics import TOPICS
from esper.history.queries import events_by_topic, wait_caught_up
from esper.oona.bus.kafka import KafkaBus
from esper.oona.inbound.count import committed
from tests.integration.history.historyfixtures import (
    PlainProducer,
    environment,
    history_part,
    launch,
    steps,
    transitions,
)
from tests.waiting import PATIENCE_S, until


def esper(home: Path, bootstrap: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """One command line of `esper`."""
    code = (
        "import sys, atexit; atexit.register(lambda: sys.stderr.write('torch' * ('torch' in "
        "sys.modules))); from esper.cli import main; main()"
    )
    return subprocess.run(
        (sys.executable, "-c", code, *arguments),
        env=environment(home, bootstrap, 0),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_everything_on_kafka_is_a_row_and_the_command_line_shows_it(
    broker: str, tmp_path: Path
) -> None:
    """From broker to SQL: counts equal, clients work unchanged, one sentence for a second owner, an
    end in order, then queries on the folder.
    """
    bus = KafkaBus(broker)
    producer = PlainProducer(broker)
    producer.send(steps("itself", range(300)))
    with bus.journal_producer(run_id="itself") as journal:
        journal.begin(10)
        for number in range(0, 30, 3):
            journal.commit(
                [encode(event) for event in transitions("itself", range(number, number + 3))]
            )
    producer.send_raw("telemetry.training.step", b"itself", b"poison")
    with history_part(tmp_path, broker) as part:
        assert wait_caught_up(part.url, bus, timeout=PATIENCE_S, settings=part.settings)
        assert wait_caught_up(
            part.url, bus, timeout=PATIENCE_S, settings=part.settings
        )  # the dead letter that it wrote meanwhile
        letters = {
            row[0]: int(row[1])
            for row in part.ask(
                "SELECT source_topic, count() FROM dead_lettered WHERE consumer = "
                "'history' GROUP BY source_topic"
            )
        }
        stored = {
            row[0]: int(row[1])
            for row in part.ask("SELECT topic, count() FROM raw_events GROUP BY topic")
        }
        rows = {
            topic: stored.get(topic, 0) + letters.get(topic, 0) for topic in stored | letters
        }  # other tests' poison may be all of a topic
        assert rows == {
            topic: count for topic, count in committed(bus, list(TOPICS)).items() if count
        }
        assert letters["telemetry.training.step"] >= 1
        assert events_by_topic(part.url, "itself", part.settings) == {
            "system.events.run": 30,
            "telemetry.training.step": 300,
        }
        counted, different = part.ask(
            "SELECT count(), uniqExact(event_id) FROM events WHERE run_id = 'itself'"
        )[0]
        assert counted == different

        client = clickhouse_connect.get_client(
            host="127.0.0.1",
            port=int(part.url.rpartition(":")[2]),
            username="me",
            password=part.token(),
        )
        assert client.query(
            "SELECT max(step) FROM training_step WHERE run_id = 'itself'"
        ).result_rows == [(299,)]
        client.close()

        second = launch(tmp_path, broker, 0)
        assert second.child.wait() == 3
        assert "open in another process" in (tmp_path / "history.log").read_text().splitlines()[-1]
        owned = esper(tmp_path, broker, "sql", "SELECT 1")
        assert owned.returncode == 3
        assert b"open in another process" in owned.stderr

        producer.send(steps("itself", range(300, 350)))
        part.child.send_signal(signal.SIGTERM)
        assert part.child.wait() == 0

    found = esper(
        tmp_path,
        broker,
        "sql",
        "SELECT count() AS n FROM training_step WHERE run_id = 'itself'",
        "--format",
        "json",
    )
    assert found.returncode == 0, found.stderr
    [row] = json.loads(found.stdout)
    assert row["n"] in range(300, 351)
    assert b"torch" not in found.stderr


def test_without_a_broker_it_waits_and_says_so(tmp_path: Path) -> None:
    """Started before its broker, the process serves HTTP, answers /health with 503, and ends at
    SIGTERM.
    """
    with history_part(tmp_path, "127.0.0.1:1") as part:
        until(lambda: part.ask("SELECT 1") == [[1]])
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{part.url}/health", timeout=30)  # noqa: S310 - our own
        with caught.value as error:
            assert error.status == 503
        part.child.terminate()
        assert part.child.wait() == 0
