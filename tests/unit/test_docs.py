"""The documentation is true where that can be told: links lead somewhere, commands and options that
it shows are there, and the whole of it becomes a site.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from esper.cli import app
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "deploy/**/*.md", "esper/**/*.md", "processors/**/*.md")
    for path in ROOT.glob(pattern)
)
COMMAND = re.compile(r"(?:^|`|&& |\$ )(?:\.venv/bin/)?esper ([a-z][^`#\n]*)", re.MULTILINE)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def commands(text: str) -> list[str]:
    """What stands behind `esper` in blocks and between backticks."""
    block = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
    shown = [*block.findall(text), *re.findall(r"`[^`\n]+`", block.sub("", text))]
    return [found for part in shown for found in COMMAND.findall(part)]


def words(line: str) -> list[str]:
    """The words of a command line, up to where another command begins."""
    try:
        found = shlex.split(line, posix=True)
    except ValueError:  # a query that goes on in another line
        found = line.split()
    return [one.strip("[].,)") for one in found]


def wrong(found: list[str]) -> str:
    """What of a command line is none of Esper's."""
    command: Any = typer.main.get_command(app)
    path: list[str] = []
    for word in found:
        inner = getattr(command, "commands", {})
        if not inner or word not in inner:
            break
        command = inner[word]
        path.append(word)
    if not path:
        return f"no command {found[0]}"
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for word in found[len(path) :]:
        if word in ("|", "&&", ";", "--", ">"):
            break
        if word.startswith("--") and word.split("=")[0] not in known | {"--help", "--debug"}:
            return f"esper {' '.join(path)} has no {word}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Within the repository: to a file, a folder, and a heading of a page."""
    page = ROOT / name
    lost = []
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(#[^)\s]*)?\)", page.read_text()):
        there = page.parent / target if target else page
        if not there.exists():
            lost.append(target)
        elif anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            made = [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings]
            if anchor[1:] not in made:
                lost.append(f"{target}{anchor}")
    assert lost == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_there(name: str) -> None:
    """With the options that are shown."""
    lines = commands((ROOT / name).read_text())
    assert [(line, said) for line in lines if (said := wrong(words(line)))] == []


def test_commands_are_found_at_all() -> None:
    """In blocks, between backticks, behind a prompt; and one that is none is told."""
    text = "```\n$ .venv/bin/esper run x --nope\n```\nSay `esper sql --wrong '1'`, `esper oops`."
    assert [wrong(words(line)) for line in commands(text)] == [
        "esper run has no --nope",
        "esper sql has no --wrong",
        "no command oops",
    ]
    assert len(commands((ROOT / "README.md").read_text())) > 15


def test_a_newcomer_s_page_is_short() -> None:
    """What it is, a run, one's own model, where to read on."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_site_is_built(tmp_path: Path) -> None:
    """Without a warning; with every page, and a reference that the code has written."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.build_docs", str(tmp_path / "docs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    html = tmp_path / "docs/html"
    assert [name for name in NAMES if not (html / name).with_suffix(".html").is_file()] == []
    reference = html / "docs/reference"
    for page, has in (
        ("commands", "esper replay verify"),
        ("recipe", "gates.min_gain"),
        ("settings", "ESPER_ALERTS__WEBHOOK_URL"),
        ("events", "AlertRaised"),
        ("tables", "seed_timeline"),
    ):
        assert has in (reference / f"{page}.html").read_text()
