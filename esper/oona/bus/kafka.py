"""The bus on a Kafka cluster, by librdkafka."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_fixed

from esper.errors import (
    BackpressureError,
    CorruptError,
    DeniedError,
    EsperError,
    FencedError,
    UnavailableError,
    UsageError,
)
from esper.events.codec import Message
from esper.oona.bus.access import Access
from esper.oona.bus.authentication import (
    FATAL,
    FORBIDDEN,
    BrokerStanding,
    ClientDoor,
    cause,
    drained,
)
from esper.oona.bus.partitioner import partition
from esper.oona.bus.port import (
    MAX_MESSAGE_BYTES,
    Bus,
    JournalProducer,
    Producer,
    Reader,
    Received,
    Start,
)
from esper.oona.bus.rights import READER_GROUP

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0  # beyond a request's own time-out
_COMMIT_S: Final = 10.0  # beyond the transaction timeout the broker has decided without us
_ATTEMPTS: Final = 4
_TRANSACTION_MS: Final = (
    5_000  # with the default, readers of other runs wait up to a minute behind a writer that died
)
_QUEUE_KBYTES: Final = 131_072
_EARLIEST: Final[Any] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final[Any] = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_FENCED: Final = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001 - librdkafka's own codes begin with an underscore
)
_NO_COORDINATOR: Final = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
_COORDINATOR_S: Final = 0.2  # between two tries to find one
_MOVING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._NOENT,  # noqa: SLF001 - librdkafka: no partition that was asked for has a leader yet
    }
)
_GONE: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
_ATTEMPTS_A_CLIENT: Final = 20
_SLICE_S: Final = 0.5
_FLUSH_S: Final = 1.0
_POLL_S: Final = 0.1
_READ_MS: Final = 100
"""How long the broker holds a fetch for which nothing comes: the end of a partition is reported
after one such wait.
"""
_FOLLOW_MS: Final = 250
"""The same for a reader that goes on for hours.

At 100 ms the fetches of an idle stack's parts are half of what its broker computes.
"""
# a broker that has just come back answers before its partitions have leaders; on a busy machine for
# long
LEADERS_S = 30.0


class KafkaBus(Bus):
    """A cluster, reached as `access` says.

    A request that gets no answer is given up after `patience` seconds.

    A bare host:port[,host:port] is a cluster that asks nobody who they are.
    """

    def __init__(self, access: Access | str, *, patience: float = 5.0) -> None:
        self.access = Access.plain(access) if isinstance(access, str) else access
        self.bootstrap = self.access.bootstrap
        self.patience = patience
        self._lock = threading.Lock()
        self.standing = BrokerStanding()
        self._door = ClientDoor(self.access, self.standing)
        self._client: AdminClient | None = None

    def producer(self, *, sender_id: str, queue_messages: int = 100_000) -> Producer:
        """As the port says."""
        return KafkaProducer(
            ClientDoor(self.access, self.standing),
            {"client.id": sender_id, "queue.buffering.max.messages": queue_messages},
        )

    def journal_producer(self, *, run_id: str) -> JournalProducer:
        """As the port says."""
        return KafkaJournalProducer(ClientDoor(self.access, self.standing), run_id)

    def reader(
        self,
        topics: Sequence[str],
        *,
        start: Start,
        headers: bool = True,
        partitions: Collection[int] | None = None,
        follow: bool = False,
    ) -> Reader:
        """As the port says."""
        # partitions are assigned by hand: a consumer group would rebalance, and commit what is not
        # handled
        counts = self.partitions(topics)
        pairs = [
            (topic, number)
            for topic in topics
            for number in range(counts[topic])
            if partitions is None or number in partitions
        ]
        return KafkaReader(
            self, pairs, start=start, headers=headers, wait_ms=_FOLLOW_MS if follow else _READ_MS
        )

    def partition_of(self, topic: str, key: bytes) -> int:
        """As the port says."""
        return partition(key, self.partitions([topic])[topic])

    def topic_ids(self) -> dict[str, str]:
        """As the port says."""
        # Kafka's own topics are no part of Esper, and a principal may not see them
        names = [name for name in self._topics() if not name.startswith("__")]
        if not names:
            return {}
        futures = self._admin().describe_topics(
            TopicCollection(names), request_timeout=self.patience
        )
        try:
            return {name: str(self.answer(future).topic_id) for name, future in futures.items()}
        except KafkaException as error:
            raise self.unavailable(error) from error

    def available(self, timeout: float) -> bool:
        """As the port says."""
        try:
            self._metadata(timeout)
        except UnavailableError:
            return False
        return True

    def cluster_id(self) -> str:
        """The id that the cluster gave itself when it was formatted.

        Raises UnavailableError, or DeniedError.
        """
        return str(self._metadata(self.patience).cluster_id)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions each of `topics` has.

        Raises UnavailableError, also where one does not exist or may not be seen.
        """
        present = self._topics()
        if missing := sorted(set(topics) - present.keys()):
            seen = (
                f" that {self.access.user} may see"
                if self.access.kafka.security_protocol != "PLAINTEXT"
                else ""
            )
            raise UnavailableError(
                f"Kafka at {self.bootstrap} has no topic {', '.join(missing)}{seen}; "
                "`esper up` creates what is missing."
            )
        return {topic: len(present[topic].partitions) for topic in topics}

    def _given_up(self, attempt: RetryCallState) -> bool:
        """Whether partitions have had no leader for too long, or a topic is unknown for longer than
        a new one is.
        """
        error = attempt.outcome.exception() if attempt.outcome else None
        unknown = (
            isinstance(error, KafkaException)
            and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
        )
        return (attempt.seconds_since_start or 0.0) > (self.patience if unknown else LEADERS_S)

    def _afresh(self, attempt: RetryCallState) -> None:
        """Ask through another client now and then: one that once saw a new topic without a leader
        may go on to say so from its cache.
        """
        if not attempt.attempt_number % _ATTEMPTS_A_CLIENT:
            with self._lock:
                self._client = None

    def ends(
        self, partitions: Sequence[tuple[str, int]], where: Any, *, committed: bool = True
    ) -> dict[tuple[str, int], int]:
        """The earliest or latest offset of each of `partitions`.

        The latest is the last stable one if `committed`.
        """
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        request = {TopicPartition(topic, number): where for topic, number in partitions}
        again = retry_if_exception(
            lambda error: isinstance(error, KafkaException) and error.args[0].code() in _MOVING
        )
        try:
            for attempt in Retrying(
                retry=again,
                stop=self._given_up,
                wait=wait_fixed(0.05),
                before_sleep=self._afresh,
                reraise=True,
            ):
                with attempt:
                    futures = self._admin().list_offsets(
                        request, isolation_level=level, request_timeout=self.patience
                    )
                    offsets = {
                        (at.topic, at.partition): self.answer(future).offset
                        for at, future in futures.items()
                    }
                    if (
                        min(offsets.values(), default=0) < 0
                    ):  # librdkafka's way to say that a leader was lost meanwhile, without an error
                        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
                    return offsets
        except KafkaException as error:
            raise self.unavailable(error) from error
        raise AssertionError  # the loop returns or raises

    def admin(self) -> AdminClient:
        """The client that asks and changes the cluster itself.

        Raises UsageError where a file of the settings cannot be read.
        """
        return self._admin()

    def create_topics(
        self, topics: Mapping[str, tuple[int, Mapping[str, str]]], *, replication: int
    ) -> list[str]:
        """Create those of `topics`, name to (partitions, configuration), that do not exist.

        Gives their names.

        Raises:
            UnavailableError: no broker answers, or it refuses.
        """
        present = self._topics()
        new = [
            NewTopic(name, count, replication, config=dict(config))
            for name, (count, config) in topics.items()
            if name not in present
        ]
        if not new:
            return []
        futures = self._admin().create_topics(
            new, operation_timeout=self.patience, request_timeout=self.patience
        )
        names = {future: name for name, future in futures.items()}
        created = []
        for future in as_completed(names):
            try:
                self.answer(future)
            except KafkaException as error:
                # another process of the stack may create the same topics at this moment
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    if error.args[0].code() in FORBIDDEN:
                        raise self._door.forbidden(
                            error.args[0], f"create {names[future]}"
                        ) from error
                    raise UnavailableError(
                        f"Kafka at {self.bootstrap} refuses to create {names[future]}: "
                        f"{error.args[0].str()}."
                    ) from error
            else:
                created.append(names[future])
        self.ends(
            [(name, number) for name in created for number in range(topics[name][0])], _EARLIEST
        )  # waits until they have leaders
        return sorted(created)

    def answer(self, future: Any) -> Any:
        """What an administrative request came to.

        Raises:
            KafkaException: it was refused, or got no answer.
        """
        try:
            # librdkafka's own time-out comes first, but where a leader is lost in the middle: then
            # there was none at all
            return future.result(self.patience + _ANSWER_S)
        except TimeoutError as error:
            with self._lock:
                self._client = None  # another one asks from the beginning
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE)) from error

    def unavailable(self, error: KafkaException) -> UnavailableError:
        """The sentence for a request that failed. Raises DeniedError where the broker
        refuses it.
        """
        cause = error.args[0]
        if cause.code() in FORBIDDEN:
            raise self._door.forbidden(cause) from error
        asks = (
            ", or set ESPER_KAFKA__SECURITY_PROTOCOL if it requires authentication"
            if self.access.kafka.security_protocol == "PLAINTEXT"
            else ""
        )
        return UnavailableError(
            f"Kafka at {self.bootstrap} does not answer ({cause.str()}); start the stack "
            f"with `esper up`, or correct ESPER_KAFKA__BOOTSTRAP{asks}."
        )

    def _topics(self) -> Any:
        return self._metadata(self.patience).topics

    def _metadata(self, timeout: float) -> Any:
        """What the cluster says of itself, asked for in growing slices of `timeout`: a refusal is
        noticed between two of them.

        Raises:
            UnavailableError: no answer within `timeout`.
            DeniedError: the broker refuses this client.
        """
        deadline, slice_s = time.monotonic() + timeout, _SLICE_S
        while True:
            client = self._admin()
            left = deadline - time.monotonic()
            try:
                answer = client.list_topics(timeout=max(min(slice_s, left), 0.001))
            except KafkaException as error:
                # list_topics serves no callbacks: a refused password is only reported by this
                client.poll(0)
                self._door.require()
                if left <= slice_s:
                    raise self.unavailable(error) from error
                slice_s *= 2
            else:
                self._door.let_in()
                return answer

    def _admin(self) -> AdminClient:
        with self._lock:
            # one for all threads: each client of librdkafka has threads and connections of its own
            if self._client is None:
                self._door = ClientDoor(self.access, self.standing)
                self._client = self._door.client = AdminClient(
                    {**self._door.config(), "client.id": "esper-admin"}
                )
            return self._client


class KafkaProducer(Producer):
    """An idempotent producer that waits for a lost broker as long as its queue has room."""

    def __init__(self, door: ClientDoor, config: dict[str, Any]) -> None:
        self._door = door
        self._outgoing = door.access.frames.outgoing
        self._config = config | {
            # retries neither double nor reorder messages of a partition
            "enable.idempotence": True,
            # as Java's clients and `partition_of` have it; librdkafka's own CRC32 puts keys
            # elsewhere
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "compression.type": "lz4",
            "message.max.bytes": MAX_MESSAGE_BYTES,
            # never: an outage shall fill the queue, where it is noticed, and not lose telemetry
            # unnoticed
            "message.timeout.ms": 0,
            "queue.buffering.max.kbytes": _QUEUE_KBYTES,
        }
        self._lock = threading.Lock()
        self._delivered: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._notes: dict[str, Callable[[KafkaError | None, Any], None]] = {}
        self._forbidden: dict[str, KafkaError] = {}
        self._refused: KafkaError | None = None
        self._due = 0.0
        self._client = self._made()

    def send_message(self, message: Message) -> None:
        """As the port says."""
        if (
            (now := time.monotonic()) >= self._due
        ):  # who sends now and then polls never: it would not hear of a changed password
            self._due = now + _POLL_S
            self.poll()
        if self._forbidden and message.topic in self._forbidden:
            raise self._door.forbidden(self._forbidden.pop(message.topic), f"write {message.topic}")
        self._door.require()
        try:
            self._produce(message)
        except KafkaException as error:
            if self._refused is not None:
                refused, self._refused = self._refused, None
                self._renew()
                raise self._door.forbidden(refused, f"write {message.topic}") from error
            if not error.args[0].fatal():
                raise too_large_or(error, message) from error
            # a fatal error ends an idempotent producer for good: its sequence numbers prove nothing
            # any more
            _log.warning("the producer ended (%s); another takes its place", error.args[0].str())
            self._renew()
            self._produce(message)

    def poll(self) -> None:
        """As the port says."""
        try:
            self._client.poll(0)
        except FATAL as error:  # the next send starts afresh
            self._heed(error)
        self._settle()

    def flush(self, timeout: float) -> int:
        """As the port says.

        In slices, between which a password that was changed reaches the client.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                self._client.flush(max(min(left, _FLUSH_S), 0.0))
            except FATAL as error:
                self._heed(error)
            self._settle()
            if not len(self._client) or left <= _FLUSH_S:
                return len(self._client)

    def delivered(self) -> dict[str, int]:
        """As the port says."""
        with self._lock:
            return dict(self._delivered)

    def failed(self) -> dict[str, int]:
        """As the port says."""
        with self._lock:
            return dict(self._failed)

    def close(self) -> None:
        """As the port says."""
        # purged messages are counted as failed only when the client is polled once more
        self._client.purge()
        self.flush(1.0)

    def _produce(self, message: Message) -> None:
        topic = message.topic
        # one callback a topic, not one a message: every event of telemetry passes here
        if (note := self._notes.get(topic)) is None:
            note = self._notes[topic] = self._door.told.delivery(topic)
        try:
            self._client.produce(
                topic,
                self._outgoing(message.value),
                message.key,
                on_delivery=note,
                headers=list(message.headers),
            )
        except BufferError as error:
            raise BackpressureError(
                "The queue to Kafka is full: the broker is away or slower than the sender."
            ) from error

    def _settle(self) -> None:
        """Count what the client has said of deliveries, and remember which topic this principal may
        not write.
        """
        self._door.renew()
        for topic, error, _ in drained(self._door.told.deliveries):
            with self._lock:
                (self._failed if error else self._delivered)[topic] += 1
            if error is None:
                self._door.let_in()
            elif error.code() in FORBIDDEN:
                # once a topic: a sender without the right would fill the log with its telemetry
                if topic not in self._forbidden:
                    _log.error("%s", self._door.forbidden(error, f"write {topic}"))
                self._forbidden[topic] = error

    def _heed(self, error: BaseException) -> None:
        """Remember a fatal error that says who may not write: who may write nothing at all is
        refused before the topic is known.
        """
        if (reason := cause(error)).code() in FORBIDDEN:
            self._refused = reason

    def _made(self) -> Client:
        client = Client({**self._door.config(), **self._config})
        self._door.client = client
        return client

    def _renew(self) -> None:
        self.close()
        self._client = self._made()


class KafkaJournalProducer(JournalProducer):
    """A transactional producer; its `transactional.id` is the run id."""

    def __init__(self, door: ClientDoor, run_id: str) -> None:
        self._run_id = run_id
        self._bootstrap = door.access.bootstrap
        self._door = door
        self._outgoing = door.access.frames.outgoing
        self._offset = 0
        self._error: KafkaError | None = None
        self._spent: EsperError | None = None
        self._client = self._door.client = Client(
            self._door.config()
            | {
                "client.id": f"journal-{run_id}",
                "transactional.id": run_id,
                "transaction.timeout.ms": _TRANSACTION_MS,
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "compression.type": "lz4",
                "message.max.bytes": MAX_MESSAGE_BYTES,
            }
        )

    def begin(self, timeout: float) -> None:
        """As the port says."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._client.init_transactions(max(deadline - time.monotonic(), 0.001))
            except FATAL as error:
                # a broker that lost its leaders for a moment names no coordinator, or another one
                if cause(error).code() in _NO_COORDINATOR and time.monotonic() < deadline:
                    time.sleep(_COORDINATOR_S)
                    continue
                with suppress(*FATAL):  # said once more
                    self._client.poll(0)
                raise self._named(cause(error)) from error
            else:
                self._door.let_in()
                return

    def commit(self, messages: Sequence[Message]) -> int:
        """As the port says."""
        self._open(messages)
        return self._finish()

    def close(self) -> None:
        """As the port says."""
        self._client.purge()
        with suppress(*FATAL):  # the error that spent this producer, said once more
            self._client.poll(0)

    def _open(self, messages: Sequence[Message]) -> None:
        """Begin a transaction with `messages` in it."""
        if self._spent is not None:
            raise self._spent
        try:
            self._client.begin_transaction()
            for message in messages:
                self._produce(message)
        except FATAL as error:
            raise self._named(cause(error)) from error

    def _produce(self, message: Message) -> None:
        value = self._outgoing(message.value)
        while True:
            try:
                self._client.produce(
                    message.topic,
                    value,
                    message.key,
                    on_delivery=self._door.told.message,
                    headers=list(message.headers),
                )
            # a batch may be larger than the client's queue: polling delivers, and makes room
            except BufferError:
                self._client.poll(0.05)
            else:
                return

    def _finish(self) -> int:
        """Commit the open transaction.

        A time-out of the call leaves it resumable, so it is repeated; anything else spends the
        producer.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                self._client.commit_transaction(_COMMIT_S / _ATTEMPTS)
            except FATAL as error:
                # only a retriable error leaves the transaction as it was; after another its outcome
                # is unknown
                if attempt == _ATTEMPTS or not cause(error).retriable():
                    raise self._named(cause(error)) from error
            else:
                self._settle()
                return self._offset

    def _settle(self) -> None:
        """Take in what the client has said of deliveries."""
        for _, error, message in drained(self._door.told.deliveries):
            if error is None:
                self._offset = max(self._offset, message.offset() + 1)
                self._door.let_in()
            else:
                self._error = error

    def _named(self, error: KafkaError) -> EsperError:
        """The sentence for an error, which spends this producer."""
        self._settle()
        denied = next(
            (
                candidate
                for candidate in (error, self._error)
                if candidate is not None and candidate.code() in FORBIDDEN
            ),
            None,
        )
        if denied is not None:
            self._spent = self._door.forbidden(denied, f"write the journal of run {self._run_id}")
        # asked before the code of the error: a refused client fails with a time-out that names no
        # reason
        elif (refusal := self._refusal()) is not None:
            self._spent = refusal
        elif error.code() in _FENCED:
            self._spent = FencedError(
                f"Another writer has taken over run {self._run_id}; this one must stop."
            )
        else:
            cause = f"{error.str()}; {self._error.str()}" if self._error else error.str()
            self._spent = UnavailableError(
                f"The journal of run {self._run_id} could not be written to Kafka at "
                f"{self._bootstrap} ({cause})."
            )
        return self._spent

    def _refusal(self) -> DeniedError | None:
        try:
            self._door.require()
        except DeniedError as refusal:
            return refusal
        return None


class KafkaReader(Reader):
    """A consumer of assigned partitions, `read_committed`."""

    def __init__(
        self,
        bus: KafkaBus,
        pairs: Sequence[tuple[str, int]],
        *,
        start: Start,
        headers: bool,
        wait_ms: int,
    ) -> None:
        self._bus = bus
        self._door = ClientDoor(bus.access, bus.standing)
        self._headers = headers
        self._incoming = bus.access.frames.incoming
        positions = (
            {} if isinstance(start, str) else {pair: start[pair] for pair in pairs if pair in start}
        )
        if rest := [pair for pair in pairs if pair not in positions]:
            # resolved now: librdkafka would do it at its first fetch, and miss what is committed
            # until then
            positions |= bus.ends(rest, _LATEST if start == "end" else _EARLIEST)
        self._position: dict[tuple[str, int], int] = {pair: positions[pair] for pair in pairs}
        self._client = self._door.client = Consumer(
            self._door.config()
            | {
                "client.id": "esper-reader",
                "group.id": READER_GROUP,  # librdkafka asks for one; nothing joins or commits
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                # a position out of range is judged here: retention is passed over, another topic is
                # damage
                "auto.offset.reset": "error",
                # the end has no message: without it a position would stop before markers and
                # aborted frames
                "enable.partition.eof": True,
                "fetch.wait.max.ms": wait_ms,
                "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
                "queued.max.messages.kbytes": 32_768,
            }
        )
        self._client.assign(
            [
                TopicPartition(topic, number, offset)
                for (topic, number), offset in self._position.items()
            ]
        )

    def poll(self, max_messages: int, timeout: float) -> list[Received]:
        """As the port says."""
        # `consume` alone waits the whole time-out until all messages are there
        first = self._client.poll(timeout)
        if first is None:
            self._door.require()
            return []
        fetched: list[Any] = (
            [first, *self._client.consume(max_messages - 1, 0)] if max_messages > 1 else [first]
        )
        received = []
        for message in fetched:
            if error := message.error():
                self._heed(error, message)
                continue
            topic, number, offset = message.topic(), message.partition(), message.offset()
            headers = tuple(message.headers() or ()) if self._headers else ()
            value = self._incoming(message.value() or b"")
            received.append(
                Received(
                    topic,
                    number,
                    offset,
                    message.key(),
                    value,
                    headers,
                    message.timestamp()[1] * 1000,
                )
            )
            self._position[topic, number] = offset + 1
        if received:
            self._door.let_in()
        return received

    def position(self) -> dict[tuple[str, int], int]:
        """As the port says."""
        return dict(self._position)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """As the port says."""
        self._position[topic, partition] = offset
        # librdkafka's seek fails for a partition that is not being fetched yet; assigning anew
        # always works
        self._client.incremental_unassign([TopicPartition(topic, partition)])
        self._client.incremental_assign([TopicPartition(topic, partition, offset)])

    def stable_end(self) -> dict[tuple[str, int], int]:
        """As the port says."""
        return self._bus.ends(list(self._position), _LATEST)

    def log_end(self) -> dict[tuple[str, int], int]:
        """As the port says."""
        return self._bus.ends(list(self._position), _LATEST, committed=False)

    def close(self) -> None:
        """As the port says."""
        self._client.close()

    def _heed(self, error: KafkaError, message: Any) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001
            self._door.let_in()
            self._position[message.topic(), message.partition()] = message.offset()
        elif code == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            self._out_of_range(message.topic(), message.partition())
        elif code == KafkaError.GROUP_AUTHORIZATION_FAILED:
            _log.debug("no right to the group that librdkafka asks for: nothing joins it")
        elif code in FORBIDDEN:
            raise self._door.forbidden(error, f"read {message.topic()}")
        elif code in _GONE:
            raise UnavailableError(
                f"{message.topic()} cannot be read from Kafka at {self._bus.bootstrap}: "
                f"{error.str()}."
            )
        elif error.fatal():
            raise UnavailableError(
                f"Reading from Kafka at {self._bus.bootstrap} has ended: {error.str()}."
            )
        else:
            _log.info("reading goes on after: %s", error.str())

    def _out_of_range(self, topic: str, number: int) -> None:
        """What was deleted by retention is passed over.

        A position after the end belongs to another topic of that name.
        """
        position = self._position[topic, number]
        low = self._bus.ends([(topic, number)], _EARLIEST)[topic, number]
        # retention only removes the oldest, so a position above the beginning lies beyond the end
        if position > low:
            raise CorruptError(
                f"{topic}, partition {number}, ends before offset {position} that was read "
                "from it: the topic was deleted or made again; "
                "restore it, or start anew without the old position."
            )
        _log.warning(
            "%s, partition %d: offsets %d to %d were deleted by retention",
            topic,
            number,
            position,
            low - 1,
        )
        self.seek(topic, number, low)


def too_large_or(error: KafkaException, message: Message) -> EsperError:
    """The sentence for a message that librdkafka does not take."""
    if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return UsageError(
            f"A message of {len(message.value)} bytes for {message.topic} is larger than "
            f"the {MAX_MESSAGE_BYTES} that Kafka takes."
        )
    return UnavailableError(
        f"Kafka's client does not take a message for {message.topic}: {error.args[0].str()}."
    )
