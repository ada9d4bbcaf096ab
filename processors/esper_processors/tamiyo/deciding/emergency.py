"""Emergency: whether training has turned unstable, and how far back it should go. Pure.

The rule. A packet is out of bounds if its validation loss L is not finite, or if L > r * B + 1 nat,
where B is the least loss of the last W packets within bounds. A loss that is not finite is an
emergency at once, one that is out of bounds after P packets in a row, so that a single bad
validation sends nobody back. A run goes back at most once in a timeline, so that each emergency is
judged by what came of the last one, and at most `limit` times in all: what keeps diverging has
another cause than a graft. It goes back to where B was reached. r, W, P and the limit are settings;
r = 0 turns it off. The nat keeps small losses from counting as explosions when they double; slow
overfitting moves B along with the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from esper.events.records import SystemStatePacket
from esper.policies import CommonSettings

MARGIN = 1.0
"""Nats above r times the recent best before a loss is out of bounds."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of the losses of a run.

    `losses` are (epoch, validation loss in nats) of the last packets within bounds; `above` how
    many in a row were out of bounds since; `timeline` the one in which the run was last sent back,
    -1 before the first time; `count` how often in all.
    """

    losses: tuple[tuple[int, float], ...] = ()
    above: int = 0
    timeline: int = -1
    count: int = 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """Training is unstable: go back to the last snapshot of at most `epoch` completed epochs."""

    epoch: int
    reason: str


def watch(
    before: Watch, packet: SystemStatePacket, settings: CommonSettings, *, rolled_back: bool
) -> tuple[Watch, Alarm | None]:
    """The watch after a packet, and the alarm if there is one.

    A packet of a new timeline (`rolled_back`) forgets what came after its epoch.
    """
    if rolled_back:
        before = replace(
            before,
            losses=tuple(entry for entry in before.losses if entry[0] < packet.epoch),
            above=0,
        )
    # the first packet shows the model before any training, which is no bound for what follows
    if not settings.emergency_ratio or not packet.packet:
        return before, None
    loss = packet.validation_loss
    # of equal losses the later one: fewer epochs are lost
    epoch, best = min(before.losses, key=lambda entry: (entry[1], -entry[0]), default=(0, math.inf))
    if math.isfinite(loss) and not loss > settings.emergency_ratio * best + MARGIN:
        losses = (*before.losses, (packet.epoch, loss))[-settings.emergency_window :]
        return replace(before, losses=losses, above=0), None
    # a loss out of bounds does not enter the window, or divergence would raise its own bound
    after = replace(before, above=before.above + 1)
    early = math.isfinite(loss) and after.above < settings.emergency_packets
    if early or before.timeline >= packet.timeline or before.count >= settings.emergency_limit:
        return after, None
    return replace(after, timeline=packet.timeline, count=before.count + 1), Alarm(
        epoch, _reason(packet, settings, after.above, epoch, best)
    )


def _reason(
    packet: SystemStatePacket, settings: CommonSettings, above: int, epoch: int, best: float
) -> str:
    if not math.isfinite(packet.validation_loss):
        return (
            f"The validation loss is {packet.validation_loss} after epoch {packet.epoch}: the "
            f"run goes back to epoch {epoch}."
        )
    return (
        f"The validation loss is {packet.validation_loss:.3g} nats after epoch "
        f"{packet.epoch}, for {above} packet(s) above "
        f"{settings.emergency_ratio:g} x {best:.3g} + {MARGIN:g}, its recent best being "
        f"that of epoch {epoch}: the run goes back there."
    )
