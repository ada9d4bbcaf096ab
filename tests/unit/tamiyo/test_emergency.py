"""When training is an emergency, and how far back the run goes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from esper.events import decode
from esper.events.records import EpochReviewed, RollbackRequested
from esper.policies import CommonSettings
from esper_processors.tamiyo import row as rows
from esper_processors.tamiyo.answers import answer
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.emergency import Alarm, Watch, watch
from esper_processors.tamiyo.deciding.policies import parse
from esper_processors.tamiyo.row import Row
from tests.unit.tamiyo.world import Family, World

CONV = Family("conv1d", 0.2, blend="LERP")
PLAIN = CommonSettings()


def given(text: str) -> CommonSettings:
    """The settings in a packet's text."""
    return parse(text)[1]


def alarms(
    losses: Iterable[float],
    settings: CommonSettings = PLAIN,
    timeline: int = 0,
    before: Watch | None = None,
) -> list[Alarm | None]:
    """What the losses of epochs 1, 2, ... lead to."""
    found, seen = list[Alarm | None](), before or Watch()
    packet = World({"0": 40}, {"0": (CONV,)}).packet()
    for number, loss in enumerate(losses, start=1):
        shown = replace(
            packet, packet=number, epoch=number, timeline=timeline, validation_loss=loss
        )
        seen, alarm = watch(seen, shown, settings, rolled_back=False)
        found.append(alarm)
    return found


def test_an_explosion_sends_the_run_back_to_its_recent_best() -> None:
    """Two packets in a row above twice the best plus a nat: one alarm, with the epoch of the best
    and the figures in its sentence.
    """
    *quiet, alarm = alarms([2.0, 1.5, 1.6, 4.1, 9.0])
    assert quiet == [None] * 4
    assert alarm == Alarm(
        2,
        (
            "The validation loss is 9 nats after epoch 5, for 2 packet(s) above 2 x 1.5 + 1, "
            "its recent best being that of epoch 2: the run goes back there."
        ),
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_emergency_at_once(loss: float) -> None:
    """The first such packet is enough, also before any other loss was seen: then the run begins
    again.
    """
    alarm = alarms([2.0, 1.5, loss])[-1]
    assert alarm is not None
    assert (alarm.epoch, alarm.reason) == (
        2,
        f"The validation loss is {loss} after epoch 3: the run goes back to epoch 2.",
    )
    (first,) = alarms([loss])
    assert first is not None
    assert first.epoch == 0


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.5, 9.0, 1.6, 9.0, 1.7],  # single bad validations
        [0.01, 0.4, 0.9, 1.0],  # small losses that grow a hundredfold, and are small still
        [1.0 * 1.05**number for number in range(60)],  # overfitting moves the recent best along
        [2.3] * 9,
    ],
)
def test_what_is_no_emergency(losses: list[float]) -> None:
    """Spikes, small losses and slow drift send nobody back."""
    assert alarms(losses) == [None] * len(losses)


def test_the_settings_of_the_rule() -> None:
    """Ratio, window, packets in a row and limit do what they say.

    Ratio 0 turns it off, for what is not finite too.
    """
    assert not any(alarms([1.0, math.nan, 99.0, 99.0, 99.0], given('{"emergency_ratio": 0}')))
    assert not any(alarms([1.0, math.nan, 99.0, 99.0], given('{"emergency_limit": 0}')))
    assert [
        bool(one) for one in alarms([1.0, 99.0, 99.0, 99.0], given('{"emergency_packets": 3}'))
    ] == [False, False, False, True]
    assert [bool(one) for one in alarms([1.0, 2.6, 2.6], given('{"emergency_ratio": 1.5}'))] == [
        False,
        False,
        True,
    ]
    drift = [1.0, 2.9, 5.0, 5.0]
    assert any(alarms(drift, given('{"emergency_window": 10}')))
    assert not any(alarms(drift, given('{"emergency_window": 1}')))


def test_once_in_a_timeline_and_seldom_in_a_run() -> None:
    """While the rollback is on its way nothing more is asked.

    A new timeline may ask again, as often as the limit allows.
    """
    assert [bool(one) for one in alarms([1.0, 9.0, 9.0, math.nan, 9.0])] == [
        False,
        False,
        True,
        False,
        False,
    ]
    packet, seen, told = World({"0": 40}, {"0": (CONV,)}).packet(), Watch(), []
    for timeline in range(5):
        for number, loss in ((1, 1.0), (2, math.nan), (3, math.nan)):
            shown = replace(
                packet, packet=number, epoch=number, timeline=timeline, validation_loss=loss
            )
            seen, alarm = watch(seen, shown, PLAIN, rolled_back=number == 1 and timeline > 0)
            told += [(timeline, alarm.epoch)] if alarm else []
    assert told == [(0, 1), (1, 1), (2, 1)]


def test_a_new_timeline_forgets_what_came_after_its_beginning() -> None:
    """A best of the timeline that was left, later than where the new one stands, is no measure any
    more.
    """
    packet = World({"0": 40}, {"0": (CONV,)}).packet()
    before = Watch(((3, 2.0), (4, 0.2)), above=1, timeline=0, count=1)
    shown = replace(packet, packet=4, epoch=4, timeline=1, validation_loss=1.9)
    after, alarm = watch(before, shown, PLAIN, rolled_back=True)
    assert alarm is None
    assert after == Watch(((3, 2.0), (4, 1.9)), above=0, timeline=0, count=1)


def unstable(**changed: Any) -> tuple[World, Row, list[Any]]:
    """A world whose packet 2 has a loss that is not finite, and the events that answer it."""
    world = World({"0": 40}, {"0": (CONV,)}, **changed)
    row = Row()
    for number, loss in ((1, 1.5), (2, math.nan)):
        packet = replace(world.packet(), packet=number, epoch=number, validation_loss=loss)
        reply = answer(row, packet, prior=lambda *_: Beta(), clock=world.clock)
        assert reply.row is not None
        row = rows.decode(rows.encode(reply.row))
    return world, row, [decode(message.value) for message in reply.messages]


def test_the_answer_names_the_request_that_goes_with_it() -> None:
    """EpochReviewed gives no commands and the reason; RollbackRequested is caused by the packet.

    A packet that comes again gets both again.
    """
    world, row, events = unstable()
    (review,) = [event for event in events if isinstance(event, EpochReviewed)]
    (back,) = [event for event in events if isinstance(event, RollbackRequested)]
    assert (review.commands, review.reason, review.rollback_id) == ((), back.reason, back.event_id)
    assert (back.causation_id, back.snapshot_id, back.at_most_epoch) == (review.packet_id, "", 1)
    assert row.state.watch == Watch(((1, 1.5),), above=1, timeline=0, count=1)
    again = answer(
        row,
        replace(world.packet(), packet=2, epoch=2, validation_loss=math.nan),
        prior=lambda *_: Beta(),
        clock=world.clock,
    )
    assert [decode(message.value) for message in again.messages][: len(events)] == events


def test_a_quiet_packet_is_answered_without_a_request() -> None:
    """No rollback is named or sent while the loss is in bounds."""
    events = [decode(message.value) for message in World({"0": 40}, {"0": (CONV,)}).ask().messages]
    assert not any(isinstance(event, RollbackRequested) for event in events)
    assert [event.rollback_id for event in events if isinstance(event, EpochReviewed)] == [""]
