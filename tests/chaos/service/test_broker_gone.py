"""A part whose broker is killed under it: nothing is changed without a record, and the record of
what was asked for follows.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from esper.clock import SystemClock
from esper.config import KafkaSettings
from esper.errors import UnavailableError
from esper.events import decode
from esper.events.records import AuditRecorded
from esper.oona.admin import topic_creation
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable import chains
from esper.oona.durable.journal_reader import read_key
from esper.stack.embedded import aot, jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims
from tests.integration.foundry.conftest import FoundryProcess
from tests.revived import revived_broker
from tests.servicefixtures import assert_problem

CLOCK = SystemClock()
_PATIENCE_S = 60.0


def _topics(bootstrap: str) -> None:
    """Make the topics: on busy cores a young broker finds leaders for 70 partitions more slowly
    than a request waits.
    """
    ends = CLOCK.monotonic() + _PATIENCE_S
    while True:
        try:
            topic_creation.ensure(bootstrap, KafkaSettings(bootstrap=bootstrap))
        except UnavailableError:
            assert CLOCK.monotonic() < ends
        else:
            return


@pytest.mark.slow
def test_without_its_broker_a_part_refuses_changes_and_records_them_later(tmp_path: Path) -> None:
    """503 while Kafka is dead, reading goes on.

    Once it is back, requests are handled again, and the chain holds every one of them in order.
    """
    classpath = jars.kafka(lambda _: None)
    options: dict[str, Any] = {
        "cluster_id": "ZXNwZXItdGVzdC1icm9rZQ",
        "java_options": aot.java_options(classpath),
    }
    with PortClaims() as claims:
        kafka, home = tmp_path / "kafka", tmp_path / "home"
        kafka.mkdir()
        home.mkdir(mode=0o700)
        ports = [
            claims.choose(salt=f"{tmp_path} {name}", preferred=())
            for name in ("broker", "controller", "foundry")
        ]
        node = BrokerNode(kafka, ports[0], ports[1])
        foundry = FoundryProcess(node.bootstrap, home, ports[2])
        try:
            with running_broker(node, classpath, clock=CLOCK, **options) as process:
                _topics(node.bootstrap)
                foundry.start()
                foundry.wait_ready()
                with foundry.client("admin") as admin:
                    assert admin.delete("/api/v1/kernels/first").status_code == 405
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    answer = admin.delete("/api/v1/kernels/second")
                    assert_problem(answer, 503)
                    assert "Kafka" in answer.json()["detail"]
                    assert admin.get("/api/v1/kernels").status_code == 200
                    assert (
                        admin.post("/nothing").status_code == 404
                    )  # refused anyway: its record waits on disk
            with revived_broker(node, **options), foundry.client("admin") as admin:
                ends = CLOCK.monotonic() + _PATIENCE_S
                while admin.delete("/api/v1/kernels/third").status_code != 405:
                    assert CLOCK.monotonic() < ends
                bus = KafkaBus(node.bootstrap)
                found = [
                    decode(one.value)
                    for one in read_key(
                        bus, AuditRecorded.TOPIC, "foundry", what="The trail", clock=CLOCK
                    )
                ]
                told = [
                    (one.resource.rpartition("/")[2], one.status)
                    for one in found
                    if isinstance(one, AuditRecorded)
                ]
                assert told[:3] == [("first", 405), ("second", 503), ("nothing", 404)]
                assert told[-1] == ("third", 405)
                assert [
                    chain.broken
                    for chain in chains.verify(bus, clock=CLOCK, heads=chains.heads(home / "audit"))
                ] == [None]
        finally:
            if foundry.process is not None:
                foundry.end(signal.SIGKILL)
