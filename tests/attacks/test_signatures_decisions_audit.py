"""Attack: whoever may write to Kafka forges Tamiyo's decisions and outcomes, and records of the
audit log.

Expected: the trainer takes Tamiyo's own decisions alone; an outcome of nobody's teaches nothing;
`esper audit-log verify` names each forged record, and the chain goes on without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import Event, decode, encode
from esper.events.codec import Message
from esper.events.records import AdaptationOutcome, AuditRecorded, EpochReviewed
from esper.events.seals import TAMIYO, TRAINER, Signer
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.audit_trail import AuditTrail
from esper.oona.durable.chains import _Walk
from esper.oona.durable.journal_reader import read_key
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.inbox import Inbox
from esper.oona.inbound.intake import require_author
from esper.service.checks.audit_entries import PENDING, AuditEntry, Link, chained
from esper.service.transport import signing
from esper_processors.tamiyo.app import _learn
from esper_processors.tamiyo.deciding.experience import Experience
from tests.forging import any_event, new_id
from tests.stackfixtures import eventually

CLOCK = SystemClock()
SECOND_US = 1_000_000
pytestmark = pytest.mark.slow
MALLORY = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def write(bus: Bus, *messages: Message) -> None:
    with bus.producer(sender_id="mallory") as producer:
        for message in messages:
            producer.send_message(message)
        assert producer.flush(30) == 0


def test_a_trainer_takes_tamiyos_own_decisions_alone(tmp_path: Path, broker: str) -> None:
    """Unsigned, of another key, of the trainer's key, changed, and an authentic one of another run:
    dead letters. The real one, even with a forged twin of its id before it, arrives.
    """
    run, bus = "decided-1", KafkaBus(broker)
    signing.ensure_all(tmp_path, CLOCK)
    tamiyo, trainer = (
        signing.ensure(tmp_path, TAMIYO, CLOCK),
        signing.ensure(tmp_path, TRAINER, CLOCK),
    )
    review = any_event(EpochReviewed, run_id=run, event_id=new_id(), packet=3)
    real = tamiyo.seal(review)
    signed = decode(real.value)
    assert isinstance(signed, EpochReviewed)
    elsewhere = tamiyo.seal(replace(review, run_id="decided-2", event_id=new_id()))
    forgeries = [
        encode(review),
        MALLORY.seal(review),
        trainer.seal(review),
        encode(replace(signed, packet=10**6)),
        elsewhere._replace(key=run.encode()),
        encode(any_event(AdaptationOutcome, run_id=run, event_id=new_id())),
    ]
    with bus.producer(sender_id="trainer") as producer:
        start = {(topic, number): 0 for topic in (EpochReviewed.TOPIC,) for number in range(4)}
        inbox = Inbox(
            bus,
            run,
            start=start,
            clock=CLOCK,
            dead_letters=DeadLetters(producer, "trainer", CLOCK),
            topics=[EpochReviewed.TOPIC],
            trust=signing.trust(tmp_path),
        )
        write(bus, *forgeries, real, real)
        inbox.start()
        assert eventually(lambda: inbox.dropped["known"] == 1, 60)
        inbox.stop()
        heard = [one.event for one in inbox.take()]
    assert heard == [signed]
    assert inbox.dropped["forged"] == len(forgeries)
    warned = inbox.take_warnings()
    assert (
        "EpochReviewed of run decided-1 is not by its tamiyo: it is not signed, and tamiyo "
        "signs. It is set aside."
    ) in warned[0]
    assert len(warned) == 5


def test_an_outcome_of_nobodys_teaches_nothing(tmp_path: Path) -> None:
    """One forged reward of -1e6 stopped growth for 84 days: unsigned, or by a key that is not
    Tamiyo's, it is left out.
    """
    tamiyo = signing.ensure(tmp_path, TAMIYO, CLOCK)
    trust, experience = signing.trust(tmp_path), Experience()
    outcome = any_event(
        AdaptationOutcome,
        run_id="r",
        event_id=new_id(),
        decision_id="d",
        context="c",
        reward=0.5,
        occurred_at=CLOCK.now_us(),
    )
    before = experience.prior("c", run_id="other", now_us=CLOCK.now_us())

    def opened(received: Received) -> Event:
        event = decode(received.value)
        require_author(event, received, trust)
        return event

    def received(message: Message) -> Received:
        return Received(
            message.topic, 0, 0, message.key, message.value, (), CLOCK.now_us() + SECOND_US
        )

    for message in (
        encode(outcome),
        MALLORY.seal(outcome),
        encode(replace(outcome, signer=tamiyo.key, signature="A" * 86)),
    ):
        with pytest.raises(PoisonError, match="AdaptationOutcome of run r is not by its tamiyo: "):
            _learn(experience, received(message), opened)
    assert experience.prior("c", run_id="other", now_us=CLOCK.now_us()) == before
    _learn(experience, received(tamiyo.seal(outcome)), opened)
    assert experience.prior("c", run_id="other", now_us=CLOCK.now_us()) != before


class Audited:
    """A part's trail on a real broker, and its installation."""

    def __init__(self, home: Path, broker: str, sender: str) -> None:
        self.home, self.broker, self.sender = home, broker, sender
        self.settings = Settings(home=home)
        self.bus = KafkaBus(broker)

    def asks(self, *names: str) -> None:
        """Requests that the part answers, each in a life of its own."""
        for name in names:
            folder = self.settings.audit_dir
            with AuditTrail(
                self.bus,
                sender_id=self.sender,
                clock=CLOCK,
                folder=folder,
                keys=self.settings.keys_dir,
            ) as trail:
                entry = entry_of(name)
                trail(entry)
                trail(replace(entry, status=202))

    def records(self) -> list[AuditRecorded]:
        found = [
            decode(one.value)
            for one in read_key(
                self.bus, AuditRecorded.TOPIC, self.sender, what="The trail", clock=CLOCK
            )
        ]
        return [one for one in found if isinstance(one, AuditRecorded)]

    def verified(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, this sender's chain, and the sentence of `esper audit-log verify`."""
        environment = {
            **os.environ,
            "ESPER_HOME": str(self.home),
            "ESPER_KAFKA__BOOTSTRAP": self.broker,
        }
        command = [sys.executable, "-m", "esper.cli", "audit-log", "verify", "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env=environment
        )
        (chain,) = [
            one for one in json.loads(done.stdout)["chains"] if one["sender"] == self.sender
        ]
        return done.returncode, chain, done.stderr


def entry_of(name: str) -> AuditEntry:
    return AuditEntry(
        id=name,
        actor="alice",
        role="admin",
        action="POST /api/v1/runs",
        resource="/api/v1/runs",
        status=PENDING,
        detail="",
        run_id="",
        trace_id="0" * 32,
    )


def test_forged_audit_records_are_named_and_the_chain_goes_on(tmp_path: Path, broker: str) -> None:
    """`attack.py audit-forge`: a record that follows the chain's head.

    Also by another key, under a made-up sender, and a copy. What is real is proven on.
    """
    here = Audited(tmp_path, broker, "tolaria")
    here.asks("one", "two")
    last = here.records()[-1]
    forged = chained(
        entry_of("forged"),
        Link(last.chain, last.hash),
        sender_id=here.sender,
        occurred_at=CLOCK.now_us(),
    )
    write(
        here.bus,
        encode(forged),
        MALLORY.seal(forged),
        encode(last),
        encode(replace(forged, sender_id="mallory")),
    )
    here.asks("three")
    code, chain, sentence = here.verified()
    assert code == 5
    assert (chain["proven"], chain["broken"]) == (3, None)
    whys = [one["why"] for one in chain["forged"]]
    assert whys[0] == "record 2 was not written by tolaria: it is not signed, and tolaria signs"
    assert "is signed by key" in whys[1]
    assert whys[2] == "record 1 a second time: a copy"
    assert (
        "message(s) that no part of this installation wrote, the first at audit.events/" in sentence
    )


def test_a_chain_whose_tail_was_replaced_is_named(tmp_path: Path, broker: str) -> None:
    """On a topic that was written anew: the tail rewritten by somebody who knows how hashes are
    made.
    """
    here = Audited(tmp_path, broker, "nissa")
    here.asks("one", "two", "three")
    whole = list(read_key(here.bus, AuditRecorded.TOPIC, "nissa", what="The trail", clock=CLOCK))
    records = here.records()
    rewritten = chained(
        entry_of("rewritten"),
        Link(records[0].chain, records[0].hash),
        sender_id="nissa",
        occurred_at=CLOCK.now_us(),
    )
    walk = _Walk(
        "nissa", Link(records[2].chain, records[2].hash), signing.trust(here.settings.keys_dir)
    )
    for one in (whole[0], whole[1]._replace(value=encode(rewritten).value)):
        walk.take(one)
    chain = walk.chain()
    assert [one.why for one in chain.forged] == [
        "record 1 was not written by nissa: it is not signed, and nissa signs"
    ]
    assert chain.broken is not None
    assert (
        "record 1 is missing: the chain ends there, and this machine wrote 3 records"
        in chain.broken.why
    )
