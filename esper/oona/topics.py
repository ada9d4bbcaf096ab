"""Creates Esper's topics where they are missing."""

from __future__ import annotations

from esper.config import KafkaSettings
from esper.events.topics import TOPICS
from esper.oona.access import Access
from esper.oona.kafka import KafkaBus
from esper.oona.port import MAX_MESSAGE_BYTES

_PATIENCE_S = 30.0  # a fresh broker on a busy machine takes more than 5 s to lead some 70 partitions


def ensure(cluster: Access | str, settings: KafkaSettings) -> list[str]:
    """Create every topic of `schemas/topics.toml` that the cluster lacks; gives the names of those created.

    Existing topics are left as they are: another number of partitions would move keys. Timestamps are the broker's (`LogAppendTime`), so
    that retention never depends on a client's clock; when something happened is in its envelope.

    Raises:
        UnavailableError: no broker answers, or it refuses.
    """
    wanted = {
        topic.name: (
            topic.partitions or settings.partitions,
            {
                "retention.ms": str(topic.retention_ms),
                "cleanup.policy": "delete",
                "message.timestamp.type": "LogAppendTime",
                "max.message.bytes": str(MAX_MESSAGE_BYTES),
            },
        )
        for topic in TOPICS.values()
    }
    return KafkaBus(cluster, patience=_PATIENCE_S).create_topics(wanted, replication=settings.replication)
