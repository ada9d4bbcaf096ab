"""Karn, the innovator: blueprints as data, and which of them to propose for a layer.

No torch in here.
"""

from __future__ import annotations

from esper.karn.innovation import innovate
from esper.karn.ir import BlueprintIR, Budget, Node, parse
from esper.karn.place import ChunkPlace
from esper.karn.templates import BUILT_IN, Family, families_for, generate

__all__ = [
    "BUILT_IN",
    "BlueprintIR",
    "Budget",
    "ChunkPlace",
    "Family",
    "Node",
    "families_for",
    "generate",
    "innovate",
    "parse",
]
