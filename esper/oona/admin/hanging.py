"""Transactions that Kafka has decided and left open in a partition, where they hide all that
follows from `read_committed` readers, for ever.

A broker whose partition has no leader for a moment takes it for deleted, skips the marker that ends
a transaction in it, and calls the transaction complete (Kafka 4.3, TransactionMarkerChannelManager;
it logs "likely deleted already and hence can be skipped"). A single broker that is killed within
milliseconds of a commit and started again gets there about once in sixty times. The coordinator
still knows how it was decided, so the marker is written here, as `kafka-transactions.sh abort`
does, which knows aborts alone and would take back what a run was told is committed.

Source: https://kafka.apache.org/protocol, DescribeProducers (61), ListTransactions (66) and
WriteTxnMarkers (27).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotLeaderForPartitionError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.structs import TopicPartition

from esper.clock import Clock
from esper.errors import UnavailableError
from esper.oona.admin.kafka_requests import Sent, connection
from esper.oona.bus.access import Access

_TEXT: Final = CompactString("utf-8")
_TAGS: Final = ("tags", TaggedFields)
_NONE: Final[Mapping[int, bytes]] = {}
_PARTITIONS: Final = CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)
_DECIDED: Final = {"CompleteCommit": True, "CompleteAbort": False}
"""States of a transaction that has ended, and whether it was committed."""
_DECIDING: Final = frozenset({"PrepareCommit", "PrepareAbort"})
_MOVING: Final = frozenset(
    {
        NotLeaderForPartitionError,
        UnknownTopicOrPartitionError,
        GroupLoadInProgressError,
        GroupCoordinatorNotAvailableError,
    }
)
"""Errors of a broker that has just started, or that has just begun to lead."""
_WAIT_S: Final = 0.1


class DescribeProducersResponse_v0(Response):  # type: ignore[misc]  # noqa: N801 - aiokafka has no types, and its own way to name a version
    """Who has written to partitions, and where its open transaction begins."""

    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("transaction_start", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeProducersRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801 - the same
    """Asked of the leader of the partitions."""

    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeProducersResponse_v0
    SCHEMA = Schema(("topics", _PARTITIONS), _TAGS)


class ListTransactionsResponse_v0(Response):  # type: ignore[misc]  # noqa: N801 - the same
    """How far the transactions of one coordinator are."""

    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(_TEXT)),
        (
            "transactions",
            CompactArray(
                ("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT), _TAGS
            ),
        ),
        _TAGS,
    )


class ListTransactionsRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801 - the same
    """Asked of every broker."""

    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ListTransactionsResponse_v0
    SCHEMA = Schema(("states", CompactArray(_TEXT)), ("producer_ids", CompactArray(Int64)), _TAGS)


class WriteTxnMarkersResponse_v1(Response):  # type: ignore[misc]  # noqa: N801 - the same
    """An error code for each partition."""

    API_KEY = 27
    API_VERSION = 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                (
                    "topics",
                    CompactArray(
                        ("name", _TEXT),
                        (
                            "partitions",
                            CompactArray(("partition", Int32), ("error_code", Int16), _TAGS),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class WriteTxnMarkersRequest_v1(RequestStruct):  # type: ignore[misc]  # noqa: N801 - the same
    """Asked of the leader of the partitions."""

    API_KEY = 27
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = WriteTxnMarkersResponse_v1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("committed", Boolean),
                ("topics", _PARTITIONS),
                ("coordinator_epoch", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


@dataclass(frozen=True, slots=True, order=True)
class Hanging:
    """A transaction that was decided, and is open in a partition since `offset`."""

    topic: str
    partition: int
    offset: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    transactional_id: str
    committed: bool

    @property
    def end(self) -> str:
        """How it was decided."""
        return "committed" if self.committed else "aborted"

    def __str__(self) -> str:
        """A sentence about it."""
        return (
            f"The transaction of {self.transactional_id} that Kafka has {self.end} is open "
            f"in {self.topic}, partition {self.partition}, "
            f"since offset {self.offset}: what follows is hidden from readers."
        )


def found(
    access: Access, topics: Mapping[str, int], *, clock: Clock, timeout_s: float
) -> list[Hanging]:
    """The transactions that hang in `topics`, a number of partitions by name.

    Those that Kafka is ending just now are waited for.

    Needs the right to describe these topics and all transactional ids.

    Raises:
        UnavailableError: no broker answers, or it refuses.
    """
    return _run(_found, access, topics, clock, timeout_s)


def mend(
    access: Access, topics: Mapping[str, int], *, clock: Clock, timeout_s: float
) -> list[Hanging]:
    """End them as they were decided; what was ended.

    Needs the right to act for the cluster, which brokers have, too.

    Raises:
        UnavailableError: no broker answers, or it refuses.
    """
    return _run(_mended, access, topics, clock, timeout_s)


def _run(
    what: Any, access: Access, topics: Mapping[str, int], clock: Clock, timeout_s: float
) -> list[Hanging]:
    async def asked() -> list[Hanging]:
        # aiokafka's low-level client: neither client library has these requests, and it sends any
        client = AIOKafkaClient(**connection(access), request_timeout_ms=round(timeout_s * 1000))
        try:
            await client.bootstrap()
            ended: list[Hanging] = await what(_Cluster(client, topics, clock, timeout_s))
            return ended
        finally:
            await client.close()

    try:
        return asyncio.run(asked())
    except (KafkaError, OSError, TimeoutError) as error:
        raise UnavailableError(
            f"Kafka at {access.bootstrap} does not say which transactions hang: {error}."
        ) from error


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A connection, and what is asked about."""

    client: Any
    topics: Mapping[str, int]
    clock: Clock
    timeout_s: float

    async def ask(self, node: int, kind: type[RequestStruct], *values: Any) -> Any:
        return await self.client.send(node, Sent(kind, *values, _NONE))

    async def led(self) -> tuple[dict[int, dict[str, list[int]]], bool]:
        """The partitions by the broker that leads them, and whether every partition has one: a
        broker that has just started leads none yet.
        """
        # leaders move while a cluster starts; the client's own metadata may be minutes old
        await self.client.force_metadata_update()
        by_leader: dict[int, dict[str, list[int]]] = {}
        complete = True
        for topic, count in self.topics.items():
            for number in range(count):
                leader = self.client.cluster.leader_for_partition(TopicPartition(topic, number))
                if leader is None or leader < 0:
                    complete = False
                else:
                    by_leader.setdefault(leader, {}).setdefault(topic, []).append(number)
        return by_leader, complete

    async def opened(self) -> tuple[dict[tuple[str, int, int], Any], bool]:
        """Every open transaction by topic, partition and producer: what the leader knows of it.

        And whether every leader has said so.
        """
        by_leader, complete = await self.led()
        opened: dict[tuple[str, int, int], Any] = {}
        for leader, partitions in by_leader.items():
            requests = [(topic, numbers, _NONE) for topic, numbers in partitions.items()]
            for topic, parts, _ in (
                await self.ask(leader, DescribeProducersRequest_v0, requests)
            ).topics:
                for number, code, message, producers, _ in parts:
                    if for_code(code) in _MOVING:
                        complete = False
                    elif code:
                        raise for_code(code)(message or "")
                    # -1 is a producer without an open transaction
                    opened |= {
                        (topic, number, producer[0]): producer
                        for producer in producers
                        if producer[5] >= 0
                    }
        return opened, complete

    async def states(self, producer_ids: set[int]) -> tuple[dict[int, tuple[str, str]], bool]:
        """Transactional id and state by producer id, and whether every coordinator has said so."""
        by_producer: dict[int, tuple[str, str]] = {}
        complete = True
        for broker in self.client.cluster.brokers():
            answer = await self.ask(
                broker.nodeId, ListTransactionsRequest_v0, [], sorted(producer_ids)
            )
            if for_code(answer.error_code) in _MOVING:
                complete = False
            elif answer.error_code:
                raise for_code(answer.error_code)
            by_producer |= {
                producer_id: (name, state) for name, producer_id, state, _ in answer.transactions
            }
        return by_producer, complete


async def _found(cluster: _Cluster) -> list[Hanging]:
    deadline = cluster.clock.monotonic() + cluster.timeout_s
    while True:
        before, complete = await cluster.opened()
        if not before and complete:
            return []
        producer_ids = {producer_id for _, _, producer_id in before}
        states, answered = await cluster.states(producer_ids)
        # asked once more: what was open before it was decided may have been ended since
        after, _ = await cluster.opened()
        # a coordinator that has just started does not know its transactions yet
        settled = (
            complete
            and answered
            and producer_ids <= states.keys()
            and not any(state in _DECIDING for _, state in states.values())
        )
        if settled or cluster.clock.monotonic() > deadline:
            break
        await asyncio.sleep(_WAIT_S)
    # by where it begins, too: the same producer may have ended it and begun the next meanwhile
    same = {
        key: producer
        for key, producer in before.items()
        if key in after and after[key][5] == producer[5]
    }
    return sorted(
        Hanging(
            topic,
            number,
            producer[5],
            producer_id,
            producer[1],
            # -1 before a producer's first marker; 0 is never above the leader's epoch (as Kafka's
            # own tool does)
            max(producer[4], 0),
            *_decided(states[producer_id]),
        )
        for (topic, number, producer_id), producer in same.items()
        if producer_id in states and states[producer_id][1] in _DECIDED
    )


def _decided(state: tuple[str, str]) -> tuple[str, bool]:
    return state[0], _DECIDED[state[1]]


async def _mended(cluster: _Cluster) -> list[Hanging]:
    hanging = await _found(cluster)
    for transaction in hanging:
        leader = cluster.client.cluster.leader_for_partition(
            TopicPartition(transaction.topic, transaction.partition)
        )
        marker = (
            transaction.producer_id,
            transaction.producer_epoch,
            transaction.committed,
            [(transaction.topic, [transaction.partition], _NONE)],
            transaction.coordinator_epoch,
            _NONE,
        )
        answer = await cluster.ask(leader, WriteTxnMarkersRequest_v1, [marker])
        for _, topics, _ in answer.markers:
            for code in (code for _, parts, _ in topics for _, code, _ in parts if code):
                raise for_code(code)
    return hanging
