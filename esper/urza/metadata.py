"""What Urza tells of a kernel: KernelMetadata, and a page of them."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from esper.errors import UsageError
from esper.events import geometry as geometries
from esper.events.kernel_description import description
from esper.events.records import KernelPublished
from esper.urza.shelf import KernelShelf

Score = tuple[float, int, str]
"""Place of a kernel in the order of performance: minus its score, its cost, its id."""

_EXAMPLE_BLUEPRINT = "0f2a4b6c8d0e1f3a5b7c9d1e3f507192b4d6f8a0c2e4061829b3d5f7a9c1e3f5"


class PerformanceModel(BaseModel):
    """What a kernel was worth in runs."""

    model_config = ConfigDict(frozen=True)

    score: Annotated[
        float, Field(description="Mean reward, 0 to 1, of the decisions that grafted it")
    ]
    outcomes: Annotated[int, Field(description="Number of these decisions")]


class KernelLineage(BaseModel):
    """Where a kernel comes from, and what came from it."""

    model_config = ConfigDict(frozen=True)

    blueprint_id: Annotated[str, Field(description="Blueprint that it was built from")]
    parents: Annotated[tuple[str, ...], Field(description="Kernels that it descends from")]
    children: Annotated[tuple[str, ...], Field(description="Kernels that descend from it")]


class KernelMetadata(BaseModel):
    """Everything that is known of a kernel but its weights."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "example": {
                "kernel_id": "9b1f0c5e7a4d21c6f8e3b0a95d7c6e4f1a2b3c4d5e6f708192a3b4c5d6e7f809",
                "blueprint_id": _EXAMPLE_BLUEPRINT,
                "family": "conv1d",
                "tags": ["family=conv1d", "tap=LAYER_INPUT", "blend=LERP"],
                "in_features": 40,
                "out_features": 25,
                "geometry": "",
                "input_shape": ["batch", 40],
                "output_shape": ["batch", 25],
                "tap": "LAYER_INPUT",
                "blend": "LERP",
                "parameters": 1275,
                "flops": 98000,
                "compilation_ms": 151.2,
                "latency_us": 85.0,
                "performance": {"score": 0.75, "outcomes": 4},
                "sha256": "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
                "size_bytes": 6144,
                "lineage": {
                    "blueprint_id": _EXAMPLE_BLUEPRINT,
                    "parents": [],
                    "children": [],
                },
                "published_at_us": 1700000000000000,
            }
        },
    )

    kernel_id: Annotated[str, Field(description="Content hash of blueprint, weights and format")]
    blueprint_id: Annotated[str, Field(description="Content hash of the blueprint")]
    family: Annotated[str, Field(description="Blueprint family")]
    tags: Annotated[tuple[str, ...], Field(description="What it can be found by")]
    in_features: Annotated[int, Field(description="Features, or channels, that it reads")]
    out_features: Annotated[
        int,
        Field(
            description="Features, or channels, that it writes: the width of the chunk that it fits"
        ),
    ]
    geometry: Annotated[
        str,
        Field(
            description="Positions that it reads, as events write them; empty for features alone"
        ),
    ]
    input_shape: Annotated[
        tuple[int | Literal["batch"], ...], Field(description="Shape of what it reads")
    ]
    output_shape: Annotated[
        tuple[int | Literal["batch"], ...], Field(description="Shape of what it writes")
    ]
    tap: Annotated[str, Field(description="What it reads: LAYER_INPUT or HOST_CHUNK")]
    blend: Annotated[str, Field(description="How it is blended into the host: RESIDUAL or LERP")]
    parameters: Annotated[int, Field(description="Trainable parameters")]
    flops: Annotated[
        int, Field(description="Floating-point operations of one forward for one sample")
    ]
    compilation_ms: Annotated[
        float | None,
        Field(
            description="Time of its compilation, milliseconds; null where that is not on record"
        ),
    ]
    latency_us: Annotated[
        float, Field(description="Forward of a batch of 32 on the compiling machine, microseconds")
    ]
    performance: Annotated[
        PerformanceModel | None,
        Field(description="What it was worth in runs; null until a run has shown it"),
    ]
    sha256: Annotated[str, Field(description="SHA-256 of the artefact")]
    size_bytes: Annotated[int, Field(description="Size of the artefact, bytes")]
    lineage: KernelLineage
    published_at_us: Annotated[
        int, Field(description="When it was published, microseconds since 1970-01-01 UTC")
    ]


class Page(BaseModel):
    """Some kernels, the best first."""

    model_config = ConfigDict(frozen=True)

    kernels: tuple[KernelMetadata, ...]
    total: Annotated[int, Field(description="Kernels that fit, on all pages")]
    next: Annotated[
        str | None, Field(description="Cursor of the page after this one; null on the last")
    ]


def metadata(entry: KernelPublished, shelf: KernelShelf) -> KernelMetadata:
    """What is known of a published kernel."""
    performance = shelf.performances.of(entry.kernel_id)
    geometry = geometries.parse(entry.geometry)
    layout = geometry.layout
    return KernelMetadata(
        kernel_id=entry.kernel_id,
        **description(entry),
        tags=entry.tags,
        input_shape=("batch", *geometries.shape(layout, entry.in_features, geometry.size)),
        output_shape=("batch", *geometries.shape(layout, entry.out_features, geometry.output_size)),
        compilation_ms=shelf.compile_ms.get(entry.kernel_id),
        latency_us=entry.latency_us,
        performance=PerformanceModel(score=performance.score, outcomes=performance.outcomes)
        if performance
        else None,
        sha256=entry.sha256,
        size_bytes=entry.size_bytes,
        lineage=KernelLineage(
            blueprint_id=entry.blueprint_id,
            parents=entry.parents,
            children=tuple(
                sorted(
                    kernel.kernel_id
                    for kernel in shelf.catalogue
                    if entry.kernel_id in kernel.parents
                )
            ),
        ),
        published_at_us=entry.occurred_at,
    )


def cursor_of(score: Score) -> str:
    """The cursor of the page that begins after a kernel with this place in the order."""
    # without padding: "=" would have to be escaped in a query
    return base64.urlsafe_b64encode(json.dumps(score).encode()).decode().rstrip("=")


def score_of(cursor: str) -> Score:
    """The place after which a cursor's page begins.

    Raises:
        UsageError: it is none that a page gave.
    """
    try:
        score, flops, kernel_id = json.loads(
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        )
        return (float(score), int(flops), str(kernel_id))
    except (ValueError, TypeError, binascii.Error):
        raise UsageError(
            "The cursor is none that a page gave as `next`; leave it out to begin at the "
            "first page."
        ) from None
