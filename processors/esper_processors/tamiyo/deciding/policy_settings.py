"""The policy's settings of a run, read from the JSON object in its packets.

The recipe owns and documents them for users.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esper.errors import UsageError
from esper.lifecycle import Guardrails
from esper_processors.tamiyo.deciding.bandits import Bandit

_ACCEPTED = Guardrails()  # what the trainer accepts by default


class PolicySettings(BaseModel):
    """When Tamiyo germinates, how much at once, and what it must be sure of.

    Epochs and steps are the trainer's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(
        default="thompson-1", description="version of the policy; part of the key of its randomness"
    )
    bandit: Bandit = Field(
        default="thompson",
        description="how an arm is chosen: thompson, ucb, epsilon-greedy or performance-weighted",
    )
    first_epoch: int = Field(
        default=5, ge=0, description="epochs completed before the first germination"
    )
    every_epochs: int = Field(
        default=3, ge=1, description="epochs between two occasions to germinate"
    )
    last_fraction: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="no germination after this fraction of the foreseen steps",
    )
    max_active: int = Field(
        default=4, ge=0, description="seeds that hold a kernel and are not fossilised yet, at most"
    )
    max_training: int = Field(
        default=2, ge=0, description="seeds in GERMINATED or TRAINING at most"
    )
    min_confidence: float = Field(
        default=_ACCEPTED.confidence,
        ge=0,
        le=1,
        description="a command needs more confidence than this",
    )
    min_urgency: float = Field(
        default=_ACCEPTED.urgency,
        ge=0,
        le=1,
        description="a germination needs more urgency than this",
    )
    fossilise_after_epochs: int = Field(
        default=3, ge=0, description="epochs in PROBATIONARY before a kernel may be kept"
    )
    cull_training_after_steps: int = Field(
        default=0,
        ge=0,
        description=(
            "shadow-pass steps before a kernel that promises too little may be culled early"
        ),
    )
    parameter_budget: int = Field(
        default=20000, ge=1, description="largest number of parameters of one kernel"
    )
    emergency_ratio: float = Field(
        default=2.0,
        ge=0,
        description=(
            "a validation loss above this multiple of its recent best, plus 1 nat, is out of "
            "bounds; 0: no emergency"
        ),
    )
    emergency_window: int = Field(
        default=10, ge=1, description="packets within bounds among which the recent best is sought"
    )
    emergency_packets: int = Field(
        default=2,
        ge=1,
        description=(
            "packets out of bounds in a row that are an emergency; one that is not finite is "
            "at once"
        ),
    )
    emergency_limit: int = Field(default=3, ge=0, description="times that a run may be sent back")
    families: tuple[str, ...] = Field(
        default=(), description="blueprint families to try; empty means all"
    )


@lru_cache(maxsize=64)
def parse(text: str) -> PolicySettings:
    """The settings in the JSON object `text`; keys that it leaves out have their defaults.

    Raises:
        UsageError: no JSON object, an unknown key (the nearest right one is named), or a value out
            of range.
    """
    try:
        given = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"The policy settings are not JSON: {error}.") from error
    if not isinstance(given, dict):
        raise UsageError("The policy settings are not a JSON object.")
    known = list(PolicySettings.model_fields)
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise UsageError(f"Tamiyo knows no policy setting {key!r}; {remedy}")
    try:
        return PolicySettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"Policy setting {'.'.join(str(part) for part in first['loc'])}: {first['msg']}."
        ) from error
