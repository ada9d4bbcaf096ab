"""What Tamiyo knows of a fork before its first packet: what it knew of the parent where the fork
stands.

That is folded anew from the parent's packets and from the answers that they had then, so it is
exact in both decision modes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from esper.clock import Clock
from esper.errors import PoisonError, UsageError
from esper.events import Event, decode
from esper.events.records import EpochReviewed, SystemStatePacket
from esper.events.seals import Trust
from esper.oona.bus.access import Access
from esper.oona.bus.port import Bus
from esper.oona.durable.journal_reader import read_key
from esper.oona.inbound.intake import require_author
from esper_processors.tamiyo.answers import begun, wanted_layers
from esper_processors.tamiyo.deciding.emergency import watch
from esper_processors.tamiyo.deciding.plan import trials_of
from esper_processors.tamiyo.deciding.policies import parse
from esper_processors.tamiyo.deciding.policy_state import PolicyState, observe
from esper_processors.tamiyo.row import Row

ANCESTORS = 64
"""Runs in a line of forks that Tamiyo reads at most: each costs the reading of two partitions."""


@dataclass(frozen=True, slots=True)
class PacketHistory:
    """The packets of a run in their order, up to where it was forked, and the answers to them by
    packet id.
    """

    packets: Sequence[SystemStatePacket]
    answers: dict[str, EpochReviewed]


async def beginning(
    packet: SystemStatePacket, *, access: Access, clock: Clock, trust: Trust
) -> Row:
    """The row with which a run begins at its first packet: an empty one, or of a fork what was
    known of its parent.

    Raises:
        UnavailableError: no broker, or no progress.
    """
    if not packet.parent_run_id:
        return Row()
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415  # only forks need it

    return inherited(
        # in a thread: reading two partitions an ancestor would stop the worker's heartbeats
        await asyncio.to_thread(read_dialogues, KafkaBus(access), packet, clock=clock, trust=trust)
    )


def read_dialogues(
    bus: Bus, packet: SystemStatePacket, *, clock: Clock, trust: Trust | None = None
) -> list[PacketHistory]:
    """The dialogues of a fork's ancestors, the oldest first; blocks while it reads.

    What is not on this Kafka, or not Tamiyo's own, is not there.

    Raises:
        PoisonError: a run is its own ancestor, or there are more than `ANCESTORS` of them.
        UnavailableError: no broker, or no progress.
    """
    dialogues: list[PacketHistory] = []
    line = {packet.run_id}
    while packet.parent_run_id:
        if packet.parent_run_id in line:
            raise PoisonError(
                f"Run {packet.parent_run_id} is its own ancestor, so nothing can be "
                "inherited from it; give the fork another id."
            )
        if len(line) > ANCESTORS:
            raise PoisonError(
                f"Run {packet.run_id} descends from more than {ANCESTORS} runs; start it "
                "as a new run."
            )
        line.add(packet.parent_run_id)
        end = (packet.parent_timeline, packet.parent_packet)
        packets = [
            event
            for event in _read(
                bus, SystemStatePacket.TOPIC, packet.parent_run_id, clock, trust or Trust()
            )
            if isinstance(event, SystemStatePacket)
            # what the parent did after the fork is not the fork's past
            and (event.timeline < end[0] or (event.timeline == end[0] and event.packet <= end[1]))
        ]
        answers = [
            event
            for event in _read(
                bus, EpochReviewed.TOPIC, packet.parent_run_id, clock, trust or Trust()
            )
            if isinstance(event, EpochReviewed)
        ]
        dialogues.append(PacketHistory(packets, {event.packet_id: event for event in answers}))
        if not packets:
            break
        # its first packet names the grandparent, where the parent is a fork too
        packet = packets[0]
    return dialogues[::-1]


def inherited(dialogues: Iterable[PacketHistory]) -> Row:
    """The row with which a fork begins: in its own first timeline, with no answers to
    give again.
    """
    state = PolicyState()
    for dialogue in dialogues:
        state = _anew(state)
        for packet in dialogue.packets:
            # a packet that a resumed parent sent again would be observed twice
            if packet.timeline > state.timeline or packet.packet > state.packet:
                state = _remembered(state, packet, dialogue.answers.get(packet.event_id))
    return Row(_anew(state))


def _anew(state: PolicyState) -> PolicyState:
    """The state in the first timeline of a fork, which has had no emergency yet."""
    return replace(state, timeline=0, watch=replace(state.watch, timeline=-1))


def _remembered(
    state: PolicyState, packet: SystemStatePacket, review: EpochReviewed | None
) -> PolicyState:
    """The state after a packet that was answered before."""
    first, rolled_back = state.packet < 0, packet.timeline > state.timeline
    state, _ = observe(state, packet)
    with suppress(
        UsageError
    ):  # settings that no policy took: such a packet was answered without a look at its layers
        _, settings = parse(packet.policy)
        state, report_layers = wanted_layers(state, packet, settings, first=first)
        seen, _ = watch(state.watch, packet, settings, rolled_back=rolled_back)
        state = replace(state, reports=state.reports + bool(report_layers), watch=seen)
    return begun(state, trials_of(packet, review.commands if review else ()))


def _read(bus: Bus, topic: str, run_id: str, clock: Clock, trust: Trust) -> Iterable[Event]:
    for received in read_key(bus, topic, run_id, what=f"{topic} of run {run_id}", clock=clock):
        with suppress(PoisonError):  # it was put aside as a dead letter when it came
            event = decode(received.value, received.headers)
            require_author(event, received, trust)
            yield event
