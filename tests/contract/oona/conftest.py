"""Each contract test runs on every implementation of the bus."""

from __future__ import annotations

import pytest

from esper.oona.bus.port import Bus
from tests.contract.oona.worlds import KafkaWorld, MemoryWorld, World


@pytest.fixture(params=["kafka", "memory"])
def world(request: pytest.FixtureRequest) -> World:
    """Each implementation in turn."""
    return (
        KafkaWorld(request.getfixturevalue("broker")) if request.param == "kafka" else MemoryWorld()
    )


@pytest.fixture
def bus(world: World) -> Bus:
    """The bus of that implementation."""
    return world.bus
