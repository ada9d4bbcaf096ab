"""What the foundry serves, as a process on the real broker: kernels, schemas, and the audit of who
asked for what.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import Any, cast

from confluent_kafka import Consumer

from esper.events import Event, Origin, decode
from esper.events.records import (
    AdaptationOutcome,
    AuditRecorded,
    FieldReportAnswered,
    KernelPublished,
)
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Producer
from esper.oona.durable.journal_reader import read_key
from tests import registryclients
from tests.integration.foundry.conftest import CLOCK, FoundryProcess, Listener, report
from tests.servicefixtures import HOLDERS, assert_answered_by_role, client_of, credentials, token
from tests.unit.urza.test_api import TABLE
from tests.waiting import PATIENCE_S, until


def kernels_for(
    run_id: str, listener: Listener, producer: Producer, width: int
) -> dict[str, KernelPublished]:
    """Kernels that the foundry makes for a layer that reads `width` features."""
    asked = report(run_id, (width, (6,)), families=("linear", "low_rank"))
    producer.send(asked)

    def find(events: list[Event]) -> FieldReportAnswered | None:
        return next(
            (
                event
                for event in events
                if isinstance(event, FieldReportAnswered) and event.report_id == asked.event_id
            ),
            None,
        )

    answered = set(listener.until(find).kernels)

    def entries(events: list[Event]) -> dict[str, KernelPublished] | None:
        found = {
            event.kernel_id: event
            for event in events
            if isinstance(event, KernelPublished) and event.kernel_id in answered
        }
        return found if set(found) == answered else None

    return listener.until(entries)


def kernels_of(client: Any, wanted: dict[str, int]) -> list[dict[str, Any]]:
    """What the API has for a place."""
    page = client.get("/api/v1/kernels", params=wanted).json()
    return list(page["kernels"])


def test_kernels_of_kafka_are_served_and_ranked_by_their_outcomes(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """What was published is what the API tells, bytes included.

    An outcome on Kafka moves its kernel to the front.
    """
    foundry.start()
    foundry.wait_ready()
    published = kernels_for("served", listener, producer, 37)
    with foundry.client("operator") as client:
        wanted = {"in_features": 37, "out_features": 6}
        # the answer is on Kafka a moment before the shelf shows its kernels
        until(lambda: {one["kernel_id"] for one in kernels_of(client, wanted)} == set(published))
        page = client.get("/api/v1/kernels", params=wanted).json()
        assert [kernel["flops"] for kernel in page["kernels"]] == sorted(
            kernel["flops"] for kernel in page["kernels"]
        )
        for kernel in page["kernels"]:
            entry = published[kernel["kernel_id"]]
            content = client.get(f"/api/v1/kernels/{entry.kernel_id}/artefact")
            assert (
                hashlib.sha256(content.content).hexdigest()
                == entry.sha256
                == kernel["sha256"]
                == content.headers["x-content-sha256"]
            )
            assert kernel["compilation_ms"] > 0
        last = page["kernels"][-1]["kernel_id"]
        producer.send(
            AdaptationOutcome(
                **Origin("served", "tamiyo", "7" * 32, CLOCK).envelope("outcome"),
                decision_id="d",
                layer="l",
                seed=0,
                kernel_id=last,
                family="linear",
                context="Linear/s",
                verdict="FOSSILIZED",
                reward=1.0,
                shadow_gap=0.1,
                epoch=1,
                step=1,
            )
        )
        ends = CLOCK.monotonic() + 60
        while (
            first := client.get(
                "/api/v1/kernels", params={"in_features": 37, "out_features": 6}
            ).json()["kernels"][0]
        )["kernel_id"] != last:
            assert CLOCK.monotonic() < ends
            CLOCK.sleep(0.1)
        assert first["performance"] == {"score": 1.0, "outcomes": 1}
        assert client.get("/api/v1/status").json()["kernels"] >= len(published)


def test_real_messages_are_decoded_by_a_client_of_its_registry(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """A plain consumer with Confluent's deserializer, a URL and a token reads what the foundry
    wrote.
    """
    foundry.start()
    foundry.wait_ready()
    kernels_for("registry", listener, producer, 38)
    consumer = Consumer(
        {
            "bootstrap.servers": foundry.bootstrap,
            "group.id": "plain",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["innovation.blueprints", "compilation.kernels", "validation.kernels"])
    found: set[str] = set()
    wanted = {
        "esper.events." + name
        for name in ("FieldReport", "BlueprintProposed", "KernelPublished", "KernelValidated")
    }
    ends = CLOCK.monotonic() + 60
    with registryclients.client(
        f"http://127.0.0.1:{foundry.port}", token(foundry.settings, CLOCK)
    ) as registry:
        while not wanted <= found:
            assert CLOCK.monotonic() < ends, found
            message = consumer.poll(1.0)
            if (
                message is None
                or message.value() is None
                or not (message.value() or b"").startswith(b"\0")
            ):
                continue
            datum = registryclients.decode(registry, message.topic() or "", message.value() or b"")
            headers = dict(cast("list[tuple[str, bytes]]", message.headers()))
            assert str(datum["event_id"]) == headers["ce_id"].decode()
            found.add(headers["ce_type"].decode())
    consumer.close()


def test_the_table_holds_for_the_process(foundry: FoundryProcess) -> None:
    """Every route of the process, for everyone who may come; only /health is open."""
    foundry.start()
    foundry.wait_ready()
    with client_of(f"http://127.0.0.1:{foundry.port}") as client:
        for row in TABLE:
            for holder in HOLDERS:
                assert_answered_by_role(
                    lambda row, headers: client.request(
                        row.method, row.path or row.route, json=row.body, headers=headers
                    ),
                    row,
                    holder,
                    credentials(foundry.settings, CLOCK, holder),
                )


def test_the_audit_chain_outlives_kill_9_and_is_proven(foundry: FoundryProcess) -> None:
    """Who tried to change something is on Kafka.

    The killed foundry's next life goes on with the chain; the command line proves it.
    """
    foundry.start()
    foundry.wait_ready()
    bus = KafkaBus(foundry.bootstrap)

    def recorded() -> list[AuditRecorded]:
        found = [
            decode(one.value)
            for one in read_key(bus, AuditRecorded.TOPIC, "foundry", what="The trail", clock=CLOCK)
        ]
        return [one for one in found if isinstance(one, AuditRecorded)]

    before = len(recorded())
    with (
        client_of(f"http://127.0.0.1:{foundry.port}") as stranger,
        foundry.client("admin") as admin,
    ):
        assert stranger.delete("/api/v1/kernels/k").status_code == 401
        assert admin.delete("/api/v1/kernels/k").status_code == 405
        foundry.end(signal.SIGKILL)
        foundry.start()
        foundry.wait_ready()
        assert admin.post("/nothing", json={"password": "hush"}).status_code == 404
    found = recorded()[before:]
    assert [(one.chain - before, one.actor, one.role, one.status) for one in found] == [
        (0, "anonymous", "", 401),
        (1, "tester", "admin", 405),
        (2, "tester", "admin", 404),
    ]
    assert found[1].action == "DELETE /api/v1/kernels/{kernel_id}"
    assert "hush" not in found[2].detail
    environment = os.environ | {
        "ESPER_HOME": str(foundry.home),
        "ESPER_KAFKA__BOOTSTRAP": foundry.bootstrap,
    }
    command = [sys.executable, "-m", "esper.cli", "audit-log", "verify", "--json"]
    proven = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    chains = {chain["sender"]: chain for chain in json.loads(proven.stdout)["chains"]}
    assert chains["foundry"]["broken"] is None
    assert chains["foundry"]["proven"] == before + 3
