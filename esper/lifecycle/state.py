"""The folded state of a run: everything that the journal says, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from json.encoder import encode_basestring_ascii as _quoted
from operator import attrgetter
from typing import Any, Final, Literal, Protocol

from esper.events.records import ExecutionState, LeftOut, Stage

Status = Literal["NEW", "RUNNING", "PAUSED", "COMPLETED", "FAILED"]
KNOWN_COMMANDS = 512  # a command comes again only after a restart of its sender or reader, long before this many others
LATER: Final[dict[str, Any]] = {"instabilities": 0, "left_out": ()}
"""Fields that came after the first journals, with what they say in those: they stand in text and digest only where they say something else."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=asdict).encode


@dataclass(frozen=True)
class SeedState:
    """One seed. `stage_step` and `stage_epoch` say when the present stage began; `errors` counts failures in a row."""

    layer: str
    seed: int
    stage: Stage = "DORMANT"
    execution: ExecutionState = "DORMANT"
    kernel_id: str = ""
    family: str = ""
    decision_id: str = ""
    alpha: float = 0.0
    alpha_target: float = 0.0
    stage_step: int = 0
    stage_epoch: int = 0
    adapted_epoch: int = -1
    errors: int = 0

    def changed(self, **values: Any) -> SeedState:
        """The same seed with other values, as `dataclasses.replace` gives it, without looking at each field."""
        fresh = object.__new__(SeedState)
        fresh.__dict__.update(self.__dict__, **values)
        fresh.__dict__.pop("text", None)
        return fresh

    @cached_property
    def text(self) -> str:
        """The seed's values as a JSON array in the order of the fields; made once, since most seeds stay as they are from epoch to epoch."""
        return (
            f"[{_quoted(self.layer)},{self.seed},{_quoted(self.stage)},{_quoted(self.execution)},{_quoted(self.kernel_id)},"
            f"{_quoted(self.family)},{_quoted(self.decision_id)},{self.alpha!r},{self.alpha_target!r},{self.stage_step},"
            f"{self.stage_epoch},{self.adapted_epoch},{self.errors}]"
        )


@dataclass(frozen=True, slots=True)
class RunState:
    """A run after the events before `sequence`.

    `instabilities` counts the times that training turned unstable; a rollback does not take them back.
    `positions` holds, for each (topic, partition) of commands, the offset of the last command that the journal answers; `commands` the ids
    of the last ones, so that a command which comes twice is applied once. `heard` is the head of the hash chain over all of them. `left_out` are
    decisions that a fork refuses.
    """

    run_id: str
    status: Status = "NEW"
    timeline: int = 0
    sequence: int = 0
    incarnation: int = 0
    epoch: int = 0
    step: int = 0
    seeds: tuple[SeedState, ...] = ()
    adapted_epoch: int = -1
    adaptations: int = 0
    positions: tuple[tuple[str, int, int], ...] = ()
    commands: tuple[str, ...] = ()
    lost: tuple[tuple[str, int], ...] = ()
    instabilities: int = 0
    heard: str = ""
    left_out: tuple[LeftOut, ...] = ()

    def seed(self, layer: str, index: int) -> SeedState | None:
        """The seed at this place, or None."""
        return next((seed for seed in self.seeds if seed.layer == layer and seed.seed == index), None)

    def position(self, topic: str, partition: int) -> int:
        """Offset of the last answered command there, or -1."""
        return next((offset for name, number, offset in self.positions if (name, number) == (topic, partition)), -1)

    def canonical(self) -> str:
        """Canonical JSON of the whole state: equal states have equal text."""
        return _canonical({name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]})

    def digest(self) -> str:
        """SHA-256 of a text that stands for the state, hexadecimal; see `digest_of`."""
        return digest_of(self, self.seeds, self.positions, self.lost)


PLAIN: Final = tuple(one.name for one in fields(RunState) if one.name not in ("seeds", "positions", "commands", "lost"))
"""Fields of a state that hold one value."""

_plain = attrgetter(*PLAIN)


class Plain(Protocol):
    """Whatever has the fields of a state that hold one value."""

    @property
    def run_id(self) -> str: ...  # noqa: D102  # the field of RunState


def digest_of(run: Plain, seeds: Iterable[SeedState], positions: Iterable[tuple[str, int, int]], lost: Iterable[tuple[str, int]]) -> str:
    """SHA-256 of two lines: the canonical JSON of a state's plain fields, positions and losses, and the JSON array of the seeds' texts.

    A seed's text is kept with the seed, and the commands stand in it by the head of their chain, `heard`: an epoch costs what changed in it.
    """
    values: dict[str, Any] = dict(zip(PLAIN, _plain(run), strict=True))
    for name, silent in LATER.items():
        if values[name] == silent:
            del values[name]
    values["positions"], values["lost"] = sorted(positions), sorted(lost)
    return hashlib.sha256(f"{_canonical(values)}\n[{','.join([seed.text for seed in seeds])}]".encode()).hexdigest()


def from_canonical(text: str) -> RunState:
    """The state that `canonical` wrote."""
    raw = json.loads(text)
    raw["seeds"] = tuple(SeedState(**seed) for seed in raw["seeds"])
    raw["positions"] = tuple((topic, partition, offset) for topic, partition, offset in raw["positions"])
    raw["commands"] = tuple(raw["commands"])
    raw["lost"] = tuple((topic, count) for topic, count in raw["lost"])
    raw["left_out"] = tuple(LeftOut(**one) for one in raw.get("left_out", ()))
    return RunState(**raw)
