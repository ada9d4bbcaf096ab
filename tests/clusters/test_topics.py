"""`esper topics diff | apply` on a real cluster: says what differs, mends it, and takes nothing
away unless told to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from esper.config import Settings
from esper.errors import DeniedError
from esper.events.codec import decode, encode
from esper.events.topics import TOPICS
from esper.oona.admin import kafka_requests
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.rights import rights
from tests import registryclients
from tests.clusters.commands import esper, refusal, said
from tests.clusters.kafkacluster import Cluster


def differences(
    home: Path, environment: dict[str, str], *arguments: str, code: int
) -> set[tuple[str, str, str]]:
    """What `diff` says, as kind, name and step."""
    found = said(esper(home, environment, "topics", "diff", "--json", *arguments), code)["differs"]
    return {(one["kind"], one["name"], one["step"]) for one in found}


def test_an_empty_cluster_lacks_everything_and_apply_gives_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    """`diff` names every topic, right and quota and changes nothing.

    The cluster then has them, and a second `apply` changes nothing.
    """
    users = "first-{principal}"
    before = differences(tmp_path, cluster.administrator(), "--users", users, code=1)
    assert sum(kind == "right" for kind, _, _ in before) == len(rights())
    assert {step for kind, _, step in before if kind in {"right", "quota"}} == {"create"}
    assert differences(tmp_path, cluster.administrator(), "--users", users, code=1) == before
    done = said(
        esper(tmp_path, cluster.administrator(), "topics", "apply", "--users", users, "--json")
    )
    assert {(one["kind"], one["name"], one["step"]) for one in done["changed"]} == before
    assert differences(tmp_path, cluster.administrator(), "--users", users, code=0) == set()
    assert (
        said(
            esper(tmp_path, cluster.administrator(), "topics", "apply", "--users", users, "--json")
        )["changed"]
        == []
    )
    known = cluster.admin.list_topics(timeout=10).topics
    assert all(
        len(part.replicas) == 3 for name in TOPICS for part in known[name].partitions.values()
    )


def test_what_was_changed_by_hand_is_named_and_mended(
    cluster: Cluster, passwords: Path, tmp_path: Path
) -> None:
    """A setting, a right and a quota that somebody changed come back.

    What somebody added stays until --prune.
    """
    admin, topic = cluster.admin, "telemetry.custom"
    entry = ConfigEntry("min.insync.replicas", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    lost = ("tamiyo", ResourceType.TOPIC, "decision.tamiyo", AclOperation.WRITE)
    added = ("viewer", ResourceType.TOPIC, "system.events.run", AclOperation.WRITE)
    cluster._done(admin.incremental_alter_configs([resource]).values())
    cluster._done(admin.delete_acls([AclBindingFilter(*_acl(*lost))]).values())
    cluster._done(admin.create_acls([AclBinding(*_acl(*added))]).values())
    kafka_requests.set_quotas(
        cluster.raw("admin"),
        {"viewer": {"consumer_byte_rate": 1.0, "producer_byte_rate": 5.0}},
        timeout_s=10,
    )
    changed = {
        ("setting", f"{topic} min.insync.replicas", "change"),
        ("right", "tamiyo WRITE TOPIC decision.tamiyo", "create"),
        ("quota", "viewer consumer_byte_rate", "change"),
    }
    more = {
        ("right", "viewer WRITE TOPIC system.events.run", "remove"),
        ("quota", "viewer producer_byte_rate", "remove"),
    }
    cluster.until(
        lambda: _seen(tmp_path, cluster, "--prune") == changed | more,
        "differences that every broker knows of",
        timeout=60,
    )
    assert differences(tmp_path, cluster.administrator(), code=1) == changed
    said(esper(tmp_path, cluster.administrator(), "topics", "apply", "--json"))
    assert differences(tmp_path, cluster.administrator(), "--prune", code=1) == more
    said(esper(tmp_path, cluster.administrator(), "topics", "apply", "--prune", "--json"))
    assert differences(tmp_path, cluster.administrator(), "--prune", code=0) == set()


def test_what_would_move_keys_or_data_is_left_to_an_administrator(
    cluster: Cluster, passwords: Path, tmp_path: Path
) -> None:
    """Another number of partitions or replicas is named, never changed, and makes both commands end
    with 1.
    """
    environment = {**cluster.administrator(), "ESPER_KAFKA__REPLICATION": "2"}
    found = differences(tmp_path, environment, "--no-acls", "--no-quotas", code=1)
    assert {(kind, step) for kind, _, step in found} == {
        ("replication", "none"),
        ("setting", "change"),
    }
    said(esper(tmp_path, environment, "topics", "apply", "--no-acls", "--no-quotas", "--json"), 1)
    said(esper(tmp_path, cluster.administrator(), "topics", "apply", "--json"))
    assert differences(tmp_path, cluster.administrator(), code=0) == set()


def test_who_may_not_ask_is_told_so_in_one_sentence(
    cluster: Cluster, passwords: Path, tmp_path: Path
) -> None:
    """A viewer can neither compare nor change the cluster, and reads why and what to do.

    Wrong passwords and unknown users are named.
    """
    as_viewer = cluster.parts(passwords, user="viewer")
    for command in ("diff", "apply"):
        assert "does not allow viewer" in refusal(esper(tmp_path, as_viewer, "topics", command))
    wrong = tmp_path / "viewer.password"
    wrong.write_text("wrong")
    assert "does not let viewer in" in refusal(
        esper(
            tmp_path, {**as_viewer, "ESPER_KAFKA__SASL_PASSWORD_FILE": str(wrong)}, "topics", "diff"
        )
    )
    assert "one name" in refusal(
        esper(tmp_path, cluster.administrator(), "topics", "diff", "--users", "esper")
    )
    assert "no file <principal>.password" in refusal(
        esper(
            tmp_path,
            cluster.administrator(),
            "topics",
            "apply",
            "--credentials",
            str(tmp_path / "nowhere"),
        )
    )


@pytest.mark.parametrize(
    ("principal", "topic", "allowed"),
    [
        ("trainer", "telemetry.cache", True),
        ("tamiyo", "decision.tamiyo", True),
        ("tamiyo", "system.events.run", False),
        ("viewer", "system.events.run", False),
        ("history", "audit.events", False),
        ("nissa", "decision.tamiyo", False),
    ],
)
def test_only_the_owner_of_a_topic_writes_it(
    cluster: Cluster,
    passwords: Path,
    monkeypatch: pytest.MonkeyPatch,
    principal: str,
    topic: str,
    *,
    allowed: bool,
) -> None:
    """Rights made of topics.toml hold at the brokers: who is not named there cannot write."""
    for name, value in cluster.parts(passwords).items():
        monkeypatch.setenv(name, value)
    bus = KafkaBus(Access.of(Settings.load(), principal))
    frames = (
        registryclients.framed(wire.id, datum)
        for wire, datum, _ in registryclients.golden()
        if topic == wire.record.TOPIC
    )
    message = encode(decode(next(frames)))
    with bus.producer(sender_id="test") as producer:
        producer.send_message(message)
        producer.flush(30.0)
        assert (producer.delivered().get(topic, 0) == 1) is allowed
        if not allowed:
            with pytest.raises(DeniedError, match=f"does not allow {principal} to write {topic}"):
                producer.send_message(message)


def _acl(user: str, kind: ResourceType, name: str, operation: AclOperation) -> tuple[Any, ...]:
    return (
        kind,
        name,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )


def _seen(home: Path, cluster: Cluster, *arguments: str) -> set[tuple[str, str, str]]:
    done = esper(home, cluster.administrator(), "topics", "diff", "--json", *arguments)
    return {
        (one["kind"], one["name"], one["step"]) for one in said(done, done.returncode)["differs"]
    }
