"""Creates Esper's topics where they are missing."""

from __future__ import annotations

from esper.config import KafkaSettings
from esper.events.topics import TOPICS
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import MAX_MESSAGE_BYTES

_PATIENCE_S = (
    30.0  # a fresh broker on a busy machine takes more than 5 s to lead some 70 partitions
)


def ensure(cluster: Access | str, settings: KafkaSettings) -> list[str]:
    """Create every topic of `schemas/topics.toml` that the cluster lacks.

    Gives the names of those created.

    Existing topics are left as they are: another number of partitions would move keys. Timestamps
    are the broker's (`LogAppendTime`), so that retention never depends on a client's clock; when
    something happened is in its envelope.

    Raises:
        UnavailableError: no broker answers, or it refuses.
    """
    return KafkaBus(cluster, patience=_PATIENCE_S).create_topics(
        wanted(settings), replication=settings.replication
    )


def wanted(settings: KafkaSettings) -> dict[str, tuple[int, dict[str, str]]]:
    """Every topic of `schemas/topics.toml`: partitions, and the settings that it is made with."""
    common = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
    }
    if settings.replication > 1:
        # one less than the replicas: a broker may be away without stopping every writer
        common["min.insync.replicas"] = str(settings.min_insync or settings.replication - 1)
    return {
        topic.name: (
            topic.partitions or settings.partitions,
            {"retention.ms": str(topic.retention_ms), **common},
        )
        for topic in TOPICS.values()
    }
