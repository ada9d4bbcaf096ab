"""Geometry: what a layer's kernels have to know of it beside channels, as a text that events carry
and that compares by equality.

| layer | text |
|---|---|
| Linear on [batch, features] | (empty) |
| Linear on [batch, length, features] | `sequence in 16` |
| Conv1d on [batch, channels, length] | `conv1d k5 s2 p2 d1 g1 in 40` |
| Conv2d on [batch, channels, height, width] | `conv2d k3x3 s1x1 p1x1 d1x1 g1 in 8x8` |

`psame` stands for PyTorch's padding="same".

`in` is the size that the layer reads in this run: blueprints are verified and costed at it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from esper.errors import BuildError

Kind = Literal["features", "sequence", "conv1d", "conv2d"]
_DIMENSIONS: dict[str, int] = {"features": 0, "sequence": 1, "conv1d": 1, "conv2d": 2}
_TEXT = re.compile(
    r"(?P<kind>sequence|conv1d|conv2d)(?: k(?P<k>[0-9x]+) s(?P<s>[0-9x]+) "
    r"p(?P<p>same|[0-9x]+) d(?P<d>[0-9x]+) g(?P<g>[0-9]+))? in (?P<size>[0-9x]+)"
)


@dataclass(frozen=True)
class Geometry:
    """How a layer's output positions follow from its input positions.

    Attributes:
        kind: What kind of layer it is.
        size: Positions that it reads: (), (length,) or (height, width).
        kernel_size: Positions of one window, for each dimension; empty for features and sequences.
        stride: Step of the window.
        padding: Zeros on both sides; None for PyTorch's "same".
        dilation: Distance within the window.
        groups: Groups of channels that the host does not mix.

    Raises:
        BuildError: the numbers do not fit the kind, PyTorch has no such layer, or it would have no
            output.
    """

    kind: Kind = "features"
    size: tuple[int, ...] = ()
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | None = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        dimensions = _DIMENSIONS[self.kind]
        window = dimensions if self.convolves else 0
        parts = (
            self.kernel_size,
            self.stride,
            self.dilation,
            *(() if self.padding is None else (self.padding,)),
        )
        if (
            len(self.size) != dimensions
            or any(len(part) != window for part in parts)
            or (self.padding is None and not self.convolves)
        ):
            raise BuildError(
                f"A {self.kind} layer has {dimensions} dimensions; its geometry gives "
                f"others: {self.text}."
            )
        if (
            min((1, self.groups, *self.size, *self.kernel_size, *self.stride, *self.dilation)) < 1
            or min((0, *(self.padding or ()))) < 0
        ):
            raise BuildError(f"A geometry has a number below 1, or a padding below 0: {self.text}.")
        if self.padding is None and max((1, *self.stride)) > 1:
            raise BuildError(f"Padding 'same' goes with a stride of 1, as in PyTorch: {self.text}.")
        if min((1, *self.output_size)) < 1:
            raise BuildError(
                "The window is longer than the input with its padding, so there is no "
                f"output: {self.text}."
            )

    @property
    def convolves(self) -> bool:
        """Whether the layer is a convolution."""
        return self.kind in ("conv1d", "conv2d")

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Positions that it writes (formula of torch.nn.Conv2d)."""
        if not self.convolves or self.padding is None:
            return self.size
        numbers = zip(
            self.size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        )
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in numbers
        )

    @property
    def keeps_positions(self) -> bool:
        """Whether it writes as many positions as it reads, for inputs of any size."""
        if not self.convolves or self.padding is None:
            return True
        spans = zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return all(
            stride == 1 and 2 * padding == dilation * (kernel - 1)
            for kernel, stride, padding, dilation in spans
        )

    @cached_property
    def text(self) -> str:
        """The text of events; `parse` reads it."""
        if self.kind == "features":
            return ""
        if self.kind == "sequence":
            return f"sequence in {_joined(self.size)}"
        padding = "same" if self.padding is None else _joined(self.padding)
        window = (
            f"k{_joined(self.kernel_size)} s{_joined(self.stride)} p{padding} "
            f"d{_joined(self.dilation)} g{self.groups}"
        )
        return f"{self.kind} {window} in {_joined(self.size)}"


PLAIN = Geometry()
"""Features without positions."""


@lru_cache(maxsize=4096)
def parse(text: str) -> Geometry:
    """The geometry that a text says.

    Raises:
        BuildError: it says none, or not in the spelling of `Geometry.text`.
    """
    if not text:
        return PLAIN
    found = _TEXT.fullmatch(text)
    if found is None or (found["kind"] == "sequence") != (found["k"] is None):
        raise BuildError(
            f"{text[:200]!r} is no geometry of a layer, such as 'conv2d k3x3 s1x1 p1x1 "
            "d1x1 g1 in 8x8'."
        )
    kind: Kind = found["kind"]  # type: ignore[assignment]  # one of the alternatives of the expression
    try:
        if kind == "sequence":
            geometry = Geometry(kind, _numbers(found["size"]))
        else:
            padding = None if found["p"] == "same" else _numbers(found["p"])
            window = (
                _numbers(found["k"]),
                _numbers(found["s"]),
                padding,
                _numbers(found["d"]),
                int(found["g"]),
            )
            geometry = Geometry(kind, _numbers(found["size"]), *window)
    except ValueError:
        raise BuildError(
            f"{text[:200]!r} is no geometry of a layer: its numbers cannot be read."
        ) from None
    if geometry.text != text:
        raise BuildError(
            f"The geometry {text[:200]!r} is spelled {geometry.text!r}: texts are compared "
            "as they are."
        )
    return geometry


def _joined(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x"))


def fits(kernel: str, tap: str, layer: str) -> bool:
    """Whether a kernel of one geometry can serve a layer of another, both as texts.

    Channels are compared elsewhere.

    A kernel that reads the layer's input needs the layer's own geometry. One that reads the host's
    chunk needs the layer's output positions, as `outputs` gives them. A kernel of features serves a
    layer on sequences too: at each position. No kernel fits a layer whose text says no geometry.
    """
    try:
        place = parse(layer)
    except BuildError:
        return False
    if kernel == "":
        return place.kind in ("features", "sequence")
    return kernel == (place if tap == "LAYER_INPUT" else outputs(place)).text


def outputs(layer: Geometry) -> Geometry:
    """The geometry of what a layer writes, as a kernel reads it that keeps positions: a window of
    one position at the layer's output size.
    """
    if not layer.convolves:
        return layer
    dimensions = len(layer.size)
    return Geometry(
        layer.kind,
        layer.output_size,
        (1,) * dimensions,
        (1,) * dimensions,
        (0,) * dimensions,
        (1,) * dimensions,
    )
