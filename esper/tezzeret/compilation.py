"""What a compilation tells while it runs, and what comes out of it. No torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from esper.clock import Clock
from esper.events.records import Check
from esper.karn.ir import BlueprintIR, Budget
from esper.urza.artefact import Sealed


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """An attempt begins; attempts count from 1."""

    attempt: int
    configuration: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt failed: the error in a sentence, and the whole diagnostic."""

    attempt: int
    configuration: str
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A kernel was built, but did not pass every check. A Failed follows."""

    attempt: int
    kernel_id: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel that passed every check.

    `compile_ms` is the attempt's time, checks included; `latency_us` that of an eager forward of 32
    samples.
    """

    ir: BlueprintIR
    sealed: Sealed
    checks: tuple[Check, ...]
    attempt: int
    configuration: str
    compile_ms: float
    latency_us: float


Progress = Callable[[AttemptStarted | Failed | Rejected], None]
"""Hears of every attempt as it happens."""


class Compiler(Protocol):
    """What `esper.tezzeret.compile.compile_kernel` is to its callers."""

    def __call__(
        self, ir: BlueprintIR, budget: Budget, *, clock: Clock, progress: Progress
    ) -> Compiled:
        """The kernel of a blueprint. Raises BuildError when no configuration passed."""
