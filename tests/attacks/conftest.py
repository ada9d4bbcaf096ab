"""What attacks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.history_victim import Victim, victim


@pytest.fixture(scope="session")
def history_victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One served history for all attacks on it."""
    with victim(tmp_path_factory.mktemp("victim")) as made:
        yield made
