"""Policies by name: Esper's own and those of installed packages.

A policy decides; what all of them share (state, trials, experience, emergency, the answer itself)
stays outside of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np

from esper import policies
from esper.errors import UsageError
from esper.events.records import SystemStatePacket
from esper.plugins import POLICIES, together
from esper.policies import CommonSettings, PolicySpec, settings_of
from esper_processors.tamiyo.deciding import schedule
from esper_processors.tamiyo.deciding.plan import Plan, Prior
from esper_processors.tamiyo.deciding.policy_state import PolicyState

Decide = Callable[[PolicyState, SystemStatePacket, Any, Prior, np.random.Generator], Plan]
"""The plan for a packet that the state has already observed, by settings, experience and a random
generator of its own.

A pure function: it keeps nothing, asks no clock, and draws from that generator alone, or a packet
that comes again and a run in lockstep would get other decisions.
"""


@dataclass(frozen=True, slots=True)
class Policy(PolicySpec):
    """A policy: what a recipe may say of it, and what decides.

    Attributes:
        decide: See `Decide`; its settings are an instance of the class `settings`.
    """

    decide: Decide


SCHEDULE: Final = Policy(
    policies.SCHEDULE.name, policies.SCHEDULE.version, policies.SCHEDULE.settings, schedule.decide
)
OWN: Final[Mapping[str, Policy]] = {SCHEDULE.name: SCHEDULE}


@cache
def known() -> Mapping[str, Policy]:
    """Every policy by name.

    Raises:
        UsageError: a package's cannot be used; the package is named.
    """
    return together(POLICIES, Policy, OWN)


# the packets of a run repeat their settings; bounded, as senders choose the texts
@lru_cache(maxsize=64)
def parse(text: str) -> tuple[Policy, CommonSettings]:
    """The policy and its settings in a packet's JSON object `text`.

    Raises:
        UsageError: no JSON object, no policy of that name, an unknown key (the nearest right one is
            named), or a value out of range.
    """
    try:
        section = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"The policy settings are not JSON: {error}.") from error
    if not isinstance(section, dict):
        raise UsageError("The policy settings are not a JSON object.")
    policy = policies.named(section, known())
    return policy, settings_of(section, policy)
