"""Karn, the innovator: blueprints as data, and which of them to propose for a layer.

No torch in here.
"""

from __future__ import annotations

from esper.karn.families import FAMILIES, families_for, generate
from esper.karn.innovation import innovate
from esper.karn.ir import BlueprintIR, Budget, Node, parse

__all__ = [
    "FAMILIES",
    "BlueprintIR",
    "Budget",
    "Node",
    "families_for",
    "generate",
    "innovate",
    "parse",
]
