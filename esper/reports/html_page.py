"""A report as one HTML file: no script, nothing from elsewhere, light or dark as the reader has it.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from esper.errors import printable
from esper.reports.layout import ReportPicture, ReportSection, ReportTable

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #222; --page: #fff; --line: #bbb; --mark: #1f6f8b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --page: #181818; --line: #555; --mark: #7cc4dd; }
}
body { font: 15px/1.5 sans-serif; color: var(--ink); background: var(--page);
  max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
caption { text-align: left; font-weight: bold; padding: .3rem 0; }
th, td { border: 1px solid var(--line); padding: .2rem .5rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; min-width: 5em; }
svg { max-width: 100%; height: auto; }
svg text { font: 11px sans-serif; fill: var(--ink); }
svg .axis { stroke: var(--line); }
svg .loss { fill: none; stroke: var(--mark); stroke-width: 2; }
svg .mark { stroke: var(--line); stroke-dasharray: 2 3; }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_WIDE, _HIGH, _LEFT, _BELOW = 720, 240, 70, 30
_LABELS: Final = 4
"""Rows in which the labels of marks stand, one after the other."""


def html_page(title: str, sections: Sequence[ReportSection]) -> str:
    """The whole file."""
    body = "\n".join(line for section in sections for line in _section(section))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Text that HTML shows as it is, in an element or an attribute."""
    return escape(printable(" ".join(value.split())), quote=True)


def _section(section: ReportSection) -> Iterator[str]:
    yield f"<section>\n<h2>{text(section.title)}</h2>"
    for sentence in section.sentences:
        yield f"<p>{text(sentence)}</p>"
    if section.picture is not None:
        yield from _picture(section.picture)
    for table in section.tables:
        yield from _table(table)
    yield "</section>"


def _table(table: ReportTable) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{text(head)}</th>' for head in table.columns)
    yield f"<table>\n<caption>{text(table.caption)}</caption>"
    yield f"<thead><tr>{heads}</tr></thead>\n<tbody>"
    for first, *rest in table.rows:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in rest)
        yield f'<tr><th scope="row">{text(first)}</th>{cells}</tr>'
    yield "</tbody>\n</table>"


def _picture(picture: ReportPicture) -> Iterator[str]:
    points = [
        (point.epoch, point.held_out_loss)
        for point in picture.points
        if math.isfinite(point.held_out_loss)
    ]
    if len(points) < 2:
        return
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    span = (high - low) or 1.0

    def across(epoch: float) -> str:
        return f"{_LEFT + (epoch - first) / (last - first) * (_WIDE - _LEFT - 10):.1f}"

    def down(loss: float) -> str:
        return f"{10 + (high - loss) / span * (_HIGH - _BELOW - 10):.1f}"

    said = f"{picture.caption}: {low:.4g} to {high:.4g} nats, epochs {first} to {last}"
    line = " ".join(f"{across(epoch)},{down(loss)}" for epoch, loss in points)
    floor = _HIGH - _BELOW
    yield f'<figure>\n<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{text(said)}">'
    yield f'<path class="axis" fill="none" d="M{_LEFT} 10V{floor}H{_WIDE - 10}"/>'
    for number, mark in enumerate(mark for mark in picture.marks if first <= mark.epoch <= last):
        at, label = across(mark.epoch), f"{mark.layer}[{mark.seed}] {mark.stage.lower()}"
        yield f'<path class="mark" d="M{at} 10V{floor}"><title>{text(label)}</title></path>'
        yield f'<text x="{at}" y="{20 + 12 * (number % _LABELS)}">{text(label[:40])}</text>'
    yield f'<polyline class="loss" points="{line}"/>'
    yield f'<text x="4" y="18">{high:.4g}</text><text x="4" y="{floor}">{low:.4g}</text>'
    yield f'<text x="{_LEFT}" y="{_HIGH - 10}">{first}</text>'
    yield f'<text x="{_WIDE - 50}" y="{_HIGH - 10}">{last}</text>'
    yield f"</svg>\n<figcaption>{text(said)}</figcaption>\n</figure>"
