"""The audit trail: one record a request whatever happens, one chain a sender, and a proof that
finds what was altered. On Kafka and in memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.errors import BackpressureError, CorruptError, UnavailableError, UsageError
from esper.events import Message, decode, encode
from esper.events.records import AuditRecorded
from esper.oona.bus.memory import MemoryBus
from esper.oona.durable import chains
from esper.oona.durable.audit_trail import HEAD, TOPIC, AuditTrail
from esper.oona.durable.chains import SenderChain
from esper.oona.durable.journal_reader import read_key
from esper.service.checks.audit_entries import PENDING, AuditEntry, Link, chained, hash_of
from tests.contract.oona.worlds import World

_numbers = count()


@pytest.fixture
def sender() -> str:
    """A sender that no other test uses."""
    return f"part-{next(_numbers)}"


def entry(number: int | str, status: int = 200, *, actor: str = "ann") -> AuditEntry:
    """A request and its outcome."""
    return AuditEntry(
        id=f"part/1/{number}",
        actor=actor,
        role="operator",
        action="POST /api/v1/runs/{run_id}/pause",
        resource="/api/v1/runs/r1/pause",
        status=status,
        detail='{"body":{"reason":"näh"}}',
        run_id="r1",
        trace_id="4" * 32,
    )


def ask(trail: AuditTrail, number: int | str, status: int = 200) -> None:
    """What the gate does for one request."""
    trail(entry(number, PENDING))
    trail(entry(number, status))


def trail_of(world: World, sender: str, home: Path) -> AuditTrail:
    """A trail as a part makes it."""
    return AuditTrail(world.bus, sender_id=sender, clock=world.clock, folder=home)


def recorded(world: World, sender: str) -> list[AuditRecorded]:
    """The sender's records in their order."""
    found = [
        decode(one.value)
        for one in read_key(world.bus, TOPIC, sender, what="The trail", clock=world.clock)
    ]
    assert all(isinstance(one, AuditRecorded) for one in found)
    return [one for one in found if isinstance(one, AuditRecorded)]


def proof(world: World, sender: str, home: Path | None = None) -> SenderChain:
    """What verification says of the sender."""
    heads = chains.heads(home) if home else {}
    return next(
        chain
        for chain in chains.verify(world.bus, clock=world.clock, heads=heads)
        if chain.sender == sender
    )


def test_each_request_gets_one_record_in_the_chain(
    world: World, sender: str, tmp_path: Path
) -> None:
    """Handled or refused: one record, numbered, each with the hash of the one before.

    Nothing is left on disk; the chain is proven.
    """
    trail = trail_of(world, sender, tmp_path)
    ask(trail, 0)
    trail(entry(1, 401, actor="anonymous"))
    ask(trail, 2, 409)
    trail.close()
    found = recorded(world, sender)
    assert [(one.chain, one.status, one.actor) for one in found] == [
        (0, 200, "ann"),
        (1, 401, "anonymous"),
        (2, 409, "ann"),
    ]
    assert [one.previous for one in found] == ["", found[0].hash, found[1].hash]
    assert found[0].detail == entry(0).detail
    assert found[0].run_id == "r1"
    assert len({one.event_id for one in found}) == 3
    assert not list((tmp_path / sender).glob("*.json"))
    assert proof(world, sender, tmp_path) == SenderChain(sender, 3, found[2].hash, None)


def test_the_chain_goes_on_across_lives(world: World, sender: str, tmp_path: Path) -> None:
    """Another life of the part, even on another machine, goes on where the chain ends on Kafka."""
    for life in range(3):
        trail = trail_of(world, sender, tmp_path / str(life))
        ask(trail, f"{life}/0")
        ask(trail, f"{life}/1")
        trail.close()
    assert [one.chain for one in recorded(world, sender)] == list(range(6))
    assert proof(world, sender).broken is None


def test_what_was_under_way_when_the_part_was_killed_is_on_record(
    world: World, sender: str, tmp_path: Path
) -> None:
    """A request without outcome gets the status that says so, once.

    One whose record Kafka had already is not recorded twice.
    """
    trail = trail_of(world, sender, tmp_path)
    ask(trail, 0)
    trail(entry(1, PENDING))
    trail(entry(2, PENDING))
    (kept,) = [
        path
        for path in (tmp_path / sender).glob("*.json")
        if json.loads(path.read_bytes())["entry"]["id"] == "part/1/2"
    ]
    trail(entry(2, 200))
    trail.close()
    kept.write_text(
        json.dumps({"at": 1, "number": 2, "entry": asdict(entry(2))})
    )  # killed between Kafka's answer and the deletion
    again = trail_of(world, sender, tmp_path)
    again._recover()
    ask(again, 3)
    again.close()
    assert [(one.chain, one.status) for one in recorded(world, sender)] == [
        (0, 200),
        (1, 200),
        (2, PENDING),
        (3, 200),
    ]
    assert proof(world, sender, tmp_path).broken is None


def test_threads_do_not_fork_the_chain(world: World, sender: str, tmp_path: Path) -> None:
    """Forty requests from eight threads: forty records in one chain."""
    trail = trail_of(world, sender, tmp_path)

    def work(thread: int) -> None:
        for number in range(5):
            ask(trail, f"{thread}/{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trail.close()
    assert len(recorded(world, sender)) == 40
    assert proof(world, sender, tmp_path).broken is None


def test_two_processes_under_one_name_do_not_fork_the_chain(
    world: World, sender: str, tmp_path: Path
) -> None:
    """On two machines, in turn: whoever was replaced reads the chain anew and goes on.

    On one machine the second is refused.
    """
    here, there = (
        trail_of(world, sender, tmp_path / "here"),
        trail_of(world, sender, tmp_path / "there"),
    )
    with pytest.raises(UsageError, match=sender):
        trail_of(world, sender, tmp_path / "here")
    for number in range(3):
        ask(here, f"here/{number}")
        ask(there, f"there/{number}")
    here.close()
    there.close()
    assert [one.chain for one in recorded(world, sender)] == list(range(6))
    assert proof(world, sender).broken is None


def test_without_kafka_nothing_is_let_through(world: World, sender: str, tmp_path: Path) -> None:
    """What would change something is refused before it is done.

    A refusal stands on disk until Kafka is back, and is bounded.
    """
    trail = AuditTrail(world.without_broker(), sender_id=sender, clock=world.clock, folder=tmp_path)
    with pytest.raises(UnavailableError):
        trail(entry(0, PENDING))
    assert not list((tmp_path / sender).glob("*.json"))
    trail.close()


def test_what_happened_before_kafka_went_is_recorded_once_it_is_back(
    sender: str, tmp_path: Path
) -> None:
    """The outcome of what was let through is never lost: it waits on disk, also across a restart,
    and nothing more is let through.
    """
    bus, clock = MemoryBus(), ManualClock()
    trail = AuditTrail(bus, sender_id=sender, clock=clock, folder=tmp_path)
    trail(entry(0, PENDING))
    bus.set_online(False)
    trail(entry(0, 200))
    trail(entry(1, 403))
    with pytest.raises(UnavailableError):
        trail(entry(2, PENDING))
    trail(entry(2, 503))
    trail.close()
    again = AuditTrail(bus, sender_id=sender, clock=clock, folder=tmp_path)
    bus.set_online(True)
    with again:
        ask(again, 3)
    found = [
        decode(one.value) for one in read_key(bus, TOPIC, sender, what="The trail", clock=clock)
    ]
    assert [one.status for one in found if isinstance(one, AuditRecorded)] == [200, 403, 503, 200]


def test_records_that_wait_are_bounded(
    sender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals while Kafka is away fill the disk up to a limit, then they too get 503."""
    monkeypatch.setattr("esper.oona.durable.audit_trail._MOST_WAITING", 3)
    bus = MemoryBus()
    bus.set_online(False)
    trail = AuditTrail(bus, sender_id=sender, clock=ManualClock(), folder=tmp_path)
    for number in range(3):
        trail(entry(number, 401))
    with pytest.raises(BackpressureError):
        trail(entry(3, 401))
    trail.close()


def test_a_damaged_note_is_refused_by_name(sender: str, tmp_path: Path) -> None:
    """What an earlier life left and cannot be read is not passed over."""
    (tmp_path / sender).mkdir()
    (tmp_path / sender / "x.json").write_text("{")
    with pytest.raises(CorruptError, match=r"x\.json"):
        AuditTrail(MemoryBus(), sender_id=sender, clock=ManualClock(), folder=tmp_path)


def honest(sender: str, length: int) -> list[AuditRecorded]:
    """A chain as it is written."""
    link, made = Link(), []
    for number in range(length):
        made.append(chained(entry(number), link, sender_id=sender, occurred_at=1_000 + number))
        link = link.after(made[-1])
    return made


def write(world: World, sender: str, records: Sequence[AuditRecorded | bytes]) -> None:
    """Put records on the topic as somebody with access to Kafka could."""
    with world.bus.producer(sender_id=sender) as producer:
        for record in records:
            message = (
                encode(record)
                if isinstance(record, AuditRecorded)
                else Message(TOPIC, sender.encode(), record, ())
            )
            producer.send_message(message._replace(key=sender.encode()))
        assert producer.flush(10) == 0


ALTERATIONS: dict[str, tuple[Callable[[Any], list[Any]], int, str]] = {
    "removed": (lambda r: [r[0], r[1], r[3], r[4]], 2, "record 2 is missing"),
    "first removed": (lambda r: r[1:], 0, "record 0 is missing"),
    "changed": (lambda r: [*r[:2], replace(r[2], actor="bob"), *r[3:]], 2, "record 2 was changed"),
    "changed with its hash": (
        lambda r: [*r[:2], rehashed(r[2], actor="bob"), *r[3:]],
        3,
        "record 3 does not follow",
    ),
    "swapped": (lambda r: [r[0], r[2], r[1], *r[3:]], 1, "record 1 is missing"),
    "swapped and renumbered": (
        lambda r: [r[0], rehashed(r[2], chain=1), rehashed(r[1], chain=2), *r[3:]],
        1,
        "record 1 does not follow",
    ),
    "doubled": (lambda r: [*r[:3], *r[2:]], 3, "record 2 stands where record 3 should"),
    "added": (
        lambda r: [
            *r[:3],
            chained(entry("x"), Link(1, r[1].hash), sender_id=r[0].sender_id, occurred_at=1),
            *r[3:],
        ],
        3,
        "record 2 stands",
    ),
    "of another sender": (
        lambda r: [*r[:2], rehashed(r[2], sender_id="mallory"), *r[3:]],
        2,
        "sender 'mallory'",
    ),
    "garbage": (lambda r: [*r[:2], b"garbage", *r[2:]], 2, "not a record"),
}


def rehashed(record: AuditRecorded, **changes: object) -> AuditRecorded:
    """A record changed by somebody who knows how the hash is made."""
    changed = replace(record, **changes)  # type: ignore[arg-type]
    return replace(changed, hash=hash_of(changed))


@pytest.mark.parametrize("name", ALTERATIONS)
def test_every_alteration_is_found(world: World, sender: str, name: str) -> None:
    """The first record that does not fit is named: where it stands and why.

    What stands before it is proven.
    """
    alter, place, why = ALTERATIONS[name]
    records = alter(honest(sender, 5))
    write(world, sender, records)
    chain = proof(world, sender)
    assert chain.broken is not None
    assert why in chain.broken.why
    assert chain.proven == place
    offsets = [
        one.offset
        for one in read_key(world.bus, TOPIC, sender, what="The trail", clock=world.clock)
    ]
    assert chain.broken.offset == offsets[place]


def test_what_the_chain_alone_cannot_show_is_seen_by_the_machine_that_wrote_it(
    world: World, sender: str, tmp_path: Path
) -> None:
    """A chain whose end was cut off, or that was written anew from its beginning, is whole in
    itself; the writer's memory tells.
    """
    (tmp_path / sender).mkdir()
    records = honest(sender, 5)
    (tmp_path / sender / HEAD).write_text(json.dumps({"chain": 4, "hash": records[4].hash}))
    write(world, sender, records[:4])
    assert proof(world, sender).broken is None
    cut = proof(world, sender, tmp_path)
    assert cut.broken is not None
    assert "record 4 is missing" in cut.broken.why
    write(world, sender, [rehashed(records[4], actor="bob")])
    anew = proof(world, sender, tmp_path)
    assert anew.broken is not None
    assert "is not the one that this machine wrote" in anew.broken.why
