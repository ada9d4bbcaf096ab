"""What Esper's figures are on this machine: `esper bench`.

Each figure is one function under `@figure`, in the module of its family.
"""

from __future__ import annotations

from esper.bench.figure_registry import Bench, Figure, figure
from esper.bench.report import measure

__all__ = ["Bench", "Figure", "figure", "measure"]
