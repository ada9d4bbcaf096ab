"""Random layers, as geometries."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from esper.errors import BuildError
from esper.events.geometry import Geometry, Kind


@st.composite
def convolutions(draw: st.DrawFn) -> Geometry:
    """Any window with an output, in one or two dimensions, or transposed."""
    dimensions = draw(st.integers(1, 2))

    def numbers(least: int, most: int) -> tuple[int, ...]:
        return tuple(
            draw(st.lists(st.integers(least, most), min_size=dimensions, max_size=dimensions))
        )

    kind: Kind = "conv1d" if dimensions == 1 else "conv2d"
    if dimensions == 2 and draw(st.booleans()):
        kind = "conv_transpose2d"
    transposes = kind == "conv_transpose2d"
    same = not transposes and draw(st.booleans())
    stride = (1,) * dimensions if same else numbers(1, 4)
    try:
        return Geometry(
            kind,
            numbers(1, 15),
            numbers(1, 6),
            stride,
            None if same else numbers(0, 5),
            numbers(1, 3),
            draw(st.integers(1, 3)),
            numbers(0, 2) if transposes else (),
        )
    except BuildError:
        assume(condition=False)
        raise


def layers() -> st.SearchStrategy[Geometry]:
    """Convolutions and sequences."""
    return st.one_of(
        convolutions(), st.integers(1, 40).map(lambda length: Geometry("sequence", (length,)))
    )
