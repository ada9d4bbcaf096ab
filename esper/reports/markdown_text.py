"""A report as Markdown (CommonMark with GitHub's tables). Pure.

Whatever comes from others is text and stays text: marks, links, HTML and line breaks in it do
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from esper.errors import printable
from esper.reports.layout import ReportSection, ReportTable

_MARKS: Final = re.compile(r"[\\`*_\[\]{}|~$@#]|:(?=//)")
_HTML: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_WEB: Final = re.compile(r"(?i)www\.")


def markdown_text(title: str, sections: Sequence[ReportSection]) -> str:
    """The whole file."""
    lines = [f"# {plain(title)}", ""]
    for section in sections:
        lines += [f"## {plain(section.title)}", ""]
        for sentence in section.sentences:
            lines += [plain(sentence), ""]
        for table in section.tables:
            lines += [*_table(table), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one_line = printable(" ".join(text.split()))
    marked = _MARKS.sub(lambda mark: f"\\{mark.group()}", one_line)
    for mark, name in _HTML.items():
        marked = marked.replace(mark, name)
    # without a mark of its own a link is made of a bare address
    return _WEB.sub(lambda found: f"{found.group()[:-1]}\\.", marked)


def _table(table: ReportTable) -> Iterator[str]:
    yield f"**{plain(table.caption)}**"
    yield ""
    yield _row(table.columns)
    yield _row(["---"] * len(table.columns), ready=True)
    for row in table.rows:
        yield _row(row)


def _row(cells: Sequence[str], *, ready: bool = False) -> str:
    return f"| {' | '.join(cells if ready else map(plain, cells))} |"
