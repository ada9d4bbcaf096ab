"""What attacks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.history_victim import Victim, victim
from tests.securedbroker import Secured, secured_broker


@pytest.fixture(scope="package")
def history_victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One served history for all attacks on it."""
    with victim(tmp_path_factory.mktemp("victim")) as made:
        yield made


@pytest.fixture(scope="package")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The secured embedded broker with all of Esper's topics."""
    with secured_broker(tmp_path_factory.mktemp("kafka-victim")) as found:
        yield found
