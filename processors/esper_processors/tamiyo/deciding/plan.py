"""What a policy gives: commands with their evidence and a reason. Pure.

How a command gets its id, what a plan has to be, and which trials it begins, is the same for every
policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esper.errors import PoisonError
from esper.events.envelope import event_id
from esper.events.records import Command, ReviewedCommand, SystemStatePacket
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.features import context, seeds
from esper_processors.tamiyo.deciding.policy_state import Trial

Prior = Callable[[str], Beta]
"""What earlier runs say of a context; the uniform distribution where nothing may be carried over.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do after a packet, most important first, and why in a sentence."""

    commands: tuple[ReviewedCommand, ...]
    reason: str


def uniform(_: str) -> Beta:
    """No experience: every probability of success is equally likely."""
    return Beta()


def reviewed(
    packet: SystemStatePacket,
    command: Command,
    place: tuple[str, int],
    *,
    confidence: float,
    urgency: float,
    expected_impact: float,
    evidence: dict[str, Any],
    kernel_id: str = "",
    family: str = "",
) -> ReviewedCommand:
    """A command whose id is made from run, timeline, packet, seed and command: a repeated packet
    gives the same.

    Args:
        packet: what is answered.
        command: what to do.
        place: layer and index of the seed.
        confidence: probability, 0 to 1, that it does no harm.
        urgency: probability, 0 to 1, that waiting an epoch costs more than acting.
        expected_impact: expected decrease of the loss, nats.
        evidence: what the decision rests on, as JSON takes it.
        kernel_id: for GERMINATE the kernel to graft.
        family: family of that kernel, or of the one that the seed holds.
    """
    layer, seed = place
    return ReviewedCommand(
        decision_id=decision_id(packet, command, place),
        command=command,
        layer=layer,
        seed=seed,
        kernel_id=kernel_id,
        family=family,
        alpha=-1.0,
        confidence=confidence,
        urgency=urgency,
        expected_impact=expected_impact,
        # sorted: the same decision has to be the same bytes
        evidence=json.dumps(evidence, separators=(",", ":"), sort_keys=True),
    )


def decision_id(packet: SystemStatePacket, command: Command, place: tuple[str, int]) -> str:
    """The id of a command for a seed in the answer to a packet."""
    layer, seed = place
    return event_id(
        packet.run_id, packet.timeline, f"decision/{packet.packet}/{layer}/{seed}/{command}"
    )


def require_plan(plan: object, packet: SystemStatePacket) -> Plan:
    """The plan, where it is one for this packet.

    Raises:
        PoisonError: it is no plan, commands a seed that the packet has not or one seed twice, has
            an id that is not `reviewed`'s, or germinates what the catalogue has not.
    """
    if not isinstance(plan, Plan) or not isinstance(plan.reason, str):
        raise PoisonError(f"it gave {type(plan).__name__} and has to give a Plan with a reason")
    if not isinstance(plan.commands, tuple) or not all(
        isinstance(command, ReviewedCommand) for command in plan.commands
    ):
        raise PoisonError("the commands of its Plan have to be a tuple of ReviewedCommand")
    places, commanded = seeds(packet), set[tuple[str, int]]()
    kernels = {kernel.kernel_id: kernel.family for kernel in packet.catalogue}
    for command in plan.commands:
        place = (command.layer, command.seed)
        where = f"{command.layer}[{command.seed}]"
        if place not in places:
            raise PoisonError(f"it commands {where}, which the packet does not have")
        if place in commanded:
            raise PoisonError(f"it commands {where} twice")
        commanded.add(place)
        # the trainer tells commands apart by it: under another id a repeated packet is applied
        # twice
        if command.decision_id != decision_id(packet, command.command, place):
            raise PoisonError(
                f"the id of its command for {where} is not the one that `reviewed` makes"
            )
        # the family too: outcomes are learned by it, so a wrong one would teach another arm
        if command.command == "GERMINATE" and kernels.get(command.kernel_id) != command.family:
            raise PoisonError(
                f"it germinates {where} with {command.kernel_id!r} of family "
                f"{command.family!r}, which the packet's catalogue does not have"
            )
    return plan


def trials_of(
    packet: SystemStatePacket, commands: tuple[ReviewedCommand, ...]
) -> tuple[Trial, ...]:
    """The trials that these commands begin."""
    layers = {layer.name: layer for layer in packet.layers}
    return tuple(
        Trial(
            decision_id=command.decision_id,
            layer=command.layer,
            seed=command.seed,
            family=command.family,
            kernel_id=command.kernel_id,
            context=context(layers[command.layer], command.family),
            packet=packet.packet,
            epoch=packet.epoch,
        )
        for command in commands
        if command.command == "GERMINATE"
    )
