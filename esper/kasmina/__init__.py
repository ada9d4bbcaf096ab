"""Kasmina, the execution layer: seeded layers, slots, shadow pass, statistics, kernel loading."""

from __future__ import annotations

from esper.kasmina.germination import germinate, harvest
from esper.kasmina.growth import GrowingModel, KernelTraining, Place
from esper.kasmina.slots import Slot

__all__ = ["GrowingModel", "KernelTraining", "Place", "Slot", "germinate", "harvest"]
