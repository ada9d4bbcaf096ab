"""The laws of seals and of the chain, on the journal of a real run: whatever is removed, changed,
doubled or forged is named, and nothing else counts.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from esper.clock import ManualClock, SystemClock
from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent, decode, encode
from esper.events.codec import Message
from esper.events.records import EpochEnded, RunStarted
from esper.events.seals import TRAINER, SealChain, Signer, Trust, digest, fault, is_sealed, restored
from esper.journal.replay import fold_journal
from esper.oona.bus.port import Received
from esper.oona.durable.authentic import JOURNAL, Aside, Journals, Judge, judged
from esper.oona.durable.journal_reader import read
from esper.service.transport import signing
from tests.forging import JOURNAL_RECORDS, any_event, forged
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, recipe

RUN = "laboratory-1"
NOW_US = 1 << 61
KEY = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OURS = Trust({TRAINER: frozenset({KEY.key})}, {TRAINER: 1_000_000})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A run that was killed, resumed and ended."""
    found = Laboratory(tmp_path_factory.mktemp("signed"), recipe(run={"epochs": 4}), GROWTH[:4])
    found.killed_at(13)
    found.run(resumed=True)
    return found


@pytest.fixture(scope="module")
def trust(lab: Laboratory) -> Trust:
    """What its installation believes."""
    return signing.trust(lab.settings.keys_dir)


@pytest.fixture(scope="module")
def stored(lab: Laboratory) -> list[Received]:
    """Its journal as it stands on the bus."""
    return list(read(lab.bus, RUN, clock=CLOCK))


def received(value: bytes, offset: int = 0, at_us: int = NOW_US) -> Received:
    return Received(JOURNAL, 0, offset, RUN.encode(), value, (), at_us)


def events_of(messages: Sequence[Received], judge: Judge) -> list[JournalEvent]:
    return [event for event, _ in judged(messages, judge)]


def resealed(value: bytes, change: Callable[[JournalEvent], JournalEvent]) -> bytes:
    event = decode(value)
    assert isinstance(event, JournalEvent)
    return encode(change(event)).value


def test_the_journal_of_a_run_is_signed_all_through(stored: list[Received], trust: Trust) -> None:
    """One chain over both lives of the run, by one key; the fold says so."""
    judge = Judge(RUN, trust)
    events = events_of(stored, judge)
    assert (len(events), judge.signed, judge.set_aside, len(judge.signers)) == (
        len(stored),
        True,
        0,
        1,
    )
    assert [event.sequence for event in events] == list(range(len(stored)))
    assert {event.NAME for event in events} >= {
        "RunStarted",
        "RunResumed",
        "EpochEnded",
        "CheckpointTaken",
        "RunCompleted",
    }
    report = fold_journal(RUN, [one.value for one in stored], None, clock=CLOCK)
    assert "Every event is signed, by key" in report.sentence()
    unsigned = [
        encode(replace(event, signer="", previous="", signature="")).value for event in events
    ]
    plain = fold_journal(RUN, unsigned, None, clock=CLOCK)
    assert (
        plain.state.digest() == report.state.digest()
    )  # who signs changes nothing in a run's digest
    assert "It is not signed" in plain.sentence()
    assert plain.as_json()["signed_by"] == []


def test_every_signature_one_at_a_time_removed_or_changed_is_named(
    stored: list[Received], trust: Trust
) -> None:
    """Each event in turn: without its signature, with one character of it changed, with another
    key's, missing, and in the place of its neighbour.
    """
    values = [one.value for one in stored]
    mallory = Signer(Ed25519PrivateKey.generate())
    for at, value in enumerate(values):
        event = decode(value)
        assert isinstance(event, JournalEvent)
        flipped = "A" if event.signature[40] != "A" else "B"
        other = event.signature[:40] + flipped + event.signature[41:]
        damages = {
            "removed": resealed(value, lambda one: replace(one, signer="", signature="")),
            "without its signer": resealed(value, lambda one: replace(one, signer="")),
            "changed": resealed(value, lambda one, other=other: replace(one, signature=other)),  # type: ignore[misc]
            "another key's": mallory.seal(event, event.previous).value,
            "changed in its content": resealed(value, lambda one: replace(one, trace_id="f" * 32)),
        }
        for name, damage in damages.items():
            with pytest.raises(
                CorruptError,
                match=(
                    rf"^Event {at} \({event.NAME}, {event.event_id}\) of run {RUN} is not as "
                    r"its trainer wrote it: "
                ),
            ):
                events_of(
                    [received(one) for one in [*values[:at], damage, *values[at + 1 :]]],
                    Judge(RUN, trust, strict=True),
                )
            judge = Judge(RUN, trust)  # on Kafka it is set aside, and what it replaced is missing
            if at + 1 < len(values):
                with pytest.raises(
                    CorruptError,
                    match=rf"lacks event {at}: .* which claims to be event {at}, was set aside",
                ):
                    events_of(
                        [received(one) for one in [*values[:at], damage, *values[at + 1 :]]], judge
                    )
            else:
                assert (
                    len(events_of([received(one) for one in [*values[:at], damage]], judge)) == at
                ), name
            assert judge.set_aside == 1, name


def test_events_missing_moved_and_doubled_are_named(stored: list[Received], trust: Trust) -> None:
    """Each in turn.

    A copy on Kafka, where anybody may put one, is set aside; in a file it is damage.
    """
    values = [one.value for one in stored]
    for at in range(len(values) - 1):
        with pytest.raises(CorruptError, match=f"lacks event {at}: "):
            events_of(
                [received(one) for one in [*values[:at], *values[at + 1 :]]], Judge(RUN, trust)
            )
        with pytest.raises(CorruptError, match=f"lacks event {at}: "):
            events_of(
                [
                    received(one)
                    for one in [*values[:at], values[at + 1], values[at], *values[at + 2 :]]
                ],
                Judge(RUN, trust, strict=True),
            )
        doubled = [
            received(one, offset)
            for offset, one in enumerate([*values[: at + 1], values[at], *values[at + 1 :]])
        ]
        with pytest.raises(
            CorruptError,
            match=rf"has event {at} \(.*\) again or too late, where event {at + 1} should come",
        ):
            events_of(doubled, Judge(RUN, trust, strict=True))
        judge = Judge(RUN, trust)
        assert len(events_of(doubled, judge)) == len(values)
        assert [(one.received.offset, "it is a copy" in one.why) for one in judge.aside] == [
            (at + 1, True)
        ]


def test_every_byte_counts(stored: list[Received]) -> None:
    """Each bit region of an event, changed.

    The schema id in front is not signed, so that a registry may give another.
    """
    value = next(one.value for one in stored if decode(one.value).NAME == "EpochEnded")
    event = decode(value)
    assert isinstance(event, EpochEnded)
    assert is_sealed(event, value)
    assert is_sealed(event, b"\0\0\0\0\7" + value[5:])
    for at in range(5, len(value)):
        damaged = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
        assert not is_sealed(event, damaged), at
    assert not is_sealed(event, value[:-1])


def test_a_signature_has_one_spelling(stored: list[Received], trust: Trust) -> None:
    """The last character of 64 bytes in base64 has bits to spare.

    Another character there means the same bytes, and is refused.
    """
    value = stored[-1].value
    event = decode(value)
    assert isinstance(event, JournalEvent)
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = value[:-1] + letters[letters.index(value[-1]) ^ 1 : (letters.index(value[-1]) ^ 1) + 1]
    assert base64.urlsafe_b64decode(other[-86:] + b"==") == base64.urlsafe_b64decode(
        value[-86:] + b"=="
    )
    again = decode(other)
    assert isinstance(again, JournalEvent)
    assert fault(again, other, trust.keys(TRAINER)) == "its signature does not fit its content"


@pytest.mark.parametrize("at", ["front", "middle", "end", "everywhere"])
def test_forged_events_of_every_record_change_nothing(
    stored: list[Received], trust: Trust, at: str
) -> None:
    """Of every record, with next, used, first and far sequences.

    Unsigned, of another key, and with a copied signature that names the right predecessor.
    """
    values = [one.value for one in stored]
    end = {"front": 1, "middle": len(values) // 2, "end": len(values), "everywhere": len(values)}[
        at
    ]
    made = list(forged(RUN, [Message("", b"", one, ()) for one in values[:end]]))
    assert len(made) == len(JOURNAL_RECORDS) * 4 * 3
    bad = [
        received(message.value, 10_000 + number, NOW_US) for number, (_, message) in enumerate(made)
    ]
    place = 0 if at == "front" else end
    mixed = [*stored[:place], *bad, *stored[place:]]
    if at == "everywhere":
        mixed = [
            one for number, good in enumerate(stored) for one in (*bad[number :: len(stored)], good)
        ]
    judge = Judge(RUN, trust)
    assert [one.value for _, one in judged(mixed, judge)] == values
    assert {one.received.offset for one in judge.aside} == {one.offset for one in bad}
    assert all(one.why for one in judge.aside)
    journals = Journals(lambda: trust)
    assert [event.sequence for event, _ in journals.take(mixed)] == list(range(len(values)))
    assert journals.faults == {}


def test_a_run_that_is_forged_from_the_first_event_on_is_no_run(trust: Trust) -> None:
    """Unsigned, or consistently signed by a key that nobody here knows: named with the remedy."""
    mallory = SealChain(Signer(Ed25519PrivateKey.generate()))
    started = any_event(RunStarted, run_id=RUN, event_id="0" * 8)
    (own,), _ = mallory.sealed([started])
    for value in (encode(started).value, own.value):
        judge = Judge(RUN, trust)
        assert events_of([received(value, at_us=NOW_US)], judge) == []
        with pytest.raises(
            UsageError,
            match=(
                r"has no event that this installation believes: 1 message\(s\) were set "
                r"aside.*trainer.NAME.pub.pem"
            ),
        ):
            judge.require_events()


def chained(count: int, *, signed_from: int = 0) -> list[bytes]:
    """A run that an earlier Esper began, and this one resumed at event `signed_from`."""
    head, values = "", []
    for number in range(count):
        record = JOURNAL_RECORDS[number % len(JOURNAL_RECORDS)]
        event = any_event(record, run_id=RUN, sequence=number, event_id=str(number))
        values.append(KEY.seal(event, head).value if number >= signed_from else encode(event).value)
        head = digest(event.NAME, values[-1])
    return values


def test_a_run_of_an_earlier_esper_is_believed_and_said_to_be_unsigned() -> None:
    """Where the broker had it before the first key was made; what is added unsigned later is not.

    From where it is resumed it is signed.
    """
    old, new = 999_999, 1_000_000
    plain = [received(value, at_us=old) for value in chained(20, signed_from=20)]
    judge = Judge(RUN, OURS)
    assert len(events_of(plain, judge)) == 20
    assert (judge.signed, judge.seal_sentence()) == (
        False,
        "It is not signed: an earlier Esper wrote it, or somebody else.",
    )
    late = [received(value, at_us=new) for value in chained(20, signed_from=20)]
    assert events_of(late, Judge(RUN, OURS)) == []
    assert len(events_of([*plain[:10], *late[10:]], Judge(RUN, OURS))) == 10
    resumed = [
        received(value, at_us=old if number < 10 else new)
        for number, value in enumerate(chained(20, signed_from=10))
    ]
    judge = Judge(RUN, OURS)
    assert len(events_of(resumed, judge)) == 20
    assert judge.signed
    between = [*resumed[:12], plain[12], *resumed[12:]]  # unsigned once it is signed: old or not
    judge = Judge(RUN, OURS)
    assert len(events_of(between, judge)) == 20
    assert [one.why for one in judge.aside] == [
        "it is not signed (" + decode(plain[12].value).NAME + ", which claims to be event 12)"
    ]
    changed = resealed(resumed[9].value, lambda one: replace(one, trace_id="f" * 32))
    with pytest.raises(
        CorruptError,
        match=r"had another event 9 than it has now: event 10 .* it was changed or replaced",
    ):
        events_of([*resumed[:9], received(changed, at_us=old), *resumed[10:]], Judge(RUN, OURS))


def test_what_stands_between_unsigned_events_is_judged_by_itself() -> None:
    """Wherever it stands in a batch: another run's, another topic's, too late, undecodable.

    Each is set aside, and all others count in order.
    """
    values = chained(20, signed_from=20)
    plain = [received(value, offset=number, at_us=1) for number, value in enumerate(values)]
    foreign = [
        (
            received(resealed(values[3], lambda one: replace(one, run_id="another")), at_us=1),
            "it belongs to run another",
        ),
        (received(values[4], at_us=NOW_US), "it is not signed"),
        (
            received(KEY.seal(decode_signed(values[4])).value[:-1] + b"A", at_us=1),
            "its signature does not fit",
        ),
    ]
    for at in (1, 2, 10, 20):
        for message, why in foreign:
            judge = Judge(RUN, OURS)
            taken = list(judged([*plain[:at], message, message, *plain[at:]], judge))
            assert [message.offset for _, message in taken] == list(range(20))
            assert [one.why.startswith(why) for one in judge.aside] == [True, True]
            assert (judge.events, judge.signed, judge.head) == (
                20,
                False,
                digest(taken[-1][0].NAME, values[-1]),
            )
        for broken in (b"", values[0][:-1]):  # nobody can tell whether that was an event
            with pytest.raises(
                CorruptError, match=rf"^Event {at} of run {RUN} cannot be decoded: "
            ):
                events_of([*plain[:at], received(broken, at_us=1), *plain[at:]], Judge(RUN, OURS))


def decode_signed(value: bytes) -> JournalEvent:
    """An event of a journal."""
    event = decode(value)
    assert isinstance(event, JournalEvent)
    return event


def test_without_any_key_the_first_signer_is_taken_at_its_word() -> None:
    """On a machine that has no keys: one signer from the first signed event on, named as
    unknown.
    """
    values = chained(20)
    judge = Judge(RUN, Trust())
    mallory = Signer(Ed25519PrivateKey.generate())
    other = mallory.seal(
        any_event(RunStarted, run_id=RUN, sequence=20), digest(decode(values[-1]).NAME, values[-1])
    )
    assert len(events_of([received(value) for value in [*values, other.value]], judge)) == 20
    assert judge.set_aside == 1
    assert "which this installation does not know" in judge.seal_sentence()


def test_what_comes_back_from_columns_has_its_signature(stored: list[Received]) -> None:
    """Events without their bytes: the same bytes again.

    A NaN with another sign bit is signed as what it comes back as.
    """
    for one in stored:
        event = decode(one.value)
        assert isinstance(event, JournalEvent)
        assert restored(event).value == one.value
    odd = KEY.seal(any_event(EpochEnded, run_id=RUN, test_loss=-math.nan))
    event = decode(odd.value)
    assert isinstance(event, EpochEnded)
    assert is_sealed(event, odd.value)
    assert restored(replace(event, test_loss=math.nan)).value == odd.value


def test_signing_is_deterministic_and_a_frame_that_found_no_room_is_made_again() -> None:
    """The head moves only when the caller says that the frame is durable."""
    events = [any_event(RunStarted, run_id=RUN), any_event(EpochEnded, run_id=RUN, sequence=1)]
    chain = SealChain(KEY)
    first, head = chain.sealed(events)
    assert chain.sealed(events) == (first, head)
    chain.head = head
    assert decode(chain.sealed(events)[0][0].value).previous == head  # type: ignore[attr-defined]


def test_keys_are_made_once_and_kept_secret(tmp_path: Path) -> None:
    """A pair a writer, readable by its owner alone.

    A folder with the public key alone signs nothing; one that others can read is refused.
    """
    clock = ManualClock()
    signer = signing.ensure(tmp_path, TRAINER, clock)
    assert signing.ensure(tmp_path, TRAINER, SystemClock()).key == signer.key
    folder = tmp_path / signing.FOLDER
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "trainer.pem": 0o600,
        "trainer.pub.pem": 0o600,
        "trainer.since": 0o600,
    }
    found = signing.trust(tmp_path)
    assert (found.keys(TRAINER), found.since_us) == (
        frozenset({signer.key}),
        {TRAINER: clock.now_us()},
    )
    (folder / "trainer.pem").chmod(0o644)
    with pytest.raises(
        UsageError,
        match="may be read by other users, who could make events that everybody here believes",
    ):
        signing.ensure(tmp_path, TRAINER, clock)
    (folder / "trainer.pem").unlink()
    with pytest.raises(
        UsageError, match="has the public key of trainer alone, so nothing can be signed here"
    ):
        signing.ensure(tmp_path, TRAINER, clock)
    with pytest.raises(UsageError, match="is no name of a writer"):
        signing.ensure(tmp_path, "../x", clock)
    (folder / "trainer.pub.pem").write_text("no key")
    with pytest.raises(CorruptError, match="holds no public key"):
        signing.trust(tmp_path)


@pytest.mark.parametrize("seen", ["trainer.pem", "trainer.pub.pem"])
def test_a_pair_that_another_process_makes_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """Just after one of its files was found missing: both end with the same pair."""
    others: list[str] = []
    real = Path.exists

    def exists(path: Path) -> bool:
        found = real(path)
        if path.name == seen and not others:
            monkeypatch.setattr(Path, "exists", real)
            others.append(signing.ensure(tmp_path, TRAINER, SystemClock()).key)
        return found

    monkeypatch.setattr(Path, "exists", exists)
    mine = signing.ensure(tmp_path, TRAINER, SystemClock())
    assert others == [mine.key]


def test_a_keyring_sees_what_is_added_while_it_lives(tmp_path: Path) -> None:
    """Another installation's key, an older one, and what an import believes."""
    ring = signing.Keyring(tmp_path / "a")
    assert not ring.trust().knows(TRAINER)
    own = signing.ensure(tmp_path / "a", TRAINER, ManualClock())
    other = signing.ensure(tmp_path / "b", TRAINER, ManualClock())
    (tmp_path / "a" / signing.FOLDER / "trainer.b.pub.pem").write_bytes(
        (tmp_path / "b" / signing.FOLDER / "trainer.pub.pem").read_bytes()
    )
    assert ring.trust().keys(TRAINER) == {own.key, other.key}
    signing.believe_run(tmp_path / "a", "imported", {KEY.key}, unsigned_until_us=7)
    assert KEY.key in ring.trust().keys(TRAINER, "imported")
    assert KEY.key not in ring.trust().keys(TRAINER, "another")
    assert ring.trust().unsigned(TRAINER, "imported", 6)


def test_each_of_a_flood_under_one_key_is_heard_of() -> None:
    """A thousand are remembered by the run; whoever writes letters hears of every one."""
    heard: list[Aside] = []
    flood = [Received(JOURNAL, 0, number, b"flooded", b"junk", (), 0) for number in range(1_500)]
    assert list(Journals(Trust, heard.append).take(flood)) == []
    assert [aside.received.offset for aside in heard] == list(range(1_500))
