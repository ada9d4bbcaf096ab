"""The folded state of a run: everything that the journal says, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from esper.events.records import ExecutionState, LeftOut, Stage

Status = Literal["NEW", "RUNNING", "PAUSED", "COMPLETED", "FAILED"]
KNOWN_COMMANDS = 512  # a command comes again only after a restart of its sender or reader, long before this many others


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class RunState:
    """A run after the events before `sequence`.

    `instabilities` counts the times that training turned unstable; a rollback does not take them back.
    `positions` holds, for each (topic, partition) of commands, the offset of the last command that the journal answers; `commands` the ids
    of the last ones, so that a command which comes twice is applied once. `left_out` are decisions that a fork refuses.
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
    commands: tuple[str, ...] = field(default=())
    lost: tuple[tuple[str, int], ...] = ()
    instabilities: int = 0
    left_out: tuple[LeftOut, ...] = ()

    def seed(self, layer: str, index: int) -> SeedState | None:
        """The seed at this place, or None."""
        return next((seed for seed in self.seeds if seed.layer == layer and seed.seed == index), None)

    def with_seed(self, changed: SeedState) -> RunState:
        """The same state with one seed replaced."""
        seeds = tuple(changed if (seed.layer, seed.seed) == (changed.layer, changed.seed) else seed for seed in self.seeds)
        return replace(self, seeds=seeds)

    def position(self, topic: str, partition: int) -> int:
        """Offset of the last answered command there, or -1."""
        return next((offset for name, number, offset in self.positions if (name, number) == (topic, partition)), -1)

    def canonical(self) -> str:
        """Canonical JSON of the whole state: equal states have equal text.

        Fields that came after the first journals stand in it only where they say something, so that those journals still prove themselves.
        """
        values = asdict(self)
        if not self.instabilities:
            del values["instabilities"]
        if not self.left_out:
            del values["left_out"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def from_canonical(text: str) -> RunState:
    """The state that `canonical` wrote."""
    raw = json.loads(text)
    raw["seeds"] = tuple(SeedState(**seed) for seed in raw["seeds"])
    raw["positions"] = tuple((topic, partition, offset) for topic, partition, offset in raw["positions"])
    raw["commands"] = tuple(raw["commands"])
    raw["lost"] = tuple((topic, count) for topic, count in raw["lost"])
    raw["left_out"] = tuple(LeftOut(**one) for one in raw.get("left_out", ()))
    return RunState(**raw)
