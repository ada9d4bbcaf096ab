"""Fuzzing: mutated messages of every record on every topic, against all that consumers do with
them, in one process.

ESPER_FUZZ=100000 for the full length. Every message is taken or refused; what is refused is one
dead letter, and refused for what it says (`PoisonError`, or the sentence of a definition), never by
a fault in a consumer. Memory stays bounded.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import pytest

from esper.clock import ManualClock
from esper.errors import PoisonError
from esper.events import Event, decode
from esper.events.records import (
    AdaptationOutcome,
    DeadLettered,
    PerformanceDelta,
    SystemStatePacket,
)
from esper.kasmina.vetting import Vetting
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Received
from esper.oona.inbound.dead_letters import TOPIC, DeadLetters
from esper.oona.inbound.inbox import Delivered
from esper.oona.inbound.intake import Intake
from esper.tezzeret.report_ledger import ReportLedger
from esper.tolaria.control.run_status import RunStatus
from esper.tolaria.control.run_status import fold as told
from esper.tolaria.exchange.command_intake import commands_of
from esper.urza.catalogue import Catalogue
from esper.urza.metadata import metadata
from esper.urza.shelf import KernelShelf, Performances
from esper_processors.nissa.collectors import Collectors
from esper_processors.nissa.live import Live
from esper_processors.nissa.rows import RunRows, check
from esper_processors.nissa.scene import Scene
from esper_processors.nissa.status import status
from esper_processors.tamiyo import row as rows
from esper_processors.tamiyo import run_views
from esper_processors.tamiyo.answers import answer
from esper_processors.tamiyo.command_log import Commands
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.experience import Experience
from esper_processors.tamiyo.deciding.tracker import Tracker
from tests.attacks.poisoning import messages

COUNT = int(os.environ.get("ESPER_FUZZ", "2000"))
CLOCK = ManualClock(1_767_225_600_000_000)
NOW = CLOCK.now_us()
MORE_BYTES = 200 << 20
"""Most resident memory that the consumers may add: tables stand in dictionaries here, and on disk
in the parts.
"""
LETTER_BYTES = 3_000
"""What the bus in memory, which keeps everything, takes for a letter."""


@dataclass
class Everyone:
    """What every consumer does with an event, with its state."""

    table: dict[bytes, bytes] = field(default_factory=dict)
    runs: dict[bytes, bytes] = field(default_factory=dict)
    live: Live = field(default_factory=Live)
    ledger: ReportLedger = field(default_factory=ReportLedger)
    status: RunStatus = field(default_factory=lambda: RunStatus(run_id="r"))
    experience: Experience = field(default_factory=Experience)
    commands: Commands = field(default_factory=Commands)
    performances: Performances = field(default_factory=Performances)
    catalogue: Catalogue = field(default_factory=Catalogue)

    def nissa(self, event: Event) -> None:
        """Rows and telemetry, and what the API and Prometheus are shown of them."""
        nissa_rows = RunRows(self.table)
        before = dict(self.table)
        nissa_rows.take(event.TOPIC, event, 0)
        self.live.take(event.TOPIC, event, NOW)
        for key, value in self.table.items():
            if before.get(key) != value:
                check(key, value)

    def tamiyo(self, event: Event) -> None:
        """Answers, performance, experience, commands."""
        tracker = Tracker(self.runs, CLOCK)
        self.commands.take(event)
        if isinstance(event, SystemStatePacket):
            key = event.run_id.encode()
            reply = answer(
                rows.known(self.runs.get(key)) or rows.Row(), event, prior=self.prior, clock=CLOCK
            )
            for message in reply.messages:
                decode(message.value)
            if reply.row is not None:
                self.runs[key] = rows.encode(reply.row)
                row = rows.decode(self.runs[key])
                run_views.full(event.run_id, row, tracker.of(event.run_id))
                run_views.decisions({event.run_id: row}, limit=10)
                tracker.turn(event.run_id, [])
        elif isinstance(event, AdaptationOutcome):
            self.experience.take(event, at_us=NOW)
        elif isinstance(event, PerformanceDelta):
            tracker.take(event)
            tracker.of(event.run_id).as_json()

    def prior(self, context: str, packet: SystemStatePacket) -> Beta:
        """Experience of others."""
        return self.experience.prior(context, run_id=packet.run_id, now_us=packet.occurred_at)

    def foundry(self, event: Event) -> None:
        """The foundry's ledger, the catalogue as Urza shows it, and rewards."""
        self.ledger.apply(event)
        for entry in self.ledger.catalogue:
            metadata(entry, KernelShelf(catalogue=self.ledger.catalogue))
            break
        if isinstance(event, AdaptationOutcome):
            self.performances = self.performances.evolve(event)

    def tolaria(self, event: Event) -> None:
        """A run for people."""
        self.status = told(self.status, event)
        self.status.stages()

    def trainer(self, event: Event) -> None:
        """Commands for a run, from whatever its inbox delivers."""
        self.catalogue = Catalogue().evolve([event])
        vetting = Vetting(self.catalogue.kernels, {("first", 0): (40, 25, "")})
        list(commands_of(Delivered(event, ("t", 0, 0)), vetting=vetting, incarnation=0))


@pytest.mark.timeout(3_600)
def test_whatever_comes_is_taken_or_put_aside() -> None:
    """Every message against every consumer: refusals are for what the message says, one letter
    each, and all figures can still be shown.
    """
    process, bus, everyone = psutil.Process(), MemoryBus(), Everyone()
    before, refused = process.memory_info().rss, Counter[str]()
    acts: tuple[tuple[str, Callable[[Event], None]], ...] = (
        ("nissa", everyone.nissa),
        ("tamiyo", everyone.tamiyo),
        ("foundry", everyone.foundry),
        ("tolaria", everyone.tolaria),
        ("trainer", everyone.trainer),
    )
    put_aside = 0
    with bus.producer(sender_id="fuzz") as producer:
        totals = dict.fromkeys((name for name, _ in acts), 0)
        intakes = {name: Intake.of(DeadLetters(producer, name, CLOCK)) for name, _ in acts}
        for number, received in enumerate(messages(COUNT, seed=11)):
            for name, act in acts:
                intakes[name].take(received, act)
                put_aside += intakes[name].refusals.total > totals[name] and received.topic != TOPIC
                totals[name] = intakes[name].refusals.total
            if number % 1_000 == 999:
                shown(everyone)
        assert producer.flush(30) == 0
    assert letters(bus) == put_aside
    for name, intake in intakes.items():
        strange = {
            kind: count
            for kind, count in intake.refusals.counts.items()
            if kind[1] != PoisonError.__name__
        }
        assert not strange, (name, strange)
        refused[name] = intake.refusals.total
    assert len(set(refused.values())) == 1, (
        refused
    )  # the same messages, since no consumer refuses what can be decoded
    assert 0.2 * COUNT < refused["nissa"] < 0.9 * COUNT
    assert process.memory_info().rss - before < MORE_BYTES + put_aside * LETTER_BYTES
    shown(everyone)


def letters(bus: MemoryBus) -> int:
    """Letters on the bus; each has an id of its own."""
    found, count = set[str](), 0
    with bus.reader([TOPIC], start="beginning") as reader:
        ends = reader.stable_end()
        while reader.position() != ends:
            for received in reader.poll(10_000, 0.1):
                letter = decode(received.value)
                assert isinstance(letter, DeadLettered)
                found.add(letter.event_id)
                count += 1
    assert len(found) == count
    return count


def shown(everyone: Everyone) -> None:
    """What people and Prometheus are shown."""
    nissa_rows = RunRows(everyone.table)
    scene = Scene(
        nissa_rows.runs(), nissa_rows.builds(), everyone.live, NOW, 1.0, 0, {}, nissa_rows.series()
    )
    collectors = Collectors()
    assert collectors.exposition(scene)
    assert not collectors.failures
    assert status(scene, samples=3)
    everyone.live.sample(scene.runs, NOW)
    assert all(
        attempt.as_json()["decision_id"] == attempt.decision_id for attempt in nissa_rows.attempts()
    )


@pytest.mark.timeout(3_600)
def test_random_bytes_are_no_definitions() -> None:
    """Nissa's own topic: whatever is on it, a definition is taken or refused by name."""
    from esper_processors.nissa import custom  # noqa: PLC0415  # beside what it tests

    draw = random.Random(5)  # noqa: S311  # data for a test
    good = custom.encode(custom.Definition(name="a", kind="gauge", help="h", labels=("x",)))
    known: dict[str, custom.Definition] = {}
    bus = MemoryBus()
    with bus.producer(sender_id="fuzz") as producer:
        intake = Intake.of(DeadLetters(producer, "nissa", CLOCK))
        for number in range(COUNT // 2):
            value = bytearray(good)
            for _ in range(draw.randrange(4)):
                value[draw.randrange(len(value))] = draw.randrange(256)
            received = Received("esper-nissa-definitions", 0, number, b"a", bytes(value), (), 0)

            def learn(value: bytes = received.value) -> None:
                definition = custom.decode(value)
                if custom.declare(definition, known):
                    known[definition.name] = definition

            intake.handle(received, learn)
    assert {kind for _, kind in intake.refusals.counts} <= {
        "ValidationError",
        "UsageError",
        "RejectedError",
    }
    assert known
