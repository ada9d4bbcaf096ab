"""What Tamiyo decides with: policies, bandits, features, experience, and the state of a run.

Pure. What a policy or bandit of another package needs is named here.
"""

from __future__ import annotations

from esper.policies import CommonSettings
from esper_processors.tamiyo.deciding.bandits import Arm, Bandit, Beta
from esper_processors.tamiyo.deciding.features import ArmKey, Choice, choices
from esper_processors.tamiyo.deciding.plan import Plan, Prior, reviewed
from esper_processors.tamiyo.deciding.policies import Policy
from esper_processors.tamiyo.deciding.policy_state import PolicyState, Trial

__all__ = [
    "Arm",
    "ArmKey",
    "Bandit",
    "Beta",
    "Choice",
    "CommonSettings",
    "Plan",
    "Policy",
    "PolicyState",
    "Prior",
    "Trial",
    "choices",
    "reviewed",
]
