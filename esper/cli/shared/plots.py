"""Curves as pictures: SVG, PNG or PDF by the file's ending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esper.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png", ".pdf")
COLOURS = ("#1f6f8b", "#d1495b", "#66a182", "#8d6cab", "#edae49", "#5c677d")
INK = "#222222"
BLOCKS = "▁▂▃▄▅▆▇█"
MOST = 40  # characters of a spark line


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve, and with `low` and `high` a band around it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: its lines, where there is a mark, and whether zero is drawn."""

    title: str
    lines: Sequence[Curve]
    percent: bool = False
    marks: Sequence[tuple[float, str]] = ()
    zero: bool = False


def spark(values: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """A curve in one line of block characters, between `low` and `high`: by default its own."""
    picked = (
        values
        if len(values) <= MOST
        else [values[round(place * (len(values) - 1) / (MOST - 1))] for place in range(MOST)]
    )
    low, high = min(values) if low is None else low, max(values) if high is None else high
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in picked)


def require_format(path: Path) -> None:
    """Refuse a picture that cannot be written, before anything is computed for it.

    Raises:
        UsageError: the ending is none of `FORMATS`, or there is no such folder.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path} does not say what picture to make: let it end in "
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        )
    if not path.resolve().parent.is_dir():
        raise UsageError(
            f"There is no folder {path.resolve().parent} for {path.name}; make it first."
        )


def draw(path: Path, title: str, panels: Sequence[Panel], *, x: str = "epoch") -> None:
    """Write the panels below each other to `path`.

    Raises:
        UsageError: it cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - half a second that only a picture costs
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - the same
    from matplotlib.figure import Figure  # noqa: PLC0415 - the same

    with rc_context(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "esper",
            "text.color": INK,
        }
    ):
        figure = Figure(figsize=(8.0, 0.9 + 2.5 * len(panels)), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True)
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(rows, panels, strict=True):
            _panel(axes, panel)
        rows[-1].set_xlabel(x)
        try:
            figure.savefig(
                path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None
            )
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: PLC0415 - as above

    if panel.zero:
        axes.axhline(0, color="#888888", linewidth=0.8)
    for line in panel.lines:
        colour = COLOURS[line.colour % len(COLOURS)]
        if len(line.low):
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            color=colour,
            linewidth=1.6,
            linestyle="--" if line.dashed else "-",
            label=line.label,
        )
    for at, text in panel.marks:
        axes.axvline(at, color="#999999", linewidth=0.8, linestyle=":")
        axes.annotate(
            text,
            (at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            fontsize=7,
            va="top",
        )
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.grid(visible=True, axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize=8)
