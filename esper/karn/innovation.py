"""From a field report to blueprints: pure, and the same for the same layers in every run."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import replace

from esper.errors import BuildError, printable
from esper.events.geometry import Geometry, parse
from esper.events.records import FieldReport, ReportedLayer
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.templates import FamilyFault, families_for, generate
from esper.karn.value import MAX_SIZE

_log = logging.getLogger(__name__)


def innovate(report: FieldReport) -> tuple[BlueprintIR, ...]:
    """One blueprint for each family wanted and each distinct geometry, layer input, chunk width and
    budget.

    Names, run and run seed play no part: a layer of the same shape and budget gets the same
    blueprints anywhere. Families that have nothing for a layer, or that this Esper does not know,
    propose nothing; so do shapes and geometries that no blueprint can have.
    """
    places = {
        (layer.geometry, layer.in_features, width, layer.parameter_budget): layer
        for layer in report.layers
        for width in layer.chunks
    }
    proposed: dict[str, BlueprintIR] = {}
    for (_, _, width, _), layer in places.items():
        for blueprint in _of_place(layer, width, report.families):
            proposed.setdefault(blueprint.blueprint_id, blueprint)
    return tuple(proposed.values())


def _of_place(layer: ReportedLayer, width: int, wanted: tuple[str, ...]) -> Iterator[BlueprintIR]:
    try:
        geometry = parse(layer.geometry)
    except BuildError:
        return
    if not all(1 <= size <= MAX_SIZE for size in (layer.in_features, width, *_numbers(geometry))):
        return
    budget = Budget.of(layer.parameter_budget, math.prod(geometry.output_size))
    for family in families_for(geometry.kind):
        if wanted and family not in wanted:
            continue
        try:
            blueprint = generate(
                in_features=layer.in_features,
                out_features=width,
                family=family,
                budget=budget,
                # the seed follows from the blueprint (`_seed`), which is not there yet
                seed=0,
                geometry=geometry,
            )
        except FamilyFault as error:  # other families still propose; Esper's own errors raise
            _log.warning("nothing is proposed for layer %s: %s", printable(layer.name), error)
            continue
        if blueprint is not None:
            yield replace(blueprint, seed=_seed(blueprint))


def _numbers(geometry: Geometry) -> tuple[int, ...]:
    """Those of its numbers that a blueprint bounds, made at least 1."""
    padding = tuple(number + 1 for number in geometry.padding or ())
    return (
        *geometry.size,
        *geometry.output_size,
        *geometry.kernel_size,
        *geometry.stride,
        *geometry.dilation,
        *padding,
    )


def _seed(ir: BlueprintIR) -> int:
    """What the place says, and not the run: the same kernel for the same place."""
    parts = (
        ir.family,
        str(ir.in_features),
        str(ir.out_features),
        # no part for features: their kernels keep the seeds from before there were geometries
        *filter(None, (ir.geometry.text,)),
    )
    # 63 bits: Avro's long is signed. The separator keeps (1, 11) and (11, 1) apart.
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big") >> 1
