"""The lifecycle of seeds and runs: stages, folded state, `decide` and `evolve`.

Pure, the same live and in replay.
"""

from __future__ import annotations

from esper.lifecycle.decide import Context, decide
from esper.lifecycle.evolve import Fold, evolve, fold
from esper.lifecycle.guardrails import Guardrails
from esper.lifecycle.stages import EXECUTION, HOLDING, IN_TRAINING, LIVE, STAGES, may_follow
from esper.lifecycle.state import RunState, SeedState, from_canonical

__all__ = [
    "EXECUTION",
    "HOLDING",
    "IN_TRAINING",
    "LIVE",
    "STAGES",
    "Context",
    "Fold",
    "Guardrails",
    "RunState",
    "SeedState",
    "decide",
    "evolve",
    "fold",
    "from_canonical",
    "may_follow",
]
