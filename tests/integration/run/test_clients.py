"""Clients that know nothing of Esper read every topic of a run."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import fastavro
import pytest
from confluent_kafka import Consumer

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import TOPICS
from esper.oona.count import committed
from esper.oona.kafka import KafkaBus
from tests.integration.run.whole import esper
from tests.stackfixtures import access
from tests.waiting import PATIENCE_S

CLOCK = SystemClock()
SCHEMAS = Path(__file__).parents[3] / "schemas"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
QUIET = {"audit.events", "control.kasmina.commands", "control.tolaria.commands", "dead.letters", "telemetry.custom"}
"""Topics that an undisturbed run leaves empty."""


def test_a_plain_consumer_decodes_every_topic_with_the_schema_files_alone(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """Frame, schema, key and CloudEvents headers of each message are right for a consumer that has only `schemas/` and fastavro."""
    assert lockstep
    schemas = {path.stem: fastavro.parse_schema(json.loads(path.read_text())) for path in SCHEMAS.glob("*.avsc")}
    locked = {int(line.split()[0]): line.split()[2] for line in (SCHEMAS / "ids.lock").read_text().splitlines() if not line.startswith("#")}
    consumer = Consumer(
        {
            **access(Settings(home=home)).librdkafka(),
            "group.id": "viewer-anybody",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": False,
        }
    )
    consumer.subscribe(list(TOPICS))
    counted = committed(KafkaBus(access(Settings(home=home))), list(TOPICS))
    seen: dict[str, int] = {}
    ends = CLOCK.monotonic() + PATIENCE_S
    while any(seen.get(topic, 0) < count for topic, count in counted.items()):
        assert CLOCK.monotonic() < ends, (seen, counted)
        batch = consumer.consume(2000, timeout=1.0)
        for message in cast("list[Any]", batch):
            value, headers = message.value(), dict(message.headers())
            assert message.error() is None
            assert value[0] == 0
            record = locked[int.from_bytes(value[1:5], "big")]
            assert headers["ce_type"] == f"esper.events.{record}".encode()
            assert record in TOPICS[message.topic()].records
            body = io.BytesIO(value[5:])
            datum = cast("dict[str, Any]", fastavro.schemaless_reader(body, schemas[record]))
            assert body.read() == b""
            assert str(datum["event_id"]) == headers["ce_id"].decode()
            assert UUID.fullmatch(str(datum["event_id"]))
            assert message.key().decode() == datum[TOPICS[message.topic()].key]
            assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers["traceparent"])
            seen[message.topic()] = seen.get(message.topic(), 0) + 1
    consumer.close()
    assert set(TOPICS) - set(seen) <= QUIET


def test_kcat_shows_keys_and_headers(home: Path, lockstep: list[dict[str, Any]], tmp_path: Path) -> None:
    """Kcat reads keys and headers of the journal of a run, with what `esper kafka config` prints for a viewer."""
    kcat = shutil.which("kcat")
    if kcat is None:
        pytest.skip("kcat is not installed: apt-get install kcat")
    told = tmp_path / "kcat.conf"
    told.write_text(esper(home, "kafka", "config").stdout)
    command = [
        kcat,
        "-F",
        str(told),
        "-C",
        "-t",
        "system.events.run",
        "-e",
        "-q",
        "-f",
        "%k|%h\n",
        "-X",
        "isolation.level=read_committed",
    ]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout.splitlines()
    mine = [line for line in lines if line.startswith(f"{lockstep[0]['run_id']}|")]
    assert "ce_type=esper.events.RunStarted" in mine[0]
    assert "ce_type=esper.events.RunCompleted" in mine[-1]
    assert all("ce_id=" in line and "ce_dataschema=sha-256:" in line and "traceparent=00-" in line for line in mine)
