"""The glossary names every term once, and where it is defined."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/glossary.md").read_text()
TERMS = re.findall(r"^\| ([^|]+?) \| [^|]+ \| `([\w.]+)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("term", "module"), TERMS, ids=[term for term, _ in TERMS])
def test_a_term_names_a_module_that_exists(term: str, module: str) -> None:
    """A module that moves takes its terms along."""
    assert importlib.util.find_spec(module) is not None, f"{term}: there is no module {module}"


def test_every_row_is_a_term_and_no_term_has_two() -> None:
    """A row that the test above cannot read would be left out of it without a word."""
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| term |"))
    ]
    names = [term for term, _ in TERMS]
    assert len(rows) == len(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "docs/extending.md"])
def test_a_newcomer_is_led_to_it(page: str) -> None:
    """By a link that leads there."""
    links = re.findall(r"\]\(([^)#]*glossary\.md)\)", (ROOT / page).read_text())
    assert links
    assert all(((ROOT / page).parent / link).is_file() for link in links)
