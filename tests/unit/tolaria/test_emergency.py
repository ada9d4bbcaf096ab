"""The trainer's side of an emergency: it waits for the request that an answer names, and goes back
as far as that says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper.clock import ManualClock
from esper.events import Event, Origin
from esper.events.records import (
    CheckpointTaken,
    EpochReviewed,
    RollbackRequested,
    RunRolledBack,
    SystemStatePacket,
)
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.exchange.consultation import Consultation
from esper.tolaria.session.composition import RolledBack
from esper.tolaria.session.session import Session
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, recipe

TAMIYO = Origin("laboratory-1", "tamiyo", "0" * 32, CLOCK)
BACK = RollbackRequested(
    **TAMIYO.envelope("emergency/3"),
    snapshot_id="",
    reason="It explodes.",
    expires_at=2**52,
    at_most_epoch=1,
)


def packet(number: int) -> SystemStatePacket:
    """A packet of the run's first timeline."""
    return SystemStatePacket(
        **TAMIYO.envelope(f"packet/{number}"),
        timeline=0,
        packet=number,
        epoch=number,
        step=8 * number,
        total_steps=64,
        run_seed=0,
        decisions="LOCKSTEP",
        train_loss=1.0,
        train_accuracy=0.5,
        validation_loss=9.0,
        validation_accuracy=0.5,
        learning_rate=1e-3,
        gradient_norm=1.0,
        layers=(),
        catalogue=(),
        policy="{}",
    )


def review(number: int, rollback_id: str) -> EpochReviewed:
    """An answer without commands."""
    return EpochReviewed(
        **TAMIYO.envelope(f"review/{number}"),
        packet_id=packet(number).event_id,
        timeline=0,
        packet=number,
        epoch=number,
        step=8 * number,
        effective_step=8 * number,
        policy_version="",
        commands=(),
        reason="",
        duration_us=0,
        rollback_id=rollback_id,
    )


@dataclass
class Script:
    """An inbox in which a message comes at each look but every second, and a producer
    that counts.
    """

    messages: list[Event]
    looks: int = 0
    sent: list[Event] = field(default_factory=list)

    def take(self) -> Sequence[Delivered]:
        self.looks += 1
        if self.looks % 2 or not self.messages:
            return ()
        return (Delivered(self.messages.pop(0), ("script", 0, self.looks)),)

    def send(self, event: Event) -> None:
        self.sent.append(event)


def unexpected() -> None:
    """Nobody is silent for long."""
    raise AssertionError


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_in_lockstep_the_request_takes_effect_at_the_packet_in_whichever_order_they_come(
    order: tuple[int, int],
) -> None:
    """The dialogue about packet 3 does not end before the request that its answer names has been
    handled.
    """
    both: list[Event] = [review(3, BACK.event_id), BACK]
    script = Script([both[one] for one in order])
    talk = Consultation(
        run_id="laboratory-1",
        inbox=script,
        producer=script,
        clock=ManualClock(),
        lockstep=True,
        timeout_s=1.0,
    )

    def handle(delivered: Delivered) -> None:
        if isinstance(delivered.event, RollbackRequested):
            raise RolledBack

    with pytest.raises(RolledBack):
        talk.ask(packet(3), handle, lambda: False, silent=unexpected)


def test_a_request_that_changes_nothing_ends_the_dialogue_too() -> None:
    """Where there is no snapshot to go back to, the request is heard, and training goes on.

    Live, its absence is waited for no longer than an answer.
    """
    script, heard = Script([review(3, BACK.event_id), BACK]), list[str]()
    talk = Consultation(
        run_id="laboratory-1",
        inbox=script,
        producer=script,
        clock=ManualClock(),
        lockstep=True,
        timeout_s=1.0,
    )
    talk.ask(
        packet(3),
        lambda delivered: heard.append(delivered.event.NAME),
        lambda: False,
        silent=unexpected,
    )
    assert heard == ["EpochReviewed", "RollbackRequested"]
    lost = Script([review(3, BACK.event_id)])
    live = Consultation(
        run_id="laboratory-1",
        inbox=lost,
        producer=lost,
        clock=ManualClock(),
        lockstep=False,
        timeout_s=1.0,
        heard=True,
    )
    live.ask(packet(3), lambda _: None, lambda: False, silent=unexpected)
    assert not live.heard


def test_the_run_goes_back_to_the_last_snapshot_of_that_epoch_or_before(tmp_path: Path) -> None:
    """At step 29, in epoch 3, a request for epoch 1 at most restores step 8, not 24.

    One for which there is none is ignored and said.
    """
    laboratory = Laboratory(tmp_path, recipe(), GROWTH[:1])
    nothing = RollbackRequested(
        **TAMIYO.envelope("none"),
        snapshot_id="",
        reason="Too far.",
        expires_at=2**52,
        at_most_epoch=0,
    )

    def disturb(session: Session) -> None:
        if session.step == 29 and session.state.timeline == 0:
            session.parts.checkpoints.taken = [
                one for one in session.parts.checkpoints.taken if one.at_epoch
            ]
            for number, event in enumerate((nothing, BACK)):
                session.parts.consultation.waiting.append(Delivered(event, ("tamiyo", 0, number)))

    laboratory.disturb = disturb
    laboratory.run()
    events = laboratory.journal()
    (rolled,) = (event for event in events if isinstance(event, RunRolledBack))
    assert (rolled.from_step, rolled.step, rolled.epoch, rolled.reason, rolled.command_id) == (
        29,
        8,
        1,
        "It explodes.",
        BACK.event_id,
    )
    assert [one.at_step for one in events if isinstance(one, CheckpointTaken)][:4] == [0, 8, 16, 24]
    said = laboratory.said.getvalue()
    assert (
        "There is no snapshot of epoch 0 or before to roll back to; the request is ignored." in said
    )
    assert "Timeline 1 begins at step 8, from snapshot t0-s8-" in said
