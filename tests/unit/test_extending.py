"""The examples of docs/extending.md are what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from esper import Task
from esper.karn import Family
from esper_processors.nissa.scene import Collector
from esper_processors.tamiyo.deciding import Bandit, Policy

TEXT = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (esper_\w+)\.py\n(.*?)```", TEXT, re.DOTALL))
MAKES = {
    "esper_halved": Family,
    "esper_ranked": Task,
    "esper_first_open": Policy,
    "esper_last": Bandit,
    "esper_grafts": Collector,
}


@pytest.mark.parametrize("name", sorted({*EXAMPLES, *MAKES}))
def test_an_example_runs_as_it_stands(name: str) -> None:
    """It makes what it is about, by the name that the text gives its entry point."""
    found: dict[str, Any] = {}
    exec(compile(EXAMPLES[name], f"{name}.py", "exec"), found)  # noqa: S102  # our own text
    if name in MAKES:
        (entry, attribute) = re.findall(rf'([\w-]+) =\s+"{name}:(\w+)"', TEXT)[-1]
        assert isinstance(found[attribute], MAKES[name])
        assert found[attribute].name == entry
