"""A run on a cluster of three brokers with SASL_SSL, ACLs and a registry of others, which loses
brokers, leaders, certificates and passwords.

ESPER_CHAOS_CLUSTER=N has the faults come N times over, in an order that ESPER_CHAOS_SEED chooses.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
from confluent_kafka import Consumer

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.codec import decode
from esper.events.envelope import JournalEvent
from esper.events.schemas import wire_schemas
from esper.events.topics import TOPICS
from esper.history.queries import HttpSource, wait_caught_up
from esper.history.tables.ddl import snake
from esper.journal.reading import from_kafka
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.wire import frames_of
from esper.oona.inbound.count import committed
from esper.stack import Endpoints, running
from tests.clusters.commands import esper, refusal, said
from tests.clusters.kafkacluster import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.variant,
]

CLOCK: Final = SystemClock()
ROUNDS: Final = int(os.environ.get("ESPER_CHAOS_CLUSTER", "1"))
SEED: Final = int(os.environ.get("ESPER_CHAOS_SEED", "1"))
RECIPE: Final = (
    "run",
    "digits",
    "--json",
    "--set",
    "decisions=lockstep",
    "--set",
    f"run.epochs={150 * ROUNDS}",
    "--set",
    "run.seed=3",
)
READY_S: Final = "120"
PATIENCE_S: Final = 600.0


@dataclass
class Place:
    """An installation whose stack is up, on the cluster and with the registry."""

    home: Path
    environment: Mapping[str, str]
    passwords: Path
    settings: Settings

    @property
    def endpoints(self) -> Endpoints:
        """Where its parts answer."""
        found = running(self.settings)
        assert found is not None
        return found

    def bus(self, principal: str = "viewer") -> KafkaBus:
        """The cluster as a principal sees it."""
        return KafkaBus(Access.of(self.settings, principal), patience=30.0)


@pytest.fixture(scope="module")
def place(
    cluster: Cluster, passwords: Path, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A stack on the cluster; its parts come up while nothing is wrong yet."""
    home = tmp_path_factory.mktemp("home")
    environment = {**cluster.parts(passwords), "ESPER_REGISTRY__URL": registry}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "ESPER_HOME": str(home)}.items():
            patch.setenv(name, value)
        settings = Settings.load()
    done = esper(home, environment, "up", "--wait", READY_S, timeout=300)
    assert done.returncode == 0, done.stderr
    yield Place(home, environment, passwords, settings)
    esper(home, environment, "down")


@dataclass
class Trainer:
    """The trainer of one run, in the lives that it takes."""

    place: Place
    run_id: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def out(self) -> Path:
        """What its present life says."""
        return self.place.home / f"{self.run_id}.out"

    def begin(self, *arguments: str) -> None:
        """Begin the run, or its next life."""
        command = [sys.executable, "-m", "esper.cli", *arguments, "--run-id", self.run_id]
        environment = {**os.environ, **self.place.environment, "ESPER_HOME": str(self.place.home)}
        with self.out.open("wb") as out, self.out.with_suffix(".err").open("ab") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    @property
    def over(self) -> bool:
        """Whether its present life has ended."""
        assert self.process is not None
        return self.process.poll() is not None

    def frames(self) -> int:
        """Bytes of its journal so far."""
        folder = self.place.home / "runs" / self.run_id / "outbox"
        return (
            sum(path.stat().st_size for path in folder.glob("*.frames")) if folder.is_dir() else 0
        )

    def goes_on(self) -> None:
        """Wait until it has written something more, or has ended."""
        before = self.frames()
        self.wait(lambda: self.over or self.frames() > before, "a step more")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        deadline = CLOCK.monotonic() + PATIENCE_S
        while not condition():
            told = self.out.with_suffix(".err").read_text(errors="replace")[-3_000:]
            assert CLOCK.monotonic() < deadline, (
                f"{self.run_id}: no {what} in {PATIENCE_S:.0f} s: {told}"
            )
            CLOCK.sleep(0.1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspended, while the cluster takes its time to become whole: longer than a transaction
        may take.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, if it lives."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    def end(self) -> dict[str, Any]:
        """What it says at its end."""
        self.wait(lambda: self.over, "end")
        assert self.process is not None
        assert self.process.returncode == 0, self.out.with_suffix(".err").read_text()[-3_000:]
        found: dict[str, Any] = json.loads(self.out.read_text().splitlines()[-1])
        return found


@dataclass
class Faults:
    """What befalls the cluster while the run trains.

    Each fault is over when it returns, and the cluster whole.
    """

    cluster: Cluster
    place: Place
    trainer: Trainer
    chance: random.Random
    befallen: list[str]

    def broker_killed(self) -> None:
        """A broker dies, its leaders move, and it comes back."""
        node = self.chance.choice((1, 2, 3))
        self.cluster.kill(node)
        # what takes the cluster time takes the run no steps: it is not over before all has befallen
        # it
        with self.trainer.paused():
            self.cluster.until(lambda: node not in self.cluster.leaders().values(), "other leaders")
        self.trainer.goes_on()
        self.whole_again(node)

    def whole_again(self, *nodes: int) -> None:
        """Brokers come back, the trainer being suspended."""
        with self.trainer.paused():
            self.cluster.start(*nodes)
            self.cluster.settled()

    def leader_moved(self) -> None:
        """Leaders move between brokers that all live."""
        self.befallen[-1] += f" ({self.cluster.back_to_preferred()} partitions)"

    def password_rotated(self) -> None:
        """The trainer's and Tamiyo's passwords change at the brokers, a moment later in their
        files, and every connection to one broker breaks.
        """
        for name in ("trainer", "tamiyo"):
            new = secrets.token_urlsafe(24)
            self.cluster.credential(name, new)
            path = self.place.passwords / f"{name}.password"
            path.with_suffix(".new").write_text(new)
            path.with_suffix(".new").replace(path)
        self.broker_killed()

    def certificate_expired(self) -> None:
        """A broker comes back with a certificate that has expired, and leads partitions that no
        client reaches, until it has a good one.
        """
        node = self.chance.choice((1, 2, 3))
        self.cluster.certificate(node, expired=True)
        self.cluster.kill(node)
        self.whole_again(node)
        with self.trainer.paused():
            self.cluster.until(lambda: "expired" in self.cluster.shown(node), "expired certificate")
        self.cluster.back_to_preferred()
        self.cluster.until(
            lambda: node in self.cluster.leaders().values(), "partitions that this broker leads"
        )
        self.cluster.certificate(node)
        self.cluster.until(lambda: not self.cluster.shown(node), "good certificate")

    def no_leader(self) -> None:
        """Every broker dies, one after the other.

        Two come back, which lack what the last one has: no partition has a leader until it is
        there.
        """
        first, second, last = self.chance.sample((1, 2, 3), 3)
        self.cluster.kill(first)
        with self.trainer.paused():
            self.cluster.until(
                lambda: first not in self.cluster.leaders().values(), "leaders beside the first"
            )
        self.trainer.goes_on()
        self.cluster.kill(second)
        self.cluster.until(
            lambda: set(self.cluster.leaders().values()) == {last}, "one leader of all"
        )
        self.cluster.kill(last)
        self.cluster.start(first, second)
        self.cluster.until(lambda: self.cluster.present() == {first, second}, "two brokers")
        assert -1 in self.cluster.leaders().values()
        self.whole_again(last)

    def trainer_killed(self) -> None:
        """The trainer dies, and goes on with --resume."""
        if not self.trainer.over:
            self.trainer.kill()
            self.trainer.begin("run", "digits", "--json", "--resume")

    def all(self, rounds: int) -> None:
        """Each fault once a round, the run going on in between."""
        kinds = [
            self.broker_killed,
            self.leader_moved,
            self.password_rotated,
            self.certificate_expired,
            self.no_leader,
            self.trainer_killed,
        ]
        for number in range(rounds):
            if number:
                self.chance.shuffle(kinds)
            for fault in kinds:
                self.trainer.goes_on()
                self.befallen.append(
                    fault.__name__ + (" after the end" if self.trainer.over else "")
                )
                fault()


def test_a_run_on_a_cluster_that_fails_in_every_way_is_the_run_that_nobody_disturbed(
    cluster: Cluster, place: Place, registry: str
) -> None:
    """A broker killed, leaders moved, partitions without a leader, an expired certificate, rotated
    passwords, the trainer killed: the same digest.

    The journal is gapless, nothing is in Kafka or the history twice, the fold and a re-execution of
    the record agree, SQL sees all of it, and the frames on Kafka are those of the registry.
    """
    befallen: list[str] = []
    with Trainer(place, "quiet") as quiet, Trainer(place, "hurt") as hurt:
        quiet.begin(*RECIPE)
        digest = quiet.end()["digest"]
        hurt.begin(*RECIPE)
        hurt.wait(lambda: hurt.over or hurt.frames() > 2_000, "first steps")
        Faults(cluster, place, hurt, random.Random(SEED), befallen).all(ROUNDS)  # noqa: S311 - a repeatable order of faults
        assert not [one for one in befallen if "after the end" in one], befallen
        assert hurt.end()["digest"] == digest, befallen
    journal = [
        decode(one.value)
        for one in from_kafka(Access.of(place.settings, "viewer"), "hurt", clock=CLOCK)
    ]
    assert [event.sequence for event in journal if isinstance(event, JournalEvent)] == list(
        range(len(journal))
    )
    assert len({event.event_id for event in journal}) == len(journal)
    folded = said(esper(place.home, place.environment, "replay", "fold", "hurt", "--json"))
    assert folded["equals_live"] is True
    verified = esper(
        place.home, place.environment, "replay", "verify", "hurt", "--json", timeout=300
    )
    assert verified.returncode == 0, (verified.stdout, verified.stderr)
    _counted_once(place)
    _framed_by_the_registry(cluster, place, registry, "hurt")


def _counted_once(place: Place) -> None:
    """The history has every message of Kafka once, and no event twice."""
    bus, url = place.bus(), place.endpoints.history_url
    assert wait_caught_up(url, bus, timeout=120, settings=place.settings)
    counted, source = committed(bus, list(TOPICS)), HttpSource(url, place.settings)
    for name, topic in TOPICS.items():
        tables = [snake(record) for record in topic.records]
        raw = sum(int(source.ask(f"SELECT count() FROM raw_{table}", "TSV")) for table in tables)  # noqa: S608 - names of ours
        assert raw == counted[name], name
        for table in tables:
            assert (
                source.ask(
                    f"SELECT event_id FROM {table} GROUP BY event_id HAVING count() > 1",  # noqa: S608 - the same
                    "TSV",
                )
                == b""
            ), table
    rows = esper(
        place.home,
        place.environment,
        "sql",
        "SELECT count() AS n FROM epoch_ended WHERE run_id = 'hurt'",
        "--json",
    )
    assert rows.returncode == 0, rows.stderr
    assert int(json.loads(rows.stdout)[0]["n"]) >= 6


def _framed_by_the_registry(cluster: Cluster, place: Place, registry: str, run_id: str) -> None:
    """A client that knows the registry alone finds the schema of each message by the id in its
    frame, and Esper's own ids are in none.
    """
    consumer = Consumer(
        {
            **cluster.client("viewer"),
            "group.id": "viewer-test",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["system.events.run", "decision.tamiyo", "telemetry.training.step"])
    heads: dict[int, str] = {}
    deadline = CLOCK.monotonic() + 60
    while {"system.events.run", "decision.tamiyo", "telemetry.training.step"} - set(
        heads.values()
    ) and CLOCK.monotonic() < deadline:
        for message in consumer.consume(500, 1.0):
            value, topic = message.value(), message.topic()
            if (
                message.error() is None
                and message.key() == run_id.encode()
                and value is not None
                and topic is not None
            ):
                heads[int.from_bytes(value[1:5], "big")] = topic
    consumer.close()
    assert set(heads.values()) == {
        "system.events.run",
        "decision.tamiyo",
        "telemetry.training.step",
    }
    assert not heads.keys() & wire_schemas().keys()
    frames = frames_of(place.settings)
    for number, topic in heads.items():
        with urllib.request.urlopen(f"{registry}/schemas/ids/{number}", timeout=30) as answer:  # noqa: S310 - ours
            name = json.loads(json.load(answer)["schema"])["name"]
        assert name in TOPICS[topic].records
        assert (
            int.from_bytes(frames.incoming(b"\0" + number.to_bytes(4, "big"))[1:], "big")
            in wire_schemas()
        )


def test_a_principal_without_rights_cannot_train_and_reads_why(
    cluster: Cluster, passwords: Path, registry: str, tmp_path: Path
) -> None:
    """Who comes as a viewer for everything is told in one sentence what is not allowed and how to
    get it.
    """
    environment = {**cluster.parts(passwords, user="viewer"), "ESPER_REGISTRY__URL": registry}
    sentence = refusal(
        esper(tmp_path / "home", environment, "run", "digits", "--set", "run.epochs=1", timeout=200)
    )
    assert "viewer" in sentence
    assert "esper topics apply" in sentence
