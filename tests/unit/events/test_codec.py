"""Codec, envelope and registry: what goes out comes back, and what is not ours is poison with a
sentence.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from dataclasses import replace

import pytest
from fastavro.schema import parse_schema

from esper.clock import ManualClock
from esper.errors import PoisonError
from esper.events import Origin, decode, encode, event_id
from esper.events.codec import frame, schema_id
from esper.events.envelope import trace_id
from esper.events.records import ReviewedCommand, RunPaused
from esper.events.schemas import (
    WireSchema,
    current,
    wire_schema,
    wire_schemas,
    without_logical_types,
)

CLOCK = ManualClock()
ORIGIN = Origin("run-1", "trainer", trace_id("run-1"), CLOCK)


def paused(reason: str = "a person asked") -> RunPaused:
    """An event."""
    return RunPaused(
        **ORIGIN.envelope("paused/1", causation_id=event_id("run-1", 0, "cause")),
        timeline=0,
        sequence=7,
        epoch=1,
        step=20,
        reason=reason,
        command_id="",
        source_topic="",
        source_partition=0,
        source_offset=-1,
    )


def test_an_event_comes_back_as_it_was() -> None:
    """decode(encode(event)) = event, with its key, topic and schema id."""
    event = paused()
    message = encode(event)
    assert decode(message.value, message.headers) == event
    assert (message.topic, message.key) == ("system.events.run", b"run-1")
    assert schema_id(message.value) == RunPaused.SCHEMA_ID


def test_events_of_several_senders_in_turn_come_back() -> None:
    """What was read of one event never stands in another: whatever of run, sender and trace is
    equal, and wherever a message is cut off.
    """
    one = paused()
    names = [
        ("run-1", "trainer"),
        ("run-1", "traine"),
        ("run-10", "trainer"),
        ("", ""),
        ("run-1", "ü"),
    ]
    events = [
        replace(one, run_id=run, sender_id=sender, trace_id=trace)
        for run, sender in names
        for trace in (one.trace_id, "", "0" * 200)
    ]
    for event in [*events, *reversed(events)]:
        value = encode(event).value
        assert decode(value) == decode(value) == event
        for end in range(5, len(value)):
            with pytest.raises(PoisonError):
                decode(value[:end])


@pytest.mark.parametrize("signer", ["", "s" * 42, "s" * 43, "ü" * 21 + "s"])
@pytest.mark.parametrize("previous", ["", "p" * 64, "p" * 65])
@pytest.mark.parametrize("signature", ["", "t" * 86, "t" * 85])
def test_seals_of_every_length_come_back(signer: str, previous: str, signature: str) -> None:
    """Also what is no key, digest or signature.

    And whatever follows the datum, or is missing of it, is poison.
    """
    event = replace(paused(), signer=signer, previous=previous, signature=signature)
    value = encode(event).value
    assert decode(value) == event
    for damaged in (value[:-1], value + b"\0", value + b"\0\0\0", value + value[-198:]):
        with pytest.raises(PoisonError):
            decode(damaged)


def test_a_seal_that_is_no_text_is_poison() -> None:
    """As any text: in the key, the digest and the signature."""
    value = encode(replace(paused(), signer="s" * 43, previous="p" * 64, signature="t" * 86)).value
    for at in (-1, -86, -89, -152, -155, -197):
        with pytest.raises(PoisonError, match="UnicodeDecodeError"):
            decode(value[: len(value) + at] + b"\xff" + value[len(value) + at + 1 :])


def test_headers_are_cloudevents_and_trace_context() -> None:
    """Binary mode of the CloudEvents Kafka binding, the schema's fingerprint, and a W3C
    traceparent.
    """
    event = paused()
    headers = dict(encode(event).headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"esper.events.RunPaused"
    assert headers["ce_source"] == b"/esper/trainer"
    assert headers["ce_id"] == event.event_id.encode()
    assert headers["ce_dataschema"] == b"sha-256:" + current(RunPaused).fingerprint.encode()
    assert headers["ce_time"] == b"2023-11-14T22:13:20+00:00"
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers["traceparent"])


def test_nested_records_come_back_as_dataclasses() -> None:
    """Arrays of records are tuples of dataclasses on both ways."""
    command = ReviewedCommand.from_avro(
        {
            "decision_id": "d",
            "command": "CULL",
            "layer": "l",
            "seed": 1,
            "kernel_id": "",
            "family": "",
            "alpha": -1.0,
            "confidence": 0.9,
            "urgency": 0.8,
            "expected_impact": 0.0,
            "evidence": "{}",
        }
    )
    assert ReviewedCommand.from_avro(command.to_avro()) == command


def test_cut_off_at_every_byte_it_is_poison() -> None:
    """A message of any shorter length is refused with a sentence, never read as another event."""
    value = encode(paused()).value
    for length in range(len(value)):
        with pytest.raises(PoisonError):
            decode(value[:length])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda value: b"{}" + value, "Confluent frame"),
        (lambda value: b"\0\xff\xff\xff\xff" + value[5:], "unknown to this version"),
        (lambda value: value + b"x", "bytes after its datum"),
    ],
)
def test_what_is_not_ours_is_poison(damage: object, sentence: str) -> None:
    """Unframed, of an unknown schema, or longer than its schema says: each has its sentence."""
    assert callable(damage)
    with pytest.raises(PoisonError, match=sentence):
        decode(damage(encode(paused()).value))


def test_a_wrong_schema_is_named_by_the_header() -> None:
    """The sentence says which type the sender claimed."""
    message = encode(paused())
    with pytest.raises(
        PoisonError,
        match=(
            r"^A message of type esper\.events\.RunPaused does not match schema \d+: "
            r"(?!NoneType)\w+: "
        ),
    ):
        decode(message.value[:9], message.headers)
    with pytest.raises(PoisonError, match="of type \N{REPLACEMENT CHARACTER} does not"):
        decode(message.value[:9], [("ce_type", b"\xff")])


def test_a_frame_is_five_bytes() -> None:
    """The shortest framed message is its frame alone; one byte less is none."""
    assert schema_id(b"\0\1\2\3\4") == 0x01020304
    with pytest.raises(
        PoisonError, match=r"^A message has no Confluent frame .* by Esper's codec\.$"
    ):
        schema_id(b"\0\1\2\3")


@pytest.mark.parametrize(
    ("us", "written"), [(0, "1970-01-01T00:00:00+00:00"), (1, "1970-01-01T00:00:00.000001+00:00")]
)
def test_the_time_header_is_rfc_3339(us: int, written: str) -> None:
    """Microseconds are written where there are some, within the second and in the next one."""
    for seconds in (0, 1):
        event = replace(paused(), occurred_at=seconds * 1_000_000 + us)
        assert dict(encode(event).headers)["ce_time"].decode() == written.replace(
            "00:00:00", f"00:00:0{seconds}", 1
        )


def test_an_earlier_version_is_read_with_the_defaults_of_the_present_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A payload without a field that came later gets that field's default."""
    now = current(RunPaused)
    old_schema = copy.deepcopy(now.schema)
    old_schema["fields"] = [
        field for field in old_schema["fields"] if field["name"] != "causation_id"
    ]
    parsed = parse_schema(
        without_logical_types(json.loads(json.dumps(old_schema))), named_schemas={}
    )
    old = WireSchema(RunPaused, 424242, "f" * 64, old_schema, parsed, ())
    monkeypatch.setitem(wire_schemas(), old.id, old)
    event = paused()
    datum = {name: value for name, value in event.to_avro().items() if name != "causation_id"}
    assert wire_schema(424242) is old
    assert decode(frame(datum, old)) == replace(event, causation_id=None)


def test_event_ids_are_hashes_of_what_happened() -> None:
    """The same run, timeline and logical key give the same id, any other another one.

    They are UUIDs of version 8.
    """
    one = event_id("run", 0, "step/1")
    assert one == event_id("run", 0, "step/1")
    others = {
        event_id("run", 0, "step/2"),
        event_id("run", 1, "step/1"),
        event_id("run2", 0, "step/1"),
        event_id("ru", 0, "nstep/1"),
    }
    assert len({one, *others}) == 5
    assert uuid.UUID(one).version == 8
    assert uuid.UUID(one).variant == uuid.RFC_4122


def test_an_origin_fills_the_envelope() -> None:
    """Run, sender, trace and time come from the origin, the id from the logical key."""
    event = paused()
    assert (event.run_id, event.sender_id, event.occurred_at) == (
        "run-1",
        "trainer",
        CLOCK.now_us(),
    )
    assert event.event_id == event_id("run-1", 0, "paused/1")
    assert re.fullmatch("[0-9a-f]{32}", event.trace_id)


def test_subjects_are_by_topic_and_record() -> None:
    """TopicRecordName: what a Confluent registry would be asked for."""
    assert current(RunPaused).subject == "system.events.run-esper.events.RunPaused"
