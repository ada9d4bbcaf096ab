"""The table of docs/models.md: which layers of a model have seeds, which have none, and why."""

from __future__ import annotations

from collections import Counter

import torch

import esper
from esper.kasmina import GrowingModel, KernelTraining, germinate
from tests.integration.kasmina.zoo.models import ZOO

NO_KIND = "no kind of Esper's"


def row(name: str) -> str:
    """The row of a member of the zoo."""
    member = ZOO[name]
    seeded = germinate(member.model(), seeds=2)
    GrowingModel(seeded, training=KernelTraining()).probe(
        member.inputs(torch.Generator().manual_seed(5), 3)
    )
    rows = esper.inventory(seeded)
    grown = Counter(one.layer for one in rows if one.seeds)
    without = Counter(
        f"{one.layer} ({reason})"
        if (reason := one.reason.removeprefix(NO_KIND).removeprefix(": "))
        else one.layer
        for one in rows
        if not one.seeds
    )
    return f"| {name} | {_listed(grown)} | {_listed(without)} |"


def _listed(kinds: Counter[str]) -> str:
    """How many there are of each, with commas between."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
