"""The eleven stages of a seed, the five execution states, and which stage may follow which."""

from __future__ import annotations

from typing import Final

from esper.events.records import ExecutionState, Stage

NEXT: Final[dict[Stage, frozenset[Stage]]] = {
    "DORMANT": frozenset({"GERMINATED", "TERMINATED"}),
    "GERMINATED": frozenset({"TRAINING", "RESETTING"}),
    "TRAINING": frozenset({"BLENDING", "CULLED", "RESETTING"}),
    "BLENDING": frozenset({"SHADOWING", "CULLED", "RESETTING"}),
    "SHADOWING": frozenset({"PROBATIONARY", "CULLED", "RESETTING"}),
    "PROBATIONARY": frozenset({"FOSSILIZED", "CULLED", "RESETTING"}),
    "FOSSILIZED": frozenset({"TERMINATED"}),
    "CULLED": frozenset({"EMBARGOED", "RESETTING"}),
    "EMBARGOED": frozenset({"DORMANT", "RESETTING"}),
    "RESETTING": frozenset({"DORMANT"}),
    "TERMINATED": frozenset(),
}
"""Stages that may follow each stage.

RESETTING from a working stage is the way out of an error and of a rollback.
"""

STAGES: Final[tuple[Stage, ...]] = tuple(NEXT)
"""Every stage."""

EXECUTION: Final[dict[Stage, ExecutionState]] = {
    "DORMANT": "DORMANT",
    "GERMINATED": "LOADING",
    "TRAINING": "ACTIVE",
    "BLENDING": "ACTIVE",
    "SHADOWING": "ACTIVE",
    "PROBATIONARY": "ACTIVE",
    "FOSSILIZED": "FOSSILIZED",
    "CULLED": "DORMANT",
    "EMBARGOED": "DORMANT",
    "RESETTING": "DORMANT",
    "TERMINATED": "DORMANT",
}
"""Execution state that a stage begins in.

The breaker moves LOADING and ACTIVE to ERROR_RECOVERY and keeps the stage.
"""

LIVE: Final[frozenset[Stage]] = frozenset({"BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"})
"""Stages in which the kernel takes part in the live forward pass."""

IN_TRAINING: Final[frozenset[Stage]] = frozenset({"GERMINATED", "TRAINING"})
"""Stages in which a kernel is loaded and trained, before its gate."""

HOLDING: Final[frozenset[Stage]] = LIVE | IN_TRAINING
"""Stages in which the slot holds, or waits for, a kernel."""

ADVANCE: Final[dict[Stage, Stage]] = {
    "TRAINING": "BLENDING",
    "BLENDING": "SHADOWING",
    "SHADOWING": "PROBATIONARY",
}
"""Where the command ADVANCE leads; the other stages leave by their own ways."""

FALLBACK_ENDS: Final[frozenset[Stage]] = frozenset({"CULLED", "RESETTING"})
"""Stages that a seed in ERROR_RECOVERY may go to: its kernel is gone, so nothing can come of it."""


def may_follow(before: Stage, after: Stage) -> bool:
    """Whether a seed may go from `before` to `after`."""
    return after in NEXT[before]


def ways_to(after: Stage) -> frozenset[Stage]:
    """Stages that `after` may follow."""
    return frozenset(stage for stage in STAGES if may_follow(stage, after))
