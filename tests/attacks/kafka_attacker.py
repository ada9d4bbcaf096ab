"""What a neighbour can do with the broker's port alone: `kafka_attacker.py JSON`, with a client's
configuration and the names of files.

With "drop" it becomes uid 65534 first. Prints what came of each attack as JSON: "done" where it
succeeded, else the refusal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its types do not list what it exports
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

DONE = "done"
_WAIT_S = 4.0


def write(config: dict[str, Any], topics: list[str], value: bytes) -> dict[str, str]:
    """Junk on each topic, keyed as an event of a run would be: pause, resume, rollback, raw, fuzz,
    gc and audit forgeries are all this.
    """
    found = dict.fromkeys(topics, "no answer")

    def note(error: Any, message: Any) -> None:
        found[message.topic()] = str(error.name()) if error else DONE

    producer = Producer({**config, "message.timeout.ms": int(_WAIT_S * 1000)})
    for topic in topics:
        producer.produce(topic, value, b"victim", partition=0, on_delivery=note)
    producer.flush(2 * _WAIT_S)
    return found


def read(config: dict[str, Any], topics: list[str]) -> dict[str, str]:
    """The first message of each topic; each has one in its partition 0."""
    consumer = Consumer(
        {
            **config,
            "group.id": "viewer-attack",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    found = dict.fromkeys(topics, "no answer")
    try:
        consumer.assign([TopicPartition(topic, 0, 0) for topic in topics])
        for _ in range(int(_WAIT_S / 0.2)):
            for message in consumer.consume(500, 0.2):
                error = message.error()
                found[str(message.topic())] = str(error.name()) if error else DONE
            if "no answer" not in found.values():
                break
    finally:
        consumer.close()
    return found


def allowed(config: dict[str, Any], topics: list[str]) -> dict[str, set[str]]:
    """What the broker says that this client may do with each topic.

    Nothing where it does not even tell that there is one.
    """
    admin = AdminClient(config)
    futures = admin.describe_topics(
        TopicCollection(topics), include_authorized_operations=True, request_timeout=_WAIT_S
    )
    found: dict[str, set[str]] = {}
    for topic, future in futures.items():
        try:
            found[topic] = {
                operation.name for operation in future.result().authorized_operations or ()
            }
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_AUTHORIZATION_FAILED":
                raise
            found[topic] = set()
    return found


def fence(config: dict[str, Any], transactional_id: str) -> str:
    """Become the only writer of somebody's transactions."""

    def begin() -> None:
        Producer({**config, "transactional.id": transactional_id}).init_transactions(_WAIT_S)

    return _tried(begin)


def govern(config: dict[str, Any], topic: str) -> dict[str, str]:
    """Change the cluster itself."""
    admin = AdminClient(config)
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    limits = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    everything = AclBinding(
        ResourceType.TOPIC,
        "*",
        ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    upsertion = UserScramCredentialUpsertion(
        "esper", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"mine now"
    )
    asked: dict[str, Callable[[], dict[Any, Any]]] = {
        "delete-topic": lambda: admin.delete_topics([topic], request_timeout=_WAIT_S),
        "create-topic": lambda: admin.create_topics(
            [NewTopic("squat", 1)], request_timeout=_WAIT_S
        ),
        "more-partitions": lambda: admin.create_partitions(
            [NewPartitions(topic, 64)], request_timeout=_WAIT_S
        ),
        "delete-records": lambda: admin.delete_records(
            [TopicPartition(topic, 0, 1)], request_timeout=_WAIT_S
        ),
        "retention": lambda: admin.incremental_alter_configs([limits], request_timeout=_WAIT_S),
        "grant": lambda: admin.create_acls([everything], request_timeout=_WAIT_S),
        "password": lambda: admin.alter_user_scram_credentials(
            [upsertion], request_timeout=_WAIT_S
        ),
        "delete-group": lambda: admin.delete_consumer_groups(
            ["esper-tamiyo"], request_timeout=_WAIT_S
        ),
    }
    futures = {
        name: ask() for name, ask in asked.items()
    }  # all of them are under way before the first is waited for
    return {name: _tried(partial(_all, under_way)) for name, under_way in futures.items()}


def join(config: dict[str, Any], group: str, topic: str) -> str:
    """Take the partitions of a part away by joining its group."""
    consumer = Consumer({**config, "group.id": group, "session.timeout.ms": 6000})
    try:
        consumer.subscribe([topic])
        for _ in range(int(_WAIT_S / 0.2)):
            message = consumer.poll(0.2)
            if message is not None and (error := message.error()) is not None:
                return str(error.name())
            if consumer.assignment():
                return DONE
    finally:
        consumer.close()
    return "no answer"


def steal(paths: list[str]) -> dict[str, str]:
    """Read the files that hold secrets."""
    return {path: _tried(Path(path).read_bytes) for path in paths}


def attack(told: dict[str, Any]) -> dict[str, Any]:
    """All of it, one beside the other."""
    config = {"log_level": 0, "reconnect.backoff.max.ms": 500, **told["config"]}
    with ThreadPoolExecutor() as pool:
        found: dict[str, Future[Any]] = {
            "write": pool.submit(write, config, told["topics"], bytes.fromhex(told["value"])),
            "read": pool.submit(read, config, told["topics"]),
            "govern": pool.submit(govern, config, told["topics"][0]),
            "join": pool.submit(join, config, "esper-tamiyo", told["topics"][0]),
            "steal": pool.submit(steal, told["files"]),
            **{f"fence {name}": pool.submit(fence, config, name) for name in told["transactions"]},
        }
        return {name: future.result() for name, future in found.items()}


def _all(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result()


def _tried(action: Callable[[], object]) -> str:
    try:
        action()
    except KafkaException as error:
        return str(error.args[0].name())
    except OSError as error:
        return type(error).__name__
    return DONE


if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    if orders.get("drop"):
        AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}).poll(
            0
        )  # what is loaded late is loaded before its files are out of reach
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    sys.stdout.write(json.dumps(attack(orders)))
