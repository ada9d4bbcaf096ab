"""The folded state of a run: everything that the journal says, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, ClassVar, Final, Literal, Protocol

from esper.events.records import ExecutionState, LeftOut, Stage

Status = Literal["NEW", "RUNNING", "PAUSED", "COMPLETED", "FAILED"]
# a command comes again only after a restart of its sender or reader, long before this many others
KNOWN_COMMANDS = 512
LATER: Final[dict[str, Any]] = {"instabilities": 0, "left_out": ()}
"""Fields that came after the first journals, with what they say in those: they stand in text and
digest only where they say something else.
"""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=asdict).encode


class _Text:
    """Makes a seed's text when it is first asked for, and leaves it with the seed: most stay as
    they are from epoch to epoch.

    `functools.cached_property` does the same under a lock, which takes half as long as making the
    text.
    """

    def __get__(self, seed: SeedState, kind: type) -> str:
        text = (
            f"[{_quoted(seed.layer)},{seed.seed},{_quoted(seed.stage)},{_quoted(seed.execution)},{_quoted(seed.kernel_id)},"
            f"{_quoted(seed.family)},{_quoted(seed.decision_id)},{seed.alpha!r},{seed.alpha_target!r},{seed.stage_step},"
            f"{seed.stage_epoch},{seed.adapted_epoch},{seed.errors}]"
        )
        seed.__dict__["text"] = text
        return text


@dataclass(frozen=True)
class SeedState:
    """One seed.

    `stage_step` and `stage_epoch` say when the present stage began; `errors` counts failures in a
    row.
    """

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

    text: ClassVar = _Text()
    """The seed's values as a JSON array in the order of the fields."""

    def changed(self, **values: Any) -> SeedState:
        """The same seed with other values, as `dataclasses.replace` gives it, without looking at
        each field.
        """
        fresh = object.__new__(SeedState)
        datum = self.__dict__ | values
        # the cached text is of the old values
        datum.pop("text", None)
        object.__setattr__(fresh, "__dict__", datum)
        return fresh


@dataclass(frozen=True, slots=True)
class RunState:
    """A run after the events before `sequence`.

    `instabilities` counts the times that training turned unstable; a rollback does not take them
    back. `positions` holds, for each (topic, partition) of commands, the offset of the last command
    that the journal answers; `commands` the ids of the last ones, so that a command which comes
    twice is applied once. `heard` is the head of the hash chain over all of them. `left_out` are
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
        return next(
            (seed for seed in self.seeds if seed.layer == layer and seed.seed == index), None
        )

    def position(self, topic: str, partition: int) -> int:
        """Offset of the last answered command there, or -1."""
        return next(
            (
                offset
                for name, number, offset in self.positions
                if (name, number) == (topic, partition)
            ),
            -1,
        )

    def canonical(self) -> str:
        """Canonical JSON of the whole state: equal states have equal text."""
        return _canonical(
            {
                name: value
                for name, value in asdict(self).items()
                if name not in LATER or value != LATER[name]
            }
        )

    def digest(self) -> str:
        """SHA-256 of a text that stands for the state, hexadecimal; see `digest_of`."""
        return digest_of(self, self.seeds, self.positions, self.lost)


PLAIN: Final = tuple(
    member.name
    for member in fields(RunState)
    if member.name not in ("seeds", "positions", "commands", "lost")
)
"""Fields of a state that hold one value."""


class Plain(Protocol):
    """Whatever has the fields of a state that hold one value."""

    # ruff: noqa: D102  # the fields of RunState
    @property
    def run_id(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def timeline(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def adapted_epoch(self) -> int: ...
    @property
    def adaptations(self) -> int: ...
    @property
    def instabilities(self) -> int: ...
    @property
    def heard(self) -> str: ...
    @property
    def left_out(self) -> tuple[LeftOut, ...]: ...


def digest_of(
    run: Plain,
    seeds: Iterable[SeedState],
    positions: Iterable[tuple[str, int, int]],
    lost: Collection[tuple[str, int]],
) -> str:
    """SHA-256 of two lines: the canonical JSON of a state's plain fields, positions and losses, and
    the JSON array of the seeds' texts.

    A seed's text is kept with the seed, and the commands stand in it by the head of their chain,
    `heard`: an epoch costs what changed in it.
    """
    places = ",".join(
        [
            f"[{_quoted(topic)},{partition},{offset}]"
            for topic, partition, offset in sorted(positions)
        ]
    )
    gone = _canonical(sorted(lost)) if lost else "[]"
    instabilities = f'"instabilities":{run.instabilities},' if run.instabilities else ""
    left_out = f'"left_out":{_canonical(run.left_out)},' if run.left_out else ""
    # spelled out in the order of the names: a JSON encoder takes four times as long
    text = (
        f'{{"adaptations":{run.adaptations},"adapted_epoch":{run.adapted_epoch},"epoch":{run.epoch},"heard":{_quoted(run.heard)},'
        f'"incarnation":{run.incarnation},{instabilities}{left_out}"lost":{gone},"positions":[{places}],"run_id":{_quoted(run.run_id)},'
        f'"sequence":{run.sequence},"status":{_quoted(run.status)},"step":{run.step},"timeline":{run.timeline}}}'
    )
    return hashlib.sha256(
        f"{text}\n[{','.join([seed.text for seed in seeds])}]".encode()
    ).hexdigest()


def from_canonical(text: str) -> RunState:
    """The state that `canonical` wrote."""
    raw = json.loads(text)
    raw["seeds"] = tuple(SeedState(**seed) for seed in raw["seeds"])
    # JSON has lists: a list never equals the tuple of a folded state
    raw["positions"] = tuple(
        (topic, partition, offset) for topic, partition, offset in raw["positions"]
    )
    raw["commands"] = tuple(raw["commands"])
    raw["lost"] = tuple((topic, count) for topic, count in raw["lost"])
    raw["left_out"] = tuple(LeftOut(**decision) for decision in raw.get("left_out", ()))
    return RunState(**raw)
