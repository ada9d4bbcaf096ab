"""Workers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.processors.workers import Line, Worker, running, shared_home


@pytest.fixture(scope="module")
def tamiyo(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A Tamiyo that is ready."""
    with running("tamiyo", broker, shared_home(tmp_path_factory)) as worker:
        yield worker


@pytest.fixture(scope="module")
def nissa(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A Nissa that is ready."""
    with running("nissa", broker, shared_home(tmp_path_factory)) as worker:
        yield worker


@pytest.fixture
def line(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """What Tamiyo writes, and a producer."""
    line = Line(broker, "decision.tamiyo", "innovation.blueprints", "dead.letters", home=shared_home(tmp_path_factory))
    yield line
    line.close()
