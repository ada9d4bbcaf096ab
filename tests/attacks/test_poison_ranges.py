"""Attacks by values: what a field may be is held at decoding, in a sentence that names field and
bound.

On the version before, every one of these was decoded, believed, and kept: a reward of -1e6 stopped
growth for 84 days.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.clock import ManualClock
from esper.errors import PoisonError
from esper.events import Event, Origin, decode, encode
from esper.events.codec import frame
from esper.events.ranges import MAX_BYTES
from esper.events.records import (
    RECORDS,
    AdaptationOutcome,
    EpochReviewed,
    KernelPublished,
    SeedHealth,
    SystemStatePacket,
    TrainingStep,
)
from esper.events.schemas import current
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.experience import HORIZON_US, Experience
from tests.unit.nissa.journal import Run
from tests.unit.tamiyo.world import Family, World

NOW = 1_767_225_600_000_000
SCHEMAS = Path(__file__).parents[2] / "schemas"


def framed(event: Event, **changed: Any) -> bytes:
    """The bytes of an event with fields that Esper itself would not write."""
    return frame({**event.to_avro(), **changed}, current(type(event)))


def step() -> TrainingStep:
    """A step."""
    origin = Origin("r", "trainer", "0" * 32, ManualClock(NOW))
    figures: dict[str, Any] = {
        "loss": 1.0,
        "accuracy": 0.5,
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
    }
    return TrainingStep(
        **origin.envelope("s"), epoch=0, step=1, samples=10, duration_us=5, **figures
    )


def packet() -> SystemStatePacket:
    """A packet."""
    return World({"0": 40}, {"0": (Family("mlp", 0.1),)}, run_id="r").packet()


OUTCOME, STEP, PACKET, REVIEW = Run("r").outcome("d1"), step(), packet(), Run("r").reviewed("d1")
COMMAND, LAYER = REVIEW.to_avro()["commands"][0], PACKET.to_avro()["layers"][0]
BAD: list[tuple[Event, dict[str, Any], str]] = [
    (OUTCOME, {"reward": -1e6}, "reward -1000000.0, and 0 is the least"),
    (OUTCOME, {"reward": 1.5}, "reward 1.5, and 1 is the most"),
    (OUTCOME, {"reward": math.nan}, "reward nan, and a finite number is needed"),
    (OUTCOME, {"occurred_at": 2**63 - 1}, "occurred_at"),
    (OUTCOME, {"occurred_at": -1}, "occurred_at -1, and 0 is the least"),
    (OUTCOME, {"run_id": "../../etc"}, "run_id '../../etc', which names no folder"),
    (OUTCOME, {"layer": "l" * 100_000}, "larger than its record may be"),
    (STEP, {"step": -1}, "step -1, and 0 is the least"),
    (STEP, {"epoch": 2**31}, "epoch 2147483648, and 2147483647 is the most"),
    (STEP, {"samples": -(2**31)}, "samples"),
    (STEP, {"accuracy": 1e308}, "accuracy"),
    (STEP, {"run_id": "a\nb"}, "run_id"),
    (PACKET, {"policy": "{"}, "policy that is no JSON"),
    (PACKET, {"policy": "[" * 100_000}, "policy that is no JSON"),
    (PACKET, {"total_steps": -5}, "total_steps"),
    (PACKET, {"parent_run_id": "a/b"}, "parent_run_id"),
    (PACKET, {"layers": [{**LAYER, "geometry": "conv9d"}]}, "geometry that is no geometry"),
    (
        PACKET,
        {"layers": [{**LAYER, "geometry": f"sequence in {'9' * 5_000}"}]},
        "geometry that is no geometry",
    ),
    (PACKET, {"layers": [{**LAYER, "in_features": -1}]}, "in_features -1"),
    (REVIEW, {"commands": [{**COMMAND, "evidence": "{not json"}]}, "evidence that is no JSON"),
    (REVIEW, {"commands": [{**COMMAND, "confidence": 7.0}]}, "confidence 7.0"),
    (REVIEW, {"commands": [COMMAND] * 70_000}, "items, and 65,536 is the most"),
]


@pytest.mark.parametrize(
    ("event", "changed", "told"), BAD, ids=lambda one: str(one)[:40] if isinstance(one, str) else ""
)
def test_what_a_field_may_not_be_is_refused_by_name(
    event: Event, changed: dict[str, Any], told: str
) -> None:
    """The unchanged event is decoded; each change is refused with field and bound."""
    assert decode(framed(event)) == event
    with pytest.raises(PoisonError) as refused:
        decode(framed(event, **changed))
    assert told in str(refused.value)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("field", ["loss", "gradient_norm", "learning_rate", "accuracy"])
def test_a_run_that_diverges_is_recorded(field: str) -> None:
    """A loss that is not a number, or infinite, is what happened: such a step is decoded."""
    diverged: dict[str, Any] = {field: math.nan}
    found = decode(encode(replace(STEP, **diverged)).value)
    assert isinstance(found, TrainingStep)
    assert math.isnan(getattr(found, field))
    assert decode(encode(replace(STEP, loss=math.inf)).value) == replace(STEP, loss=math.inf)


def test_the_journal_takes_nothing_that_nobody_could_decode() -> None:
    """An event of the journal that is outside its bounds is refused when it is written, not when
    the run is to be recovered.
    """
    event = Run("r").epoch_ended(validation_accuracy=0.4)
    assert decode(encode(event).value) == event
    with pytest.raises(PoisonError, match="validation_accuracy 4"):
        encode(replace(event, validation_accuracy=4.0))


def test_every_whole_number_has_bounds() -> None:
    """No count, step or index of any record is without a least and a most, and no time lies outside
    what other clients can show.
    """
    whole = 0
    for record in RECORDS:
        fields = json.loads((SCHEMAS / f"{record.NAME}.avsc").read_text())["fields"]
        bounds = {bound.field: bound for bound in record.BOUNDS}
        for field in fields:
            kind = field["type"]["type"] if isinstance(field["type"], dict) else field["type"]
            if kind in ("int", "long"):
                whole += 1
                assert bounds[field["name"]].minimum is not None, (record.NAME, field["name"])
                assert bounds[field["name"]].maximum is not None, (record.NAME, field["name"])
        assert record.MAX_BYTES <= MAX_BYTES
    assert whole > 200


@pytest.mark.parametrize(
    "record", [AdaptationOutcome, EpochReviewed, KernelPublished, SeedHealth, SystemStatePacket]
)
@pytest.mark.parametrize("length", [2**20, 2**31, 2**40, 2**62])
def test_a_declared_length_reserves_nothing(record: type[Event], length: int) -> None:
    """A string that says it is longer than its message is refused, whatever it says: nothing is
    reserved for it.
    """
    head = encode(OUTCOME).value[:1] + record.SCHEMA_ID.to_bytes(4, "big")
    number, declared = length << 1, bytearray()
    while number > 0x7F:
        declared.append((number & 0x7F) | 0x80)
        number >>= 7
    declared.append(number)
    with pytest.raises(PoisonError):
        decode(head + bytes(declared) + b"x" * 50)


def beta(*outcomes: AdaptationOutcome, now_us: int = NOW) -> Beta:
    """What another run believes after these outcomes, which the broker had at `NOW`."""
    experience = Experience()
    for outcome in outcomes:
        experience.take(outcome, at_us=NOW)
    return experience.prior(OUTCOME.context, run_id="other", now_us=now_us)


@given(st.lists(st.floats(allow_nan=False), max_size=30), st.integers(0, 2**53 - 1))
def test_no_outcome_stops_growth(rewards: list[float], at: int) -> None:
    """Whatever rewards and times are claimed, the belief is a distribution that at most six trials
    can move, and it expires.
    """
    forged = [
        replace(OUTCOME, decision_id=f"forged {number}", reward=one, occurred_at=at)
        for number, one in enumerate(rewards)
    ]
    believed = beta(*forged)
    assert 1.0 <= believed.successes <= 7.0
    assert 1.0 <= believed.failures <= 7.0
    assert believed.mean >= 1 / 8 - 1e-9
    expired = beta(*forged, now_us=NOW + HORIZON_US)
    assert abs(expired.mean - 0.5) < 0.25 + 0.02 * len(forged)


def test_an_outcome_of_the_future_ages_as_others_do() -> None:
    """One that claims a time in the next century weighs half after a half-life, as the broker's
    clock has it.
    """
    honest, forged = (
        replace(OUTCOME, reward=0.0, occurred_at=NOW),
        replace(OUTCOME, reward=0.0, occurred_at=2**53 - 1),
    )
    later = NOW + 28 * 86_400_000_000
    assert beta(forged, now_us=later) == beta(honest, now_us=later)


def test_random_bytes_are_refused_or_sound() -> None:
    """Thousands of messages of random bytes behind each record's frame: what is decoded is inside
    its bounds.
    """
    draw = random.Random(11)  # noqa: S311  # data for a test
    for record in RECORDS:
        for _ in range(40):
            value = (
                b"\0" + record.SCHEMA_ID.to_bytes(4, "big") + draw.randbytes(draw.randrange(0, 300))
            )
            try:
                event = decode(value)
            except PoisonError:
                continue
            assert not event.unsound()
