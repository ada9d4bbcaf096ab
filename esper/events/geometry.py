"""Geometry: what a layer's kernels have to know of it beside channels, as a text that events carry
and that compares by equality.

| layer | text |
|---|---|
| Linear on [batch, features] | (empty) |
| Linear on [batch, length, features] | `sequence in 16` |
| the same, in a model none of whose outputs may depend on a later position | `causal in 16` |
| Conv1d on [batch, channels, length] | `conv1d k5 s2 p2 d1 g1 in 40` |
| Conv2d on [batch, channels, height, width] | `conv2d k3x3 s1x1 p1x1 d1x1 g1 in 8x8` |
| ConvTranspose2d on the same | `conv_transpose2d k3x3 s2x2 p1x1 o1x1 d1x1 g1 in 8x8` |

`psame` stands for PyTorch's padding="same", `o` for its output_padding.

`in` is the size that the layer reads in this run: blueprints are verified and costed at it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal

from esper.errors import BuildError

Layout = Literal["features", "sequence", "conv1d", "conv2d"]
"""How channels and positions lie in the tensors that a layer reads and writes; see `shape`."""
Kind = Literal["features", "sequence", "causal", "conv1d", "conv2d", "conv_transpose2d"]
"""How a layer's output positions follow from its input positions; see `FORMS`."""
_CHANNELS_FIRST: Final[frozenset[Layout]] = frozenset({"conv1d", "conv2d"})


def channels_first(layout: Layout) -> bool:
    """Whether channels stand before positions, as in convolutions."""
    return layout in _CHANNELS_FIRST


def shape(layout: Layout, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions of one sample: channels before its positions, or after them."""
    return (channels, *size) if channels_first(layout) else (*size, channels)


@dataclass(frozen=True)
class Geometry:
    """How a layer's output positions follow from its input positions.

    Attributes:
        kind: How they follow.
        size: Positions that it reads: (), (length,) or (height, width).
        kernel_size: Positions of one window, for each dimension; empty for features and sequences.
        stride: Step of the window.
        padding: Zeros on both sides; None for PyTorch's "same".
        dilation: Distance within the window.
        groups: Groups of channels that the host does not mix.
        output_padding: Positions that a transposed convolution writes more at the end; empty for
            others.

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
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        dimensions = FORMS[self.kind].dimensions
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
            or len(self.output_padding) != (window if self.transposes else 0)
        ):
            raise BuildError(
                f"A {self.kind} layer has {dimensions} dimensions; its geometry gives "
                f"others: {self.text}."
            )
        if (
            # 1 and 0 stand in for kinds without such numbers, since the least of nothing is an
            # error
            min((1, self.groups, *self.size, *self.kernel_size, *self.stride, *self.dilation)) < 1
            or min((0, *(self.padding or ()), *self.output_padding)) < 0
        ):
            raise BuildError(f"A geometry has a number below 1, or a padding below 0: {self.text}.")
        # before `output_size`, whose formula these numbers would break
        self._check_transposed()
        if self.padding is None and max((1, *self.stride)) > 1:
            raise BuildError(f"Padding 'same' goes with a stride of 1, as in PyTorch: {self.text}.")
        if min((1, *self.output_size)) < 1:
            raise BuildError(
                "The window is longer than the input with its padding, so there is no "
                f"output: {self.text}."
            )

    def _check_transposed(self) -> None:
        if not self.transposes:
            return
        if self.padding is None:
            raise BuildError(f"A transposed convolution has no padding 'same': {self.text}.")
        steps = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if any(more >= max(stride, dilation) for more, stride, dilation in steps):
            raise BuildError(
                "The output padding is smaller than the stride or the dilation, as in PyTorch: "
                f"{self.text}."
            )

    @property
    def layout(self) -> Layout:
        """How its tensors lie."""
        return FORMS[self.kind].layout

    @property
    def channel_dim(self) -> int:
        """Dimension of the channels, counted from the last."""
        return -1 - len(self.size) if channels_first(self.layout) else -1

    @property
    def convolves(self) -> bool:
        """Whether the layer has a window: it is a convolution."""
        return FORMS[self.kind].positions is not None

    @property
    def transposes(self) -> bool:
        """Whether it is a transposed convolution, which with a stride writes more than it reads."""
        return FORMS[self.kind].positions is _transposed

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Positions that it writes."""
        positions = FORMS[self.kind].positions
        return self.size if positions is None else positions(self)

    @property
    def keeps_positions(self) -> bool:
        """Whether it writes as many positions as it reads, for inputs of any size."""
        return max((1, *self.stride)) == 1 and self.output_size == self.size

    def cut(self, most: int) -> tuple[int, ...]:
        """Its size, at most `most` along each dimension, or what three windows need.

        A transposed convolution cuts its padding off what it writes, so that needs more.
        """
        if not self.convolves:
            return tuple(min(size, most) for size in self.size)
        if self.transposes:
            return tuple(
                min(size, most + 2 * padding)
                for size, padding in zip(self.size, self.padding or (), strict=True)
            )
        windows = zip(self.size, self.kernel_size, self.stride, self.dilation, strict=True)
        return tuple(
            min(size, max(most, dilation * (kernel - 1) + 1 + 2 * stride))
            for size, kernel, stride, dilation in windows
        )

    @cached_property
    def text(self) -> str:
        """The text of events; `parse` reads it."""
        if self.kind == "features":
            return ""
        if not self.convolves:
            return f"{self.kind} in {_joined(self.size)}"
        padding = "same" if self.padding is None else _joined(self.padding)
        more = f"o{_joined(self.output_padding)} " if self.output_padding else ""
        window = (
            f"k{_joined(self.kernel_size)} s{_joined(self.stride)} p{padding} {more}"
            f"d{_joined(self.dilation)} g{self.groups}"
        )
        return f"{self.kind} {window} in {_joined(self.size)}"


@dataclass(frozen=True, slots=True)
class Form:
    """What geometries of a kind have in common.

    Attributes:
        layout: How the tensors lie that the layer reads and writes.
        dimensions: Of its positions.
        positions: What it writes for the size that it reads; None where it writes what it reads,
            and has no window.
    """

    layout: Layout
    dimensions: int
    positions: Callable[[Geometry], tuple[int, ...]] | None = None


def _convolved(geometry: Geometry) -> tuple[int, ...]:
    """The formula of torch.nn.Conv2d."""
    if geometry.padding is None:
        return geometry.size
    numbers = zip(
        geometry.size,
        geometry.kernel_size,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        strict=True,
    )
    return tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in numbers
    )


def _transposed(geometry: Geometry) -> tuple[int, ...]:
    """The formula of torch.nn.ConvTranspose2d: each position that is read spreads a window."""
    numbers = zip(
        geometry.size,
        geometry.kernel_size,
        geometry.stride,
        geometry.padding or (),
        geometry.dilation,
        geometry.output_padding,
        strict=True,
    )
    return tuple(
        (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
        for size, kernel, stride, padding, dilation, more in numbers
    )


FORMS: Final[Mapping[Kind, Form]] = {
    "features": Form("features", 0),
    "sequence": Form("sequence", 1),
    "causal": Form("sequence", 1),
    "conv1d": Form("conv1d", 1, _convolved),
    "conv2d": Form("conv2d", 2, _convolved),
    "conv_transpose2d": Form("conv2d", 2, _transposed),
}
"""Every kind of geometry. A kind that is named as a layout is the plain one of that layout."""
_TEXT = re.compile(
    rf"(?P<kind>{'|'.join(kind for kind in FORMS if kind != 'features')})"
    r"(?: k(?P<k>[0-9x]+) s(?P<s>[0-9x]+) "
    r"p(?P<p>same|[0-9x]+) (?:o(?P<o>[0-9x]+) )?"
    r"d(?P<d>[0-9x]+) g(?P<g>[0-9]+))? in (?P<size>[0-9x]+)"
)


def windows_on(layout: Layout) -> tuple[Kind, ...]:
    """The kinds of geometry with a window whose tensors lie so."""
    return tuple(
        kind for kind, form in FORMS.items() if form.layout == layout and form.positions is not None
    )


PLAIN = Geometry()
"""Features without positions."""


# bounded: texts come from messages, so a sender chooses how many there are
@lru_cache(maxsize=4096)
def parse(text: str) -> Geometry:
    """The geometry that a text says.

    Raises:
        BuildError: it says none, or not in the spelling of `Geometry.text`.
    """
    if not text:
        return PLAIN
    match = _TEXT.fullmatch(text)
    windowless = match is not None and FORMS[match["kind"]].positions is None  # type: ignore[index]  # one of the alternatives of the expression
    if match is None or windowless != (match["k"] is None):
        raise BuildError(
            f"{text[:200]!r} is no geometry of a layer, such as 'conv2d k3x3 s1x1 p1x1 "
            "d1x1 g1 in 8x8'."
        )
    kind: Kind = match["kind"]  # type: ignore[assignment]  # one of the alternatives of the expression
    try:
        if windowless:
            geometry = Geometry(kind, _numbers(match["size"]))
        else:
            padding = None if match["p"] == "same" else _numbers(match["p"])
            window = (
                _numbers(match["k"]),
                _numbers(match["s"]),
                padding,
                _numbers(match["d"]),
                int(match["g"]),
                () if match["o"] is None else _numbers(match["o"]),
            )
            geometry = Geometry(kind, _numbers(match["size"]), *window)
    except ValueError:
        raise BuildError(
            f"{text[:200]!r} is no geometry of a layer: its numbers cannot be read."
        ) from None
    # one spelling only: blueprints and catalogues are matched by comparing texts
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
    layer on sequences too, causal ones among them: at each position. No kernel fits a layer whose
    text says no geometry.
    """
    try:
        place = parse(layer)
    except BuildError:
        return False
    if kernel == "":
        return not place.convolves
    return kernel == (place if tap == "LAYER_INPUT" else outputs(place)).text


def outputs(layer: Geometry) -> Geometry:
    """The geometry of what a layer writes, as a kernel reads it that keeps positions: a window of
    one position at the layer's output size.
    """
    if not layer.convolves:
        return layer
    dimensions = len(layer.size)
    return Geometry(
        layer.layout,
        layer.output_size,
        (1,) * dimensions,
        (1,) * dimensions,
        (0,) * dimensions,
        (1,) * dimensions,
    )
