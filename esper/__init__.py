"""Esper trains PyTorch models that grow while they train, and keeps the whole run as events."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.kasmina import AveragedModel, germinate, harvest, inventory
    from esper.library import GrowthTracker, grow, load, load_model
    from esper.tolaria.recipes.images import read_images
    from esper.tolaria.recipes.splits import Splits
    from esper.tolaria.step.tasks import Metric, Outcome, Task

_HOMES = {
    "AveragedModel": "esper.kasmina",
    "GrowthTracker": "esper.library",
    "Metric": "esper.tolaria.step.tasks",
    "Outcome": "esper.tolaria.step.tasks",
    "Splits": "esper.tolaria.recipes.splits",
    "Task": "esper.tolaria.step.tasks",
    "germinate": "esper.kasmina",
    "grow": "esper.library",
    "harvest": "esper.kasmina",
    "inventory": "esper.kasmina",
    "load": "esper.library",
    "load_model": "esper.library",
    "read_images": "esper.tolaria.recipes.images",
}
__all__ = [
    "AveragedModel",
    "GrowthTracker",
    "Metric",
    "Outcome",
    "Splits",
    "Task",
    "germinate",
    "grow",
    "harvest",
    "inventory",
    "load",
    "load_model",
    "read_images",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the library form on first use, so that `esper --help` never imports torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'esper' has no attribute {name!r}")
