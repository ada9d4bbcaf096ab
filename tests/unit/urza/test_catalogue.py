"""The catalogue as a fold."""

from __future__ import annotations

from dataclasses import replace

from esper.clock import ManualClock
from esper.events import Origin
from esper.events.records import KernelCompiled, KernelPublished
from esper.urza.catalogue import Catalogue, compatible, rank


def published(kernel_id: str, **change: object) -> KernelPublished:
    """A kernel of 40 inputs and 25 outputs."""
    entry = KernelPublished(
        **Origin("", "foundry", "0" * 32, ManualClock()).envelope(kernel_id),
        kernel_id=kernel_id,
        blueprint_id=f"blueprint of {kernel_id}",
        family="mlp",
        in_features=40,
        out_features=25,
        tap="LAYER_INPUT",
        blend="LERP",
        parameters=10,
        flops=20,
        address="kernels/x",
        sha256="0",
        size_bytes=1,
        tags=("family=mlp",),
        parents=(),
        latency_us=1.0,
    )
    return replace(entry, **change)  # type: ignore[arg-type]


def test_the_fold_keeps_the_latest_entry_of_each_kernel() -> None:
    """Published again, a kernel's entry is replaced; other events change nothing.

    The fold does not depend on how it is cut.
    """
    compiled = KernelCompiled(
        **Origin("", "foundry", "0" * 32, ManualClock()).envelope("c"),
        kernel_id="b",
        blueprint_id="x",
        attempt=1,
        configuration="eager",
        compile_ms=1.0,
    )
    events = [
        published("a"),
        compiled,
        published("c"),
        published("a", sha256="1"),
        published("a", sha256="1"),
    ]
    whole = Catalogue().evolve(events)
    piecewise = Catalogue()
    for event in events:
        piecewise = piecewise.evolve([event])
    assert whole == piecewise
    assert {entry.kernel_id: entry.sha256 for entry in whole} == {"a": "1", "c": "0"}


def test_queries_by_blueprint() -> None:
    """Of a blueprint's kernels the latest comes first."""
    catalogue = Catalogue().evolve(
        [published("a", blueprint_id="x"), published("b", blueprint_id="x"), published("c")]
    )
    assert [entry.kernel_id for entry in catalogue.of_blueprint("x")] == ["b", "a"]


def test_only_kernels_of_the_right_shape_are_compatible() -> None:
    """A kernel on the layer's input has to read its width.

    One on the host's chunk has to read the chunk's.
    """
    entries = (
        published("fits"),
        published("narrow", in_features=39),
        published("wide", out_features=26),
        published("gate", tap="HOST_CHUNK", in_features=25),
        published("other gate", tap="HOST_CHUNK", in_features=40, out_features=40),
    )
    assert [entry.kernel_id for entry in compatible(entries, in_features=40, chunk_width=25)] == [
        "fits",
        "gate",
    ]


def test_kernels_are_compatible_with_layers_of_their_geometry() -> None:
    """A convolution's kernel needs the layer's window and size.

    One of features serves every position of a sequence, and no convolution.
    """
    image, written = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8", "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 4x4"
    entries = (
        published("features"),
        published("image", geometry=image),
        published("other image", geometry=image.replace("8x8", "9x9")),
        published("pool", tap="HOST_CHUNK", in_features=25, geometry=written),
        published("sequence", geometry="sequence in 6"),
    )

    def fitting(geometry: str) -> list[str]:
        return [
            entry.kernel_id
            for entry in compatible(entries, in_features=40, chunk_width=25, geometry=geometry)
        ]

    assert fitting("") == ["features"]
    assert fitting(image) == ["image", "pool"]
    assert fitting("sequence in 6") == ["features", "sequence"]
    assert fitting("no geometry") == []


def test_ranking_is_by_score_then_cost() -> None:
    """The best score first; without one a kernel counts as 0; equals by operations, then by id."""
    entries = (
        published("dear", flops=30),
        published("good"),
        published("b"),
        published("a"),
        published("bad"),
    )
    assert [entry.kernel_id for entry in rank(entries, {"good": 0.5, "bad": -1.0})] == [
        "good",
        "a",
        "b",
        "dear",
        "bad",
    ]
