"""Geometry: text, sizes, and which kernel serves which layer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.errors import BuildError
from esper.events.geometry import PLAIN, Geometry, fits, outputs, parse
from tests.unit.events.layers import convolutions, layers

IMAGE = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8"
IMAGE_OUT = "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 4x4"


@given(st.one_of(st.just(PLAIN), layers()))
def test_a_geometry_survives_its_text(geometry: Geometry) -> None:
    """parse(text) is the same geometry, so that equal texts are equal geometries."""
    assert parse(geometry.text) == geometry


def test_the_text_is_the_documented_one() -> None:
    """Consumers of the events read these."""
    assert Geometry("sequence", (16,)).text == "sequence in 16"
    assert Geometry("conv1d", (40,), (5,), (2,), (2,), (1,)).text == "conv1d k5 s2 p2 d1 g1 in 40"
    assert (
        Geometry("conv2d", (8, 9), (3, 2), (1, 1), None, (1, 2), 4).text
        == "conv2d k3x2 s1x1 psame d1x2 g4 in 8x9"
    )
    assert (
        Geometry("conv_transpose2d", (8, 9), (3, 2), (2, 1), (1, 0), (1, 2), 4, (1, 0)).text
        == "conv_transpose2d k3x2 s2x1 p1x0 o1x0 d1x2 g4 in 8x9"
    )
    assert PLAIN.text == ""


@given(geometry=convolutions(), batch=st.integers(1, 2))
def test_the_output_size_is_that_of_torchs_layer(geometry: Geometry, batch: int) -> None:
    """For any stride, padding, dilation and groups, padding "same" among them: the formula gives
    what torch's layer writes.
    """
    kinds: dict[str, Any] = {
        "conv1d": nn.Conv1d,
        "conv2d": nn.Conv2d,
        "conv_transpose2d": nn.ConvTranspose2d,
    }
    more = {"output_padding": geometry.output_padding} if geometry.output_padding else {}
    padding: object = "same" if geometry.padding is None else geometry.padding
    layer = kinds[geometry.kind](
        6,
        6,
        geometry.kernel_size,
        geometry.stride,
        padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        **more,
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that even windows need a copy
        found = layer(torch.zeros(batch, 6, *geometry.size))
    assert found.shape == (batch, 6, *geometry.output_size)


@given(geometry=convolutions(), more=st.integers(0, 7))
def test_what_keeps_positions_does_so_at_any_size(geometry: Geometry, more: int) -> None:
    """A layer that keeps positions writes as many as it reads; kernels of its chunk always do."""
    for layer in (geometry, outputs(geometry)):
        if layer.keeps_positions:
            size = tuple(number + more for number in layer.size)
            assert replace(layer, size=size).output_size == size
    assert outputs(geometry).keeps_positions
    assert outputs(geometry).output_size == geometry.output_size
    assert outputs(outputs(geometry)) == outputs(geometry)


@given(st.one_of(layers(), convolutions()), st.integers(1, 9))
def test_a_geometry_that_is_cut_has_an_output(geometry: Geometry, most: int) -> None:
    """Kernels are verified at the size that is cut: never more than the geometry's own, and the
    layer writes something there.
    """
    small = geometry.cut(most)
    assert all(one <= size for one, size in zip(small, geometry.size, strict=True))
    assert min(replace(geometry, size=small).output_size) >= 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense", "is no geometry of a layer, such as"),
        ("features", "is no geometry"),
        ("sequence k3 s1 p1 d1 g1 in 8", "is no geometry"),
        ("conv1d in 8", "is no geometry"),
        ("conv1d k3 s1 p1 d1 g1 in 8x8", "has 1 dimensions; its geometry gives others"),
        ("conv2d k3 s1x1 p1x1 d1x1 g1 in 8x8", "has 2 dimensions; its geometry gives others"),
        ("sequence in 8x8", "has 1 dimensions"),
        ("sequence in 0", "a number below 1"),
        ("conv1d k0 s1 p1 d1 g1 in 8", "a number below 1"),
        ("conv1d k3 s1 p1 d1 g0 in 8", "a number below 1"),
        ("conv1d k9 s1 p0 d1 g1 in 8", "The window is longer than the input"),
        ("conv1d k3 s2 psame d1 g1 in 8", "goes with a stride of 1"),
        ("conv2d kx s1x1 p1x1 d1x1 g1 in 8x8", "its numbers cannot be read"),
        (f"sequence in {'9' * 5000}", "its numbers cannot be read"),
        ("conv_transpose2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8", "its geometry gives others"),
        ("conv2d k3x3 s2x2 p1x1 o1x1 d1x1 g1 in 8x8", "its geometry gives others"),
        ("conv_transpose2d k3x3 s2x2 psame o1x1 d1x1 g1 in 8x8", "no padding 'same'"),
        ("conv_transpose2d k3x3 s2x2 p1x1 o2x1 d1x1 g1 in 8x8", "output padding is smaller than"),
        ("conv_transpose2d k1x1 s1x1 p4x4 o0x0 d1x1 g1 in 8x8", "so there is no output"),
        ("sequence in 08", "is spelled 'sequence in 8'"),
        ("sequence in 8\n", "is no geometry"),
        ("sequence in ٨", "is no geometry"),
    ],
)
def test_a_text_that_says_none_is_refused(text: str, sentence: str) -> None:
    """Whatever stands in an event, the answer is one sentence."""
    with pytest.raises(BuildError, match=sentence):
        parse(text)


@pytest.mark.parametrize(
    ("kernel", "tap", "layer", "expected"),
    [
        ("", "LAYER_INPUT", "", True),
        ("", "HOST_CHUNK", "", True),
        ("", "LAYER_INPUT", "sequence in 16", True),
        ("", "HOST_CHUNK", "sequence in 16", True),
        ("", "LAYER_INPUT", IMAGE, False),
        ("", "HOST_CHUNK", IMAGE, False),
        ("sequence in 16", "LAYER_INPUT", "sequence in 16", True),
        ("sequence in 16", "LAYER_INPUT", "sequence in 17", False),
        ("sequence in 16", "HOST_CHUNK", "sequence in 16", True),
        ("sequence in 16", "LAYER_INPUT", "", False),
        (IMAGE, "LAYER_INPUT", IMAGE, True),
        (IMAGE, "HOST_CHUNK", IMAGE, False),
        (IMAGE_OUT, "HOST_CHUNK", IMAGE, True),
        (IMAGE_OUT, "LAYER_INPUT", IMAGE, False),
        (IMAGE, "LAYER_INPUT", "conv2d k3x3 s2x2 p1x1 d1x1 g2 in 8x8", False),
        ("", "LAYER_INPUT", "sequence of something", False),
        ("nonsense", "LAYER_INPUT", "nonsense", False),
    ],
)
def test_a_kernel_fits_layers_of_its_geometry(
    kernel: str, tap: str, layer: str, *, expected: bool
) -> None:
    """The layer's own for its input, that of its outputs for its chunk, and features at each
    position of a sequence.
    """
    assert fits(kernel, tap, layer) is expected
