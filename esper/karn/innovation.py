"""From a field report to blueprints: pure, and the same for the same layers in every run."""

from __future__ import annotations

import hashlib

from esper.events.records import FieldReport
from esper.karn.families import FAMILIES, generate
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.operators import MAX_SIZE


def innovate(report: FieldReport) -> tuple[BlueprintIR, ...]:
    """One blueprint for each family wanted and each distinct pair of layer input and chunk width, within the layer's budget.

    Names, run and run seed play no part: a layer of the same shape and budget gets the same blueprints anywhere. Families that
    have nothing for a shape, or that this Esper does not know, propose nothing; so does a shape that no blueprint can have.
    """
    wanted = [family for family in FAMILIES if not report.families or family in report.families]
    places = {(layer.in_features, width, layer.parameter_budget): None for layer in report.layers for width in layer.chunks}
    proposed: dict[str, BlueprintIR] = {}
    for in_features, width, parameter_budget in places:
        if not (1 <= in_features <= MAX_SIZE and 1 <= width <= MAX_SIZE):
            continue
        for family in wanted:
            blueprint = generate(
                in_features=in_features,
                out_features=width,
                family=family,
                budget=Budget.of(parameter_budget),
                seed=_seed(family, width if family == "gate" else in_features, width),
            )
            if blueprint is not None:
                proposed.setdefault(blueprint.blueprint_id, blueprint)
    return tuple(proposed.values())


def _seed(family: str, reads: int, writes: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{family}\x1f{reads}\x1f{writes}".encode()).digest()[:8], "big") >> 1
