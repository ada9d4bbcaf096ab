"""What Faust does not give of Kafka's client: a reader of whole topics without a consumer group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiokafka
from aiokafka.errors import KafkaError
from mode import Service

from esper.clock import Clock
from esper.oona.bus.access import Access
from esper.oona.bus.port import Received
from esper_processors.access import options


@dataclass(frozen=True, slots=True)
class Followed:
    """A topic to follow from a time on, milliseconds since 1970, and what is done with each
    message.
    """

    topic: str
    since_ms: int
    apply: Callable[[Received], None]


Take = Callable[[Received, Callable[[], Awaitable[None]]], Awaitable[bool]]
"""Does something because of a message, and puts the message aside where that fails:
`esper_processors.consumers.Consumers.take`.
"""


class Follower(Service):
    """Reads topics from all partitions, each from a time in the past on, without a consumer group,
    and has `take` apply each message.
    """

    def __init__(self, *followed: Followed, access: Access, clock: Clock, take: Take) -> None:
        super().__init__()
        self._access = access
        self._take = take
        self._followed = {item.topic: item for item in followed}
        self._behind = set(self._followed)
        self._clock = clock

    def caught_up(self, *topics: str) -> bool:
        """Whether everything of these topics was read that was there at the start."""
        return self._behind.isdisjoint(topics)

    @Service.task
    async def _follow(self) -> None:
        while not self.should_stop:
            try:
                await self._read()
            except (KafkaError, OSError) as error:
                self.log.warning(
                    "Reading %s was interrupted, and resumes in a second: %s",
                    ", ".join(self._followed),
                    error,
                )
                await self.sleep(1.0)

    async def _read(self) -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._access.bootstrap,
            group_id=None,
            enable_auto_commit=False,
            # answers to commands stand in journals, whose transactions may be aborted
            isolation_level="read_committed",
            **options(self._access),
        )
        await consumer.start()
        try:
            ends = await self._assigned(consumer)
            while not self.should_stop:
                for place, records in (await consumer.getmany(timeout_ms=200)).items():
                    apply = self._followed[place.topic].apply
                    for record in records:
                        received = _received(record)
                        await self._taken(
                            apply,
                            received._replace(value=self._access.frames.incoming(received.value)),
                        )
                if self._behind:
                    at = {place: await consumer.position(place) for place in ends}
                    self._behind &= {place.topic for place, end in ends.items() if at[place] < end}
                # with a backlog `getmany` returns at once, and the loop has heartbeats and requests
                # to serve
                await asyncio.sleep(0)
        finally:
            await consumer.stop()

    async def _taken(self, apply: Callable[[Received], None], received: Received) -> None:
        async def act() -> None:
            apply(received)

        await self._take(received, act)

    async def _assigned(
        self, consumer: aiokafka.AIOKafkaConsumer
    ) -> dict[aiokafka.TopicPartition, int]:
        """Assign every partition at its place in time; gives where each ends now."""
        places = [
            aiokafka.TopicPartition(topic, number)
            for topic in self._followed
            for number in await self._partitions(consumer, topic)
        ]
        consumer.assign(places)
        starts = await consumer.offsets_for_times(
            {place: self._followed[place.topic].since_ms for place in places}
        )
        ends: dict[aiokafka.TopicPartition, int] = await consumer.end_offsets(places)
        for place in places:
            start = starts.get(place)
            # no message is as young as that: only new ones are of interest
            consumer.seek(place, start.offset if start else ends[place])
        return ends

    async def _partitions(self, consumer: aiokafka.AIOKafkaConsumer, topic: str) -> list[int]:
        while not self.should_stop:
            await consumer._client.force_metadata_update()  # noqa: SLF001  # a topic that is younger than the last metadata
            partitions = consumer.partitions_for_topic(topic)
            if partitions:
                return sorted(partitions)
            await self.sleep(0.2)
        return []


def _received(record: aiokafka.ConsumerRecord[bytes, bytes]) -> Received:
    headers = tuple((name, value) for name, value in record.headers or () if value is not None)
    return Received(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value or b"",
        headers,
        record.timestamp * 1000,
    )
