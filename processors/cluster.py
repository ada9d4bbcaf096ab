"""What Faust does not give of Kafka's client: the cluster's id, and a reader of whole topics without a consumer group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from mode import Service

from esper.clock import Clock
from esper.errors import UnavailableError


async def cluster_id(bootstrap: str) -> str:
    """The id that the cluster at `bootstrap` gave itself when it was formatted.

    Raises:
        UnavailableError: no broker answers.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
    try:
        await admin.start()
        cluster: dict[str, object] = await admin.describe_cluster()
    except (KafkaError, OSError) as error:
        raise UnavailableError(f"No broker answers at {bootstrap}: start one with `esper up`, or set ESPER_KAFKA__BOOTSTRAP.") from error
    finally:
        await admin.close()
    return str(cluster["cluster_id"])


class Follower(Service):
    """Reads a topic from all partitions, from a time in the past on, without a consumer group, and hands each value to a callback."""

    def __init__(self, *, bootstrap: str, topic: str, since_ms: int, take: Callable[[bytes], None], clock: Clock) -> None:
        super().__init__()
        self._bootstrap = bootstrap
        self._topic = topic
        self._since_ms = since_ms
        self._take = take
        self._clock = clock
        self.caught_up = False

    @Service.task
    async def _follow(self) -> None:
        while not self.should_stop:
            try:
                await self._read()
            except (KafkaError, OSError) as error:
                self.log.warning("Reading %s was interrupted, it goes on in a second: %s", self._topic, error)
                await self.sleep(1.0)

    async def _read(self) -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=None, enable_auto_commit=False, isolation_level="read_committed"
        )
        await consumer.start()
        try:
            partitions = [aiokafka.TopicPartition(self._topic, number) for number in await self._partitions(consumer)]
            consumer.assign(partitions)
            starts = await consumer.offsets_for_times(dict.fromkeys(partitions, self._since_ms))
            ends = await consumer.end_offsets(partitions)
            for partition in partitions:
                found = starts.get(partition)
                consumer.seek(partition, found.offset if found else ends[partition])
            while not self.should_stop:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        if record.value is not None:
                            self._take(record.value)
                if not self.caught_up:
                    positions = [await consumer.position(partition) for partition in partitions]
                    self.caught_up = all(at >= ends[partition] for at, partition in zip(positions, partitions, strict=True))
                await asyncio.sleep(0)
        finally:
            await consumer.stop()

    async def _partitions(self, consumer: aiokafka.AIOKafkaConsumer) -> list[int]:
        while not self.should_stop:
            await consumer._client.force_metadata_update()  # noqa: SLF001  # a topic that is younger than the last metadata
            found = consumer.partitions_for_topic(self._topic)
            if found:
                return sorted(found)
            await self.sleep(0.2)
        return []
