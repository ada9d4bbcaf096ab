"""Attack: whoever may write to Kafka forges events of a run's journal, for `--resume`, `replay`,
`gc`, the trainer itself and the parts that read it.

Expected: what the trainer signed counts, and nothing else; each forgery is named with its place;
the run ends with the bits of one that nobody attacked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from esper.errors import PoisonError
from esper.events import JournalEvent, decode, encode
from esper.events.codec import Message
from esper.events.records import (
    CheckpointTaken,
    DeadLettered,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunStarted,
)
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.journal_reader import read, read_topics
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import Intake
from esper.service.transport import signing
from esper.service.transport.signing import Keyring
from esper.tolaria.control.run_ledger import RunLedger
from esper.tolaria.session.session import Session
from tests.forging import any_event, forged, new_id
from tests.stackfixtures import eventually
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, recipe

pytestmark = pytest.mark.slow
RECIPE = recipe(run={"epochs": 4})


class Attacked:
    """A run on a real broker, and an attacker who knows the broker's address alone."""

    def __init__(self, home: Path, broker: str, run_id: str) -> None:
        self.home, self.broker, self.run_id = home, broker, run_id
        self.lab = Laboratory(home, RECIPE, GROWTH[:4], run_id, bus=KafkaBus(broker))

    def messages(self) -> list[Message]:
        return [
            Message(one.topic, one.key or b"", one.value, one.headers)
            for one in read(self.lab.bus, self.run_id, clock=CLOCK)
        ]

    def send(self, *messages: Message) -> None:
        """Write to the topics as anybody can."""
        with KafkaBus(self.broker).producer(sender_id="mallory") as producer:
            for message in messages:
                producer.send_message(message)
            assert producer.flush(30) == 0

    def forge(self, record: type[Any], **values: Any) -> None:
        """An unsigned event at the end, as `attack.py junk-journal` makes it."""
        last = decode(self.messages()[-1].value)
        assert isinstance(last, JournalEvent)
        place = {
            "sequence": last.sequence + 1,
            "timeline": last.timeline,
            "epoch": last.epoch,
            "step": last.step,
            "reason": "forged by nobody",
        }
        known = {
            name: value for name, value in place.items() if name in record.__dataclass_fields__
        }
        self.send(
            encode(any_event(record, run_id=self.run_id, event_id=new_id(), **{**known, **values}))
        )

    def killed_at(self, step: int) -> None:
        """A life that is killed before step number `step`, once Kafka has some of its events."""
        self.lab.killed_when(
            lambda session: session.step == step and eventually(lambda: bool(self.messages())),
            resumed=False,
        )

    def esper(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the victim, as typed."""
        here = {"ESPER_HOME": str(self.home), "ESPER_KAFKA__BOOTSTRAP": self.broker}
        command = [sys.executable, "-m", "esper.cli", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, **here},
        )

    def folded(self) -> dict[str, Any]:
        done = self.esper("replay", "fold", self.run_id, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the run ends with when nobody attacks it."""
    outcome, _ = Laboratory(tmp_path_factory.mktemp("calm"), RECIPE, GROWTH[:4]).run()
    return outcome.digest


@pytest.mark.parametrize("record", [RunPaused, RunCompleted, RunFailed, RunStarted])
def test_a_forged_end_pause_or_start_ruins_neither_resume_nor_replay(
    tmp_path: Path, broker: str, digest: str, record: type[Any]
) -> None:
    """A run that was killed gets one forged event.

    The fold names it, `--resume` says so and goes on to the same bits, and so does the fold after.
    """
    victim = Attacked(tmp_path, broker, f"forged-{record.NAME}")
    victim.killed_at(13)
    honest = len(victim.messages())
    victim.forge(record)
    found = victim.folded()
    assert (found["events"], found["set_aside"]) == (honest, 1)
    assert "it is not signed" in found["aside"][0]["why"]
    outcome, _ = victim.lab.run(resumed=True)
    assert outcome.digest == digest
    assert (
        f"is not part of the journal of run {victim.run_id}: it is not signed ({record.NAME}"
        in victim.lab.said.getvalue()
    )
    after = victim.folded()
    assert (after["status"], after["set_aside"], after["equals_live"]) == ("COMPLETED", 1, True)


def test_forgeries_of_every_kind_leave_a_run_provable(
    tmp_path: Path, broker: str, digest: str
) -> None:
    """Before the first event, while it is killed, and after its end: every record, every sequence,
    unsigned, by another key, with a copied signature.
    """
    victim = Attacked(tmp_path, broker, "forged-all")
    other = Laboratory(tmp_path / "other", RECIPE, run_id=victim.run_id)
    other.killed_at(2)
    foreign = [
        Message(one.topic, one.key or b"", one.value, one.headers)
        for one in read(other.bus, victim.run_id, clock=CLOCK)
    ]
    signing.ensure_all(victim.lab.settings.keys_dir, CLOCK)
    victim.send(
        *foreign, Message("system.events.run", victim.run_id.encode(), b"{}", ())
    )  # a whole run of another installation in front, and rubbish
    victim.killed_at(13)
    middle = list(forged(victim.run_id, victim.messages()[len(foreign) + 1 :]))
    victim.send(*(message for _, message in middle))
    outcome, _ = victim.lab.run(resumed=True)
    assert outcome.digest == digest
    signed = [message for message in victim.messages() if _sealed(message, victim.lab.settings)]
    victim.send(*(message for _, message in forged(victim.run_id, signed, seed=2)), signed[5])
    found = victim.folded()
    assert (found["events"], found["equals_live"], found["status"]) == (
        len(signed),
        True,
        "COMPLETED",
    )
    assert found["set_aside"] == len(foreign) + 1 + 2 * len(middle) + 1
    proven = victim.esper("replay", "verify", victim.run_id, "--workers", "1")
    assert proven.returncode == 0, proven.stderr
    assert "is set aside" in proven.stderr
    saved = victim.esper("replay", "fold", victim.run_id, "--save", str(tmp_path / "saved.avro"))
    assert saved.returncode == 0, saved.stderr
    assert "So are" in saved.stdout
    again = victim.esper(
        "replay", "fold", victim.run_id, "--from", str(tmp_path / "saved.avro"), "--json"
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["set_aside"] == 0


def test_a_trainer_finds_forgeries_in_its_own_journal_and_goes_on(
    tmp_path: Path, broker: str, digest: str
) -> None:
    """Forged while it trains: a warning in its output, a dead letter each, and the bits of an
    undisturbed run; no other writer is seen in them.
    """
    victim = Attacked(tmp_path, broker, "forged-live")
    sent: list[Message] = []
    began = KafkaBus(broker).partition_of("system.events.run", victim.run_id.encode())
    with KafkaBus(broker).reader(["system.events.run"], start="end", partitions=[began]) as reader:
        place, began = began, reader.position()["system.events.run", began]

    def letters() -> list[DeadLettered]:
        found = read_topics(KafkaBus(broker), [DeadLettered.TOPIC], clock=CLOCK)
        return [
            one
            for one in found
            if isinstance(one, DeadLettered)
            and one.source_topic == "system.events.run"
            and (one.source_partition, one.consumer) == (place, "trainer")
            and one.source_offset >= began
        ]

    def attack(session: Session) -> None:
        if (
            session.step == 20
        ):  # what it hears it says between two steps: this one waits until it has heard
            assert eventually(lambda: len(letters()) > len(sent), 60)
        if session.step == 9 and not sent:
            assert eventually(lambda: len(victim.messages()) > 1, 60)
            sent.extend(
                message
                for name, message in forged(victim.run_id, victim.messages())
                if "RunPaused" in name or "RunCompleted" in name
            )
            victim.send(
                *sent,
                victim.messages()[0],
                Message("system.events.run", victim.run_id.encode(), b"rubbish", ()),
            )

    victim.lab.disturb = attack
    outcome, _ = victim.lab.run()
    assert outcome.digest == digest
    said = victim.lab.said.getvalue()
    assert "Another writer wrote at system.events.run/" in said
    assert "under the key of this run: " in said
    assert "Further ones are reported in dead.letters alone." in said
    assert {one.payload for one in letters()} >= {message.value for message in sent} | {
        b"rubbish",
        victim.messages()[0].value,
    }
    assert victim.folded()["equals_live"] is True


def test_forged_journals_delete_no_snapshot(tmp_path: Path, broker: str) -> None:
    """`attack.py gc-forge`: a second RunStarted, CheckpointTaken of 1970 for every snapshot,
    RunCompleted; also by another key. Nothing is swept.
    """
    victim = Attacked(tmp_path, broker, "forged-gc")
    victim.lab.run()
    journal = [decode(message.value) for message in victim.messages()]
    taken = [event for event in journal if isinstance(event, CheckpointTaken)]
    assert taken
    assert isinstance(journal[0], RunStarted)
    attack: Sequence[Any] = [
        replace(journal[0], event_id=new_id()),
        *(
            replace(one, event_id=new_id(), occurred_at=1, sequence=one.sequence + 10**6)
            for one in taken
        ),
        any_event(RunCompleted, run_id=victim.run_id, sequence=10**9, event_id=new_id()),
    ]
    victim.send(
        *(encode(event) for event in attack),
        *(encode(replace(event, signer="", signature="")) for event in attack),
    )
    swept = victim.esper("gc", "--json")
    assert swept.returncode == 0, swept.stderr
    (mine,) = [
        one for one in json.loads(swept.stdout)["families"] if one["family"] == victim.run_id
    ]
    assert (mine["deleted"], mine["kept"]) == (0, len(taken))
    assert all((victim.lab.root / one.address).exists() for one in taken)


def test_what_the_control_api_tells_of_a_run_cannot_be_forged(tmp_path: Path, broker: str) -> None:
    """The ledger of Tolaria's part: an event of a far sequence does not hide what follows, and a
    forged end ends nothing.
    """
    victim = Attacked(tmp_path, broker, "forged-told")
    victim.killed_at(9)
    victim.forge(RunCompleted, sequence=10**9)
    bus = KafkaBus(broker)
    with bus.producer(sender_id="tolaria") as producer:
        intake = Intake.of(
            DeadLetters(producer, "tolaria", CLOCK), Keyring(victim.lab.settings.keys_dir).trust
        )
        ledger = RunLedger(bus, intake)
        ledger.start()
        try:
            assert eventually(lambda: ledger.caught_up, 60)
            before = ledger.run_of(victim.run_id)
            assert before is not None
            assert before.status == "RUNNING"
            victim.lab.run(resumed=True)
            assert eventually(
                lambda: (
                    (now := ledger.run_of(victim.run_id)) is not None and now.status == "COMPLETED"
                ),
                60,
            )
            assert ledger.run_of(victim.run_id).epoch == 4  # type: ignore[union-attr]
            assert intake.refusals.total >= 1
        finally:
            ledger.stop()


def _sealed(message: Message, settings: Settings) -> bool:
    try:
        event = decode(message.value)
    except PoisonError:
        return False
    return isinstance(event, JournalEvent) and not Keyring(settings.keys_dir).trust().fault(
        "trainer", event, message.value, 1 << 62
    )
