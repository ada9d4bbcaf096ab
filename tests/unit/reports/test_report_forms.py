"""HTML, Markdown and JSON: text of others stays text, whatever it is."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any, ClassVar

import pytest

from esper.events.records import (
    AdaptationOutcome,
    AuditRecorded,
    CounterfactualMeasured,
    EpochEnded,
    EpochReviewed,
    KernelPublished,
    KernelValidated,
    LayerInventory,
    ReviewedCommand,
    RunAnnotated,
    RunStarted,
    SeedTransitioned,
)
from esper.json_text import json_text
from esper.reports.content import RunReport, run_report
from esper.reports.html_page import html_page
from esper.reports.layout import sections, title_of
from esper.reports.markdown_text import markdown_text, plain
from esper.reports.material import EXPORT, CheckResult, KernelCopy, Material
from tests.forging import JOURNAL_RECORDS, any_event

HOSTILE = (
    '"><script src=//e.example>alert(1)</script><img onerror=x>|`b`*i*\n# h\r\n- l '
    "[a](javascript:1) ![p](http://e.example/p) & &lt; www.e.example a@e.example {{ x }} $y$ "
    "\u202egnp.exe\x1b[31m\x00"
)
EVIDENCE = json.dumps({HOSTILE: HOSTILE, "n": 1})
COMMAND = ReviewedCommand(
    decision_id=HOSTILE,
    command="GERMINATE",
    layer=HOSTILE,
    seed=0,
    kernel_id=HOSTILE,
    family=HOSTILE,
    alpha=-1.0,
    confidence=math.nan,
    urgency=1.0,
    expected_impact=math.inf,
    evidence=EVIDENCE,
)


def hostile(record: type[Any], **values: Any) -> Any:
    """An event with the hostile text wherever a text goes."""
    texts = {
        name: HOSTILE
        for name, value in vars(any_event(record)).items()
        # texts that are free: those of enumerations are not empty
        if value == "" and name not in ("signer", "signature", "previous")
    }
    return any_event(record, **{**texts, **values})


@pytest.fixture(scope="module")
def report() -> RunReport:
    """A report in which every text of others is hostile."""
    layer = LayerInventory(
        name=HOSTILE, kind=HOSTILE, in_features=1, out_features=1, parameters=1, chunks=(1,)
    )
    config = json.dumps({HOSTILE: {HOSTILE: HOSTILE}, "task": HOSTILE, "run": {"batch_size": 2}})
    versions = json.dumps({HOSTILE: HOSTILE, "data": HOSTILE, f"source of {HOSTILE}": HOSTILE})
    begun = hostile(RunStarted, config=config, versions=versions, layers=(layer,))
    rest = [hostile(record) for record in JOURNAL_RECORDS if record is not RunStarted]
    grafts = [hostile(SeedTransitioned, to_stage=stage) for stage in ("TRAINING", "CULLED")]
    ends = [
        hostile(EpochEnded, epoch=number, validation_loss=loss, test_loss=math.nan)
        for number, loss in enumerate((1.0, math.inf, 0.5))
    ]
    check = CheckResult(HOSTILE, HOSTILE, HOSTILE, 1, (HOSTILE,), (HOSTILE,), (HOSTILE,))
    material = Material(
        HOSTILE,
        EXPORT,
        (begun, *rest, *grafts, *ends),
        records=(
            hostile(EpochReviewed, commands=(COMMAND,)),
            *map(hostile, (AdaptationOutcome, AuditRecorded, KernelPublished, KernelValidated)),
            hostile(CounterfactualMeasured, mode="OPEN"),
            hostile(RunAnnotated, change="NOTED"),
        ),
        kernels={HOSTILE: KernelCopy(HOSTILE, 1, HOSTILE, HOSTILE, '{"nodes":[]}', 1, 1)},
        checks=(check,),
    )
    return run_report(material)


class Looked(HTMLParser):
    """What a browser would see: elements with attributes, and the text."""

    ALLOWED: ClassVar = {
        *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "p"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
        *("svg", "path", "polyline", "text"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.strange: list[str] = []
        self.tables = self.captions = self.heads = 0
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag not in self.ALLOWED or any(name.startswith("on") for name in names):
            self.strange.append(self.get_starttag_text() or tag)
        if names & {"href", "src", "style", "srcset"}:
            self.strange.append(self.get_starttag_text() or tag)
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.heads += tag == "th" and "scope" in names

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_html_has_no_element_of_others(report: RunReport) -> None:
    """Attack: markup in every text of the run. Expected: only our elements, no script, no link, no
    handler; each table has a caption and scoped heads; nothing invisible is left.
    """
    page = html_page(title_of(report), sections(report))
    looked = Looked()
    looked.feed(page)
    assert looked.strange == []
    assert looked.tables == looked.captions > 5
    assert looked.heads > looked.tables
    assert any("<script src=//e.example>" in text for text in looked.said)
    assert not [text for text in page if not text.isprintable() and text != "\n"]
    assert "<polyline" in page
    assert "url(" not in page
    assert "@import" not in page


def test_markdown_shows_every_text_as_it_is(report: RunReport) -> None:
    """Attack: the same in Markdown. Expected: every row of a table has as many cells as its head,
    no line but ours begins a block, and no HTML, link, image or bare address is left.
    """
    text = markdown_text(title_of(report), sections(report))
    bars = re.compile(r"(?<!\\)(?:\\\\)*\|")
    cells = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            cells = 0
            assert not line.startswith(("- ", "<", ">", "    ", "```"))
            continue
        cells = cells or len(bars.findall(line))
        assert len(bars.findall(line)) == cells, line
    assert not re.search(r"[<>]", text)
    assert not re.search(r"(?<!\\)[\[\]`$@]", text)
    assert "http://" not in text
    assert "www." not in text
    assert not [one for one in text if not one.isprintable() and one != "\n"]


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("a|b\nc", r"a\|b c"),
        ("*x* _y_ `z`", r"\*x\* \_y\_ \`z\`"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        (r"\| ", r"\\\|"),
        ("https://e.example 10:30", r"https\://e.example 10:30"),
        ("WWW.e.example", r"WWW\.e.example"),
    ],
)
def test_marks_are_escaped(given: str, safe: str) -> None:
    """Claim: what Markdown would take for a mark is shown."""
    assert plain(given) == safe


def test_json_is_strict(report: RunReport) -> None:
    """Claim: numbers that JSON has no text for are null, and texts come back as they were."""

    def refused(constant: str) -> None:
        raise ValueError(constant)

    text = json_text(report.as_json(), sort_keys=True)
    back = json.loads(text, parse_constant=refused)
    assert back["run"]["run_id"] == HOSTILE
    losses = [point["held_out_loss"] for point in back["training"]["curve"]]
    assert None in losses
    assert back["integrity"]["checks"][0]["status"] == "failed"
