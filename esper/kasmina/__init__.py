"""Kasmina, the execution layer: seeded layers, slots, shadow pass, statistics, kernel loading."""

from __future__ import annotations

from esper.kasmina.averaged import AveragedModel
from esper.kasmina.growth import GrowingModel, KernelTraining, Place
from esper.kasmina.inventory import Inventory, LayerRow, inventory
from esper.kasmina.numerics import Numerics
from esper.kasmina.plain.harvest import harvest
from esper.kasmina.seeded.faults import KernelFault
from esper.kasmina.seeded.germination import CHUNK, germinate
from esper.kasmina.seeded.host_kind import HostKind, LinearMap
from esper.kasmina.seeded.hosts import register
from esper.kasmina.seeded.slots import Slot

__all__ = [
    "CHUNK",
    "AveragedModel",
    "GrowingModel",
    "HostKind",
    "Inventory",
    "KernelFault",
    "KernelTraining",
    "LayerRow",
    "LinearMap",
    "Numerics",
    "Place",
    "Slot",
    "germinate",
    "harvest",
    "inventory",
    "register",
]
