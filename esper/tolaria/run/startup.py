"""How the start of a run is spent, from the creation of its process to the end of its first live
step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from esper.clock import Clock

Part = Literal["imports", "stack", "journal", "data_model", "restore", "re_execution", "first_step"]
_NAMES: Final[dict[Part, str]] = {
    "imports": "imports",
    "stack": "broker",
    "journal": "outbox and journal",
    "data_model": "data and model",
    "restore": "restoring",
    "re_execution": "re-executing the record",
    "first_step": "first step",
}


@dataclass(slots=True)
class Startup:
    """Seconds by part, in the order in which they were spent.

    `last` is when the last of them ended, by the clock's monotonic time.

    imports: until torch and Esper are imported, the stack coming up beside it. stack: the rest of
    the wait for a broker that answers. journal: outbox locked, other writers fenced, journal read
    and folded, kernels known. data_model: both at step 0. restore: snapshot copied, RunResumed
    committed. re_execution: what the record has after the snapshot. first_step: the first live one,
    with a consultation that comes before it.
    """

    clock: Clock
    last: float
    seconds: dict[Part, float] = field(default_factory=dict)
    live: bool = False

    @classmethod
    def of(cls, clock: Clock, age_s: float = 0.0) -> Startup:
        """That of a process which was created `age_s` seconds ago."""
        return cls(clock, clock.monotonic() - age_s)

    def spent(self, part: Part) -> None:
        """All time since the last call went into `part`."""
        now = self.clock.monotonic()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def stepped(self) -> bool:
        """A live step is done; whether it is the first."""
        first, self.live = not self.live, True
        if first:
            self.spent("first_step")
        return first

    @property
    def total(self) -> float:
        """Seconds from the creation of the process."""
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, float]:
        """Seconds by part, and in all."""
        return {
            **{part: round(seconds, 3) for part, seconds in self.seconds.items()},
            "total": round(self.total, 3),
        }

    def sentence(self) -> str:
        """The same for people."""
        parts = ", ".join(f"{_NAMES[part]} {seconds:.2f}" for part, seconds in self.seconds.items())
        return f"The next step came {self.total:.2f} s after the process began: {parts}."
