"""Clients that know nothing of Esper read every topic of a run."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import fastavro
from confluent_kafka import Consumer, KafkaError, TopicPartition

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import TOPICS
from esper.oona.bus.kafka import KafkaBus
from esper.oona.inbound.count import committed
from tests.integration.run.whole import esper
from tests.stackfixtures import access
from tests.waiting import PATIENCE_S

CLOCK = SystemClock()
SCHEMAS = Path(__file__).parents[3] / "schemas"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
QUIET = {
    "audit.events",
    "control.kasmina.commands",
    "control.tolaria.commands",
    "dead.letters",
    "observability.alerts",
    "telemetry.custom",
}
"""Topics that an undisturbed run leaves empty."""


def test_a_plain_consumer_decodes_every_topic_with_the_schema_files_alone(
    home: Path, lockstep: list[dict[str, Any]]
) -> None:
    """Frame, schema, key and CloudEvents headers of each message are right for a consumer that has
    only `schemas/` and fastavro.
    """
    # what a person says of a run is on a topic of its own, which no run writes
    assert esper(home, "runs", "tag", lockstep[0]["run_id"], "+decoded").returncode == 0
    schemas = {
        path.stem: fastavro.parse_schema(json.loads(path.read_text()))
        for path in SCHEMAS.glob("*.avsc")
    }
    locked = {
        int(line.split()[0]): line.split()[2]
        for line in (SCHEMAS / "ids.lock").read_text().splitlines()
        if not line.startswith("#")
    }
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


def test_a_viewers_client_shows_keys_and_headers(
    home: Path, lockstep: list[dict[str, Any]]
) -> None:
    """A plain client reads keys and headers of the journal of a run, with what `esper kafka config`
    prints for a viewer.
    """
    settings = ast.literal_eval(esper(home, "kafka", "config", "--format", "python").stdout)
    found: list[tuple[bytes, dict[str, bytes]]] = []
    with plain_consumer(settings, "system.events.run") as messages:
        found += [(message.key(), dict(message.headers())) for message in messages]
    mine = [headers for key, headers in found if key.decode() == lockstep[0]["run_id"]]
    assert mine[0]["ce_type"] == b"esper.events.RunStarted"
    assert mine[-1]["ce_type"] == b"esper.events.RunCompleted"
    assert all(
        one["ce_id"]
        and one["ce_dataschema"].startswith(b"sha-256:")
        and one["traceparent"].startswith(b"00-")
        for one in mine
    )


@contextmanager
def plain_consumer(settings: Mapping[str, Any], topic: str) -> Iterator[Iterator[Any]]:
    """The committed messages that a topic has now, by a consumer of librdkafka that knows nothing
    of Esper.
    """
    consumer = Consumer(
        {
            **settings,
            "group.id": "viewer-plain",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    open_ones = set(partitions)

    def messages() -> Iterator[Any]:
        while open_ones:
            message = consumer.poll(PATIENCE_S)
            assert message is not None
            error = message.error()
            if error is None:
                yield message
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                open_ones.discard(message.partition())

    try:
        yield messages()
    finally:
        consumer.close()
