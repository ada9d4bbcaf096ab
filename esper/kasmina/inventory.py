"""What of a model has seeds, what has none, and why: one row a layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from esper.kasmina.seeded.built_in_hosts import why_no_kind
from esper.kasmina.seeded.hosts import host_layers, unsuited
from esper.kasmina.seeded.layers import SeededLayer, host_class
from esper.kasmina.seeded.probing import REFUSED


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a model.

    Attributes:
        name: Its name in the model; empty for the model itself.
        layer: Its class.
        seeds: How many seeds it has.
        reason: Why it has none; empty where it has.
    """

    name: str
    layer: str
    seeds: int
    reason: str


class Inventory(tuple[LayerRow, ...]):
    """The rows of a model; printed, a table."""

    __slots__ = ()

    def __str__(self) -> str:
        names = max((len(row.name) for row in self), default=0)
        layers = max((len(row.layer) for row in self), default=0)
        return "\n".join(
            f"{row.name:<{names}}  {row.layer:<{layers}}  {row.reason or f'{row.seeds} seeds'}"
            for row in self
        )


def inventory(model: nn.Module) -> Inventory:
    """What of `model` has seeds, what has none, and why: one row for each module with parameters
    of its own, in the order of the model.

    `print(esper.inventory(model))` shows a table. Ask after `esper.germinate`, or after a run: its
    probe takes seeds from layers where no kernel could do anything.
    """
    hosts, reasons = host_layers(model), unsuited(model)
    grown = any(isinstance(layer, SeededLayer) for layer in model.modules())
    # kernels, and what computes a layer's weight, are parts of the layer
    within = {
        id(part) for layer, _ in hosts.values() for part in layer.modules() if part is not layer
    }
    rows = []
    for name, part in model.named_modules():
        if id(part) in within or not (name in hosts or _holds_parameters(part)):
            continue
        if isinstance(part, SeededLayer):
            host = host_class(type(part)).__name__
            rows.append(LayerRow(name, host, len(part.seeds.chunks), ""))
            continue
        if name not in hosts:
            reason = why_no_kind(part)
        elif not (reason := REFUSED.get(part, "") or reasons.get(name, "")):
            reason = (
                "left out by include or exclude" if grown else "the model is not germinated yet"
            )
        rows.append(LayerRow(name, type(part).__name__, 0, reason))
    return Inventory(rows)


def _holds_parameters(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None
