"""An attack on a whole stack while a run trains: messages, queries, requests and exports at once,
each a bounded number of times.

What each consumer owes for a message is said here, from `schemas/topics.toml` and from what the
consumers say that they look at.
"""

# ruff: noqa: S311 - a seeded generator is what repeats
from __future__ import annotations

import http.client
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import psutil
from confluent_kafka import Producer

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import Event, decode
from esper.events.codec import frame, schema_id
from esper.events.records import (
    RECORDS,
    AdaptationOutcome,
    DeadLettered,
    EpochReviewed,
    FieldReport,
    PerformanceDelta,
    RunStarted,
    SystemStatePacket,
)
from esper.events.schemas import current, wire_schema
from esper.events.seals import Trust
from esper.events.topics import TOPICS
from esper.history.queries import HttpSource, wait_caught_up
from esper.history.tables.ddl import snake
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.partitioner import partition
from esper.oona.bus.port import Reader, Received
from esper.oona.bus.rights import AUDIT, OWNER
from esper.oona.inbound.count import committed
from esper.oona.inbound.intake import opened, require_author
from esper.service.transport import signing
from esper.stack.processes.stack_state import StackState
from esper_processors.tamiyo import command_log as orders
from tests import commands
from tests.attacks.fuzzing_exports import CHANGES, SECRET, Ground
from tests.attacks.hostile import Real, copy_of
from tests.attacks.poisoning import broken, examples, extreme, messages
from tests.attacks.test_history_fuzz import parameters, query
from tests.attacks.test_servers_http import QUIET_S, answers, mutated, shapes
from tests.servicefixtures import bearer, token
from tests.stackfixtures import access, family
from tests.waiting import PATIENCE_S, until

CLOCK: Final = SystemClock()
Place = tuple[str, int, int]
"""Topic, partition and offset of a message."""
DECISIONS: Final = AdaptationOutcome.TOPIC
LETTERS: Final = DeadLettered.TOPIC
SIGNED: Final = frozenset({RunStarted.TOPIC, DECISIONS})
"""Topics on which nobody is believed without a signature, so that anything at all may be written
under a run's key.
"""
_READ: Final = {
    part: {name for name, topic in TOPICS.items() if part in topic.readers} - {AUDIT}
    for part in ("nissa", "foundry", "tolaria")
}
WHOLE: Final[Mapping[str, set[str]]] = {
    **_READ,
    "foundry": _READ["foundry"] - {DECISIONS},  # which its other consumer reads, that is named urza
    "tamiyo": {SystemStatePacket.TOPIC, PerformanceDelta.TOPIC},
}
"""Topics of which a consumer opens every message.

Audit trails are read by nobody but the history while a part runs.
"""
CHOOSY: Final[tuple[tuple[str, str, tuple[type[Event], ...]], ...]] = (
    ("urza", DECISIONS, (AdaptationOutcome,)),
    ("tamiyo", DECISIONS, (AdaptationOutcome,)),
    *(("tamiyo", topic, orders.RECORDS) for topic in orders.TOPICS),
)
"""Topics of which a consumer opens some records, and passes over the others by their schema's id.
"""
REPORTS: Final = 4
"""Field reports that can be decoded are no bad messages but minutes of work for the foundry: so
many are sent.
"""
_UNLISTED: Final = (
    "readonly",
    "allow_ddl",
    "max_memory_usage",
    "session_timezone",
    "allow_introspection_functions",
    "profile",
    "user_files",
)
_SEALED: Final = (b"root:x", b"PRIVATE KEY", SECRET.encode())
_BATCHES: Final = 100
_PAUSE_S: Final = 0.1
_AIMED: Final = 0.1


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of each kind."""

    messages: int
    queries: int
    requests: int
    exports: int

    @classmethod
    def of(cls, count: int) -> Amounts:
        """The kinds in proportion: an import takes as long as a thousand messages."""
        return cls(
            max(count, 200), max(count // 20, 50), max(count // 20, 50), max(count // 1_000, 3)
        )


def believed(received: Received, trust: Trust) -> bool:
    """Whether a message can be opened, and is by whom it should be."""
    try:
        require_author(opened(received), received, trust)
    except PoisonError:
        return False
    return True


def due(received: Received, trust: Trust) -> frozenset[str]:
    """The consumers that owe exactly one letter about a message.

    Others owe at most one, and nobody owes any about letters.
    """
    if received.topic == LETTERS:
        return frozenset()
    try:
        record: type[Event] | None = wire_schema(schema_id(received.value)).record
    except PoisonError:
        record = None
    bad = not believed(received, trust)
    found = {part for part, topics in WHOLE.items() if bad and received.topic in topics}
    found |= {
        part
        for part, topic, records in CHOOSY
        if topic == received.topic and (record is None or (bad and record in records))
    }
    return frozenset(
        found | ({"history"} if record is None or received.topic != record.TOPIC else set())
    )


@dataclass
class Siege:
    """The attack.

    `run_id` is the run that trains beside it and may change; `sent` has what the consumers owe for
    each message at its place.
    """

    settings: Settings
    stack: StackState
    real: Real
    folder: Path
    amounts: Amounts
    seed: int
    run_id: str = ""
    sent: dict[Place, frozenset[str]] = field(default_factory=dict)
    aimed: dict[Place, str] = field(default_factory=dict)
    """Those under the key of a run that trains, with the run."""
    failed: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    """What `esper import` said about each export; empty where it took it."""
    _reports: int = 0

    def begin(self, pool: ThreadPoolExecutor) -> list[Future[None]]:
        """All kinds at once."""
        return [pool.submit(act) for act in (self.write, self.ask, self.knock, self.bring)]

    # Messages

    def write(self) -> None:
        """Mutated messages of every record on every topic, as the super user.

        One in ten under the key of the run.
        """
        trust = signing.trust(self.settings.keys_dir)
        producer, draw = (
            Producer(access(self.settings, OWNER).librdkafka()),
            random.Random(f"{self.seed} messages"),
        )
        records = [record for record in RECORDS if record.KEY == "run_id"]
        bases = {
            record: datum
            for record, datum in zip(RECORDS, examples(), strict=True)
            if record in records
        }
        batch = max(self.amounts.messages // _BATCHES, 10)
        for number, received in enumerate(messages(self.amounts.messages, self.seed)):
            run_id = self.run_id if draw.random() < _AIMED else ""
            one = self._aimed(bases, draw) if run_id else self._bounded(received, trust)
            note = partial(self._delivered, due(one, trust), run_id)
            producer.produce(
                one.topic, one.value, one.key, partition=one.partition, on_delivery=note
            )
            if number % batch == batch - 1:
                assert producer.flush(PATIENCE_S) == 0
                CLOCK.sleep(_PAUSE_S)
        assert producer.flush(PATIENCE_S) == 0

    def _aimed(self, bases: Mapping[type[Event], dict[str, Any]], draw: random.Random) -> Received:
        """A message under the run's key that none may believe: else it would be an order to the
        run, and no bad message.
        """
        key = self.run_id.encode()
        while True:
            record, datum = draw.choice([*bases.items()])
            mine = {**datum, "run_id": self.run_id}
            value = (
                extreme(record, mine, draw)
                if draw.random() < 0.5
                else broken(frame(mine, current(record)), draw)
            )
            made = Received(
                record.TOPIC, partition(key, TOPICS[record.TOPIC].partitions), 0, key, value, (), 0
            )
            if record.TOPIC in SIGNED or not believed(made, Trust()):
                return made

    def _bounded(self, received: Received, trust: Trust) -> Received:
        if (
            received.topic == FieldReport.TOPIC
            and believed(received, trust)
            and isinstance(decode(received.value), FieldReport)
        ):
            self._reports += 1
            if self._reports > REPORTS:
                return received._replace(value=received.value[:-1])
        return received

    def _delivered(self, owed: frozenset[str], run_id: str, error: object, message: Any) -> None:
        if error is not None:
            self.failed.append(str(error))
            return
        place = (message.topic(), message.partition(), message.offset())
        self.sent[place] = owed
        if run_id:
            self.aimed[place] = run_id

    # Queries and requests

    def ask(self) -> None:
        """Queries and settings of the grammar, as a viewer over HTTP: each has an answer with
        ClickHouse's code, and none has a secret in it.
        """
        draw, port = random.Random(f"{self.seed} queries"), self._port("history")
        secrets = [
            str(path) for path in sorted(self.settings.keys_dir.rglob("*")) if path.is_file()
        ]
        secrets += ["/etc/passwd", str(self.folder / "x"), f"http://127.0.0.1:{port}/ping"]
        headers = bearer(token(self.settings, CLOCK))
        for _ in range(self.amounts.queries):
            secret = draw.choice(secrets)
            text, given = (
                query(draw, secret),
                {"max_execution_time": "1", **parameters(draw, _UNLISTED, secret)},
            )
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            try:
                connection.request("POST", f"/?{urlencode(given)}", text.encode(), headers)
                answer = connection.getresponse()
                body = answer.read()
            finally:
                connection.close()
            self.answered[f"query {answer.status}"] += 1
            assert answer.status == 200 or answer.getheader("x-clickhouse-exception-code"), (
                text,
                given,
                answer.status,
                body[:500],
            )
            assert not any(sealed in body for sealed in _SEALED), (text, given)

    def knock(self) -> None:
        """Malformed requests to the port of every part, the broker's too: each is refused or the
        connection is closed.
        """
        draw, seeds = (
            random.Random(f"{self.seed} requests"),
            [*shapes("/api/v1/nothing", "no.valid.token").values()],
        )
        ports = [(part.name, part.port) for part in self.stack.parts if part.port]
        for number in range(self.amounts.requests):
            name, port = ports[number % len(ports)]
            sent = mutated(draw, seeds)
            found = answers(port, sent, QUIET_S)
            self.answered.update(f"request {status}" for status in found)
            assert all(400 <= status < 500 for status in found), (name, number, found, sent[:2_000])

    def _port(self, name: str) -> int:
        part = self.stack.part(name)
        assert part is not None
        return part.port

    # Exports

    def bring(self) -> None:
        """Hostile exports, through `esper import` into this installation: each is taken or refused
        in a sentence.
        """
        work = self.folder / "exports"
        work.mkdir()
        (work / "secret").write_text(SECRET)
        for number in range(self.amounts.exports):
            ground, hostile = (
                Ground(self.real.export, work, random.Random(f"{self.seed} export {number}")),
                work / "hostile",
            )
            copy_of(self.real.export, hostile)
            draw = random.Random(f"{self.seed} change {number}")
            CHANGES[draw.randrange(len(CHANGES))](ground, hostile)
            done = commands.run(
                "import",
                hostile,
                "--passphrase-file",
                self.real.secret,
                environment=self.environment(),
            )
            said = done.stderr.strip().splitlines()
            assert done.returncode == 0 or said[-1].startswith("esper: "), done.stderr[-2_000:]
            assert "Traceback" not in done.stderr
            assert SECRET not in done.stderr + done.stdout
            self.refused.append(said[-1] if done.returncode else "")
            for left in (hostile, work / "moved"):
                shutil.rmtree(left, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """That of a command in this home."""
        return environment(self.settings.home)


def environment(home: Path) -> dict[str, str]:
    """That of a command in a home, with nothing of the caller's settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ESPER_")}
    return {**own, "ESPER_HOME": str(home), "COLUMNS": "1000"}


# What is watched meanwhile, and afterwards


def held(stack: StackState) -> dict[str, int]:
    """Resident bytes of each part with its children."""
    found = {}
    for part in stack.parts:
        assert part.process is not None, part
        found[part.name] = sum(_resident(one) for one in family(part.process.pid))
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # a child that has just ended
        return 0


@contextmanager
def watched(stack: StackState) -> Iterator[dict[str, int]]:
    """The most that each part holds at once while this lasts, looked at twice a second."""
    most, over = held(stack), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for name, size in held(stack).items():
                most[name] = max(most[name], size)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield most
        finally:
            over.set()
            looking.result()


class Letters:
    """Every letter on `dead.letters` but those that an attacker wrote: `counts` by consumer and
    place of the message that it is about.
    """

    def __init__(self, reader: Reader, forged: Collection[Place]) -> None:
        self.counts: Counter[tuple[str, Place]] = Counter()
        self._reader = reader
        self._forged = forged

    def read(self) -> None:
        """Up to where the topic ends now."""
        ends = self._reader.stable_end()
        while any(self._reader.position()[place] < end for place, end in ends.items()):
            for received in self._reader.poll(10_000, 0.1):
                if received[:3] not in self._forged:
                    letter = decode(received.value)
                    assert isinstance(letter, DeadLettered)
                    about = (letter.source_topic, letter.source_partition, letter.source_offset)
                    self.counts[letter.consumer, about] += 1


def decided(bus: KafkaBus, run_id: str, trust: Trust) -> list[Place]:
    """Where Tamiyo's reviews of a run stand, in order.

    Its trainer has waited for each of them, so it has read all that stands before the last.
    """
    key, found = run_id.encode(), list[Place]()
    with bus.reader([DECISIONS], start="beginning") as reader:
        ends = reader.stable_end()
        while any(reader.position()[place] < end for place, end in ends.items()):
            mine = [
                received
                for received in reader.poll(10_000, 0.1)
                if received.key == key and believed(received, trust)
            ]
            found += [
                received[:3]
                for received in mine
                if isinstance(decode(received.value), EpochReviewed)
            ]
    return sorted(found)


def kept_once(
    settings: Settings, history_url: str, letters: Letters, sent: Collection[Place]
) -> None:
    """That the history has each message of Kafka as one row or as one letter of its own, and shows
    no event twice.
    """
    bus, source = KafkaBus(access(settings)), HttpSource(history_url, settings)
    assert wait_caught_up(history_url, bus, timeout=PATIENCE_S, settings=settings)
    for name, topic in TOPICS.items():
        tables, seen = [snake(record) for record in topic.records], [0, 0, 0]

        def equal(name: str = name, tables: list[str] = tables, seen: list[int] = seen) -> bool:
            letters.read()
            seen[0] = sum(
                int(source.ask(f"SELECT count() FROM raw_{table}", "TSV"))  # noqa: S608
                for table in tables
            )
            seen[1] = sum(
                consumer == "history" and place[0] == name for consumer, place in letters.counts
            )
            seen[2] = committed(bus, [name])[name]
            silent = (
                sum(place[0] == name for place in sent) if name == LETTERS else 0
            )  # what is no letter there, has none
            return seen[2] - silent <= seen[0] + seen[1] <= seen[2]

        until(
            equal,
            lambda name=name, seen=seen: (  # type: ignore[misc]
                f"{name}: {seen[0]} rows and {seen[1]} letters of {seen[2]} messages"
            ),
        )
        by = "run_id, event_id" if topic.key == "run_id" else "event_id"
        for table in tables:
            assert (
                source.ask(f"SELECT event_id FROM {table} GROUP BY {by} HAVING count() > 1", "TSV")  # noqa: S608
                == b""
            ), table
