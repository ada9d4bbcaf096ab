"""Workers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.processors.workers import Line, shared_home


@pytest.fixture
def line(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """What Tamiyo writes, and a producer."""
    line = Line(
        broker,
        "decision.tamiyo",
        "innovation.blueprints",
        "dead.letters",
        home=shared_home(tmp_path_factory),
    )
    yield line
    line.close()
