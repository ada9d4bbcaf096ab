"""Faust workers that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.processors.workers import Worker, running, shared_home


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
