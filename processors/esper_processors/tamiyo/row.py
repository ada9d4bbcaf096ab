"""A run's row in Tamiyo's table: its state and its last answers, as bytes."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from esper.errors import PoisonError
from esper_processors.consumers import readable
from esper_processors.tamiyo.deciding.bandits import Gain
from esper_processors.tamiyo.deciding.emergency import Watch
from esper_processors.tamiyo.deciding.features import ArmKey
from esper_processors.tamiyo.deciding.policy_state import ArmRecord, PolicyState, Span, Trial

FORMAT = 1
"""Version of the bytes.

A row of another version is forgotten: what it knew comes back with the next packets, but for the
trials on the way.
"""
UNPACKED_BYTES = 256 << 20
"""Largest row, unpacked; 4 MiB of zeros would unpack to 4 GiB."""
KEPT_ANSWERS = 32
"""Answers that are kept to be given again. Older ones stand in the topic for ever."""


@dataclass(frozen=True, slots=True)
class PacketAnswer:
    """The framed events with which a packet was answered, the review first."""

    packet: int
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What the table keeps of a run."""

    state: PolicyState = field(default_factory=PolicyState)
    answers: tuple[PacketAnswer, ...] = ()

    def answer(self, packet: int) -> PacketAnswer | None:
        """The answer that a packet of the present timeline has had, if it is still kept."""
        return next((answer for answer in self.answers if answer.packet == packet), None)

    def answered(self, state: PolicyState, answer: PacketAnswer) -> Row:
        """The row after an answer. A new timeline forgets the answers of the one before."""
        earlier = self.answers if state.timeline == self.state.timeline else ()
        return Row(state, (*earlier, answer)[-KEPT_ANSWERS:])


def encode(row: Row) -> bytes:
    """The row's bytes: compressed JSON."""
    state = row.state
    plain = {
        "format": FORMAT,
        "timeline": state.timeline,
        "packet": state.packet,
        "arms": [
            [key.layer, key.family, asdict(record)] for key, record in sorted(state.arms.items())
        ],
        "trials": [asdict(trial) for trial in state.trials.values()],
        "kernels": state.kernels,
        "uses": [[layer, seed, count] for (layer, seed), count in state.uses.items()],
        "training": asdict(state.training),
        "grafting": asdict(state.grafting),
        "reports": state.reports,
        "reported": list(state.reported),
        "watch": asdict(state.watch),
        "answers": [
            # base85 is a quarter longer than the bytes, base64 a third; rows have a limit
            [answer.packet, [base64.b85encode(value).decode() for value in answer.values]]
            for answer in row.answers
        ],
    }
    # the fastest level: a row is written for every packet, while a lockstep trainer waits
    return zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 1)


def decode(data: bytes) -> Row:
    """The row in `data`; an empty one when another version of Tamiyo wrote it."""
    plain: dict[str, Any] = json.loads(_unpacked(data))
    if plain.get("format") != FORMAT:
        return Row()
    trials = [Trial(**trial) for trial in plain["trials"]]
    state = PolicyState(
        timeline=plain["timeline"],
        packet=plain["packet"],
        arms={ArmKey(layer, family): _record(record) for layer, family, record in plain["arms"]},
        trials={trial.decision_id: trial for trial in trials},
        kernels=plain["kernels"],
        uses={(layer, seed): count for layer, seed, count in plain["uses"]},
        training=Span(**plain["training"]),
        grafting=Span(**plain["grafting"]),
        reports=plain["reports"],
        reported=tuple(plain["reported"]),
        watch=_watch(plain.get("watch", {})),
    )
    answers = tuple(
        PacketAnswer(packet, tuple(base64.b85decode(value) for value in values))
        for packet, values in plain["answers"]
    )
    return Row(state, answers)


def known(data: bytes | None) -> Row | None:
    """The row in `data`.

    None where there is none, or it cannot be read: what it knew comes back with the next packets.
    """
    return readable(decode, data, "A row of Tamiyo's table")


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(data, UNPACKED_BYTES)
    if not unpacking.eof:
        raise PoisonError(
            f"A row of Tamiyo's table is cut off, or has more than {UNPACKED_BYTES:,} "
            "bytes unpacked."
        )
    return text


def _watch(plain: dict[str, Any]) -> Watch:
    losses = tuple((epoch, loss) for epoch, loss in plain.get("losses", ()))
    return Watch(**{**plain, "losses": losses})


def _record(plain: dict[str, Any]) -> ArmRecord:
    record = ArmRecord(**{**plain, "gain": Gain()})
    return replace(record, gain=Gain(**plain["gain"]))
