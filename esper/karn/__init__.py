"""Karn, the innovator: blueprints as data, and which of them to propose for a layer.

No torch in here.
"""

from __future__ import annotations

from esper.karn.innovation import innovate
from esper.karn.ir import BlueprintIR, Budget, Node, parse
from esper.karn.templates import FAMILIES, families_for, generate

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
