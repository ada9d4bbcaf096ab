"""Attack: whoever can reach the broker's port forges, fences, deletes, reads, and grants itself
more.

Expected: an anonymous client and another user of the machine are let in for nothing; a viewer
reads, and everything else is refused to it. Scripts: `trials/attacks/attack.py` pause, resume,
rollback, junk-journal, fence, raw, delete-topic, gc-forge, audit-forge, fuzz: all of them write to
a topic, fence a transactional id, or delete a topic.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esper.errors import DeniedError
from esper.events.topics import TOPICS
from esper.oona.bus.access import Access, password_file
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.rights import OWNER, PRINCIPALS
from tests.attacks import kafka_attacker
from tests.attacks.kafka_attacker import DONE
from tests.securedbroker import Secured, secured_broker

RUN = "victim"
TRANSACTIONS = [RUN, "audit-tolaria", "audit-cli"]


def secrets_of(secured: Secured) -> list[str]:
    """Every file of the installation that lets somebody in."""
    keys = [
        password_file(secured.settings.kafka_keys_dir, principal)
        for principal in (OWNER, *PRINCIPALS)
    ]
    return [str(path) for path in (*keys, secured.node.secret_file, secured.node.properties_file)]


def orders(secured: Secured, config: dict[str, Any], *, drop: bool = False) -> dict[str, Any]:
    """What the attacker is told."""
    files = secrets_of(secured) if drop else []
    return {
        "config": config,
        "topics": list(TOPICS),
        "transactions": TRANSACTIONS,
        "files": files,
        "value": "00",
        "drop": drop,
    }


def flat(found: dict[str, Any]) -> dict[str, str]:
    """Every attack with what came of it."""
    return {
        f"{attack} {name}": outcome
        for attack, outcomes in found.items()
        for name, outcome in (outcomes.items() if isinstance(outcomes, dict) else [("", outcomes)])
    }


@pytest.fixture(scope="module", autouse=True)
def filled(secured: Secured) -> None:
    """Each topic has a message, so that whoever may read gets one, and the journal's end
    is known.
    """
    written = kafka_attacker.write(secured.node.admin.librdkafka(), list(TOPICS), b"\0")
    assert set(written.values()) == {DONE}


def ends(secured: Secured) -> dict[tuple[str, int], int]:
    """How far every topic has come."""
    bus = secured.bus(OWNER)
    pairs = [
        (topic, number)
        for topic, count in bus.partitions(list(TOPICS)).items()
        for number in range(count)
    ]
    with bus.reader(list(TOPICS), start=dict.fromkeys(pairs, 0)) as reader:
        return reader.log_end()


def test_an_anonymous_client_gets_nothing(secured: Secured) -> None:
    """No topic is written or read, no transaction fenced, no group joined, nothing of the cluster
    changed.
    """
    before = ends(secured)
    found = flat(
        kafka_attacker.attack(orders(secured, {"bootstrap.servers": secured.node.bootstrap}))
    )
    assert {name: outcome for name, outcome in found.items() if outcome == DONE} == {}
    assert ends(secured) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_gets_nothing(secured: Secured) -> None:
    """As uid 65534: the same attacks, and no file of a secret can be read."""
    before = ends(secured)
    told = orders(secured, {"bootstrap.servers": secured.node.bootstrap}, drop=True)
    done = subprocess.run(
        [sys.executable, "-P", kafka_attacker.__file__, json.dumps(told)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = flat(json.loads(done.stdout))
    assert len(found) > 2 * len(TOPICS)
    assert {name: outcome for name, outcome in found.items() if outcome == DONE} == {}
    assert {outcome for name, outcome in found.items() if name.startswith("steal")} == {
        "PermissionError"
    }
    assert ends(secured) == before


def test_a_viewer_reads_and_does_nothing_else(secured: Secured) -> None:
    """Every topic of Esper is read by it, and each other attack is refused by name of the right
    that it lacks.
    """
    before = ends(secured)
    found = kafka_attacker.attack(orders(secured, secured.access("viewer").librdkafka()))
    assert set(found["write"].values()) == {"TOPIC_AUTHORIZATION_FAILED"}
    assert set(found["read"].values()) == {DONE}
    assert {outcome for name, outcome in found.items() if name.startswith("fence")} == {
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
    }
    assert set(found["govern"].values()) == {
        "TOPIC_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
    }
    assert found["join"] == "GROUP_AUTHORIZATION_FAILED"
    assert ends(secured) == before


@pytest.mark.parametrize("password", ["", "wrong", "esper"])
def test_a_password_that_is_wrong_lets_nobody_in_by_either_mechanism(
    secured: Secured, password: str
) -> None:
    """The super user's door is closed too, and the refusal is one sentence at once."""
    for mechanism in ("SCRAM-SHA-512", "PLAIN"):
        kafka = secured.access(OWNER).kafka.model_copy(
            update={"sasl_mechanism": mechanism, "sasl_password_file": ""}
        )
        guessed = Access(
            kafka.model_copy(update={"sasl_password": type(kafka.sasl_password)(password or "x")}),
            OWNER,
        )
        with pytest.raises(DeniedError, match=r"does not let esper in"):
            KafkaBus(guessed, patience=20.0).partitions(["system.events.run"])


def test_a_program_that_has_the_port_learns_no_password_and_is_not_believed(
    secured: Secured, broker: str, tmp_path: Path
) -> None:
    """A broker without security, and one with other passwords, on the port of ours: the client
    refuses both and tells them nothing.
    """
    with secured_broker(tmp_path, with_topics=False) as squatter:
        for port in (broker, squatter.node.bootstrap):
            access = Access.of(secured.settings, "trainer", bootstrap=port)
            with pytest.raises(DeniedError):
                KafkaBus(access, patience=20.0).partitions(["system.events.run"])


def test_the_controllers_port_lets_nobody_in(secured: Secured) -> None:
    """Who could talk to the controller could change everything: anonymous clients and principals of
    the installation are refused there.
    """
    port = f"127.0.0.1:{secured.node.controller_port}"
    for access in (Access.plain(port), Access.of(secured.settings, OWNER, bootstrap=port)):
        outcomes = kafka_attacker.govern(
            {"log_level": 0, **access.librdkafka()}, "system.events.run"
        )
        assert DONE not in outcomes.values()
    assert set(TOPICS) <= secured.bus(OWNER).topic_ids().keys()
