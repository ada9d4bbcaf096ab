"""Fixtures that every test may use, and which tests share a worker.

A file's tests run one after another in one worker. Those that start whole stacks are one group: two of them at a time would only wait for each other.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ("tests.stackfixtures",)

settings.register_profile("shared machine", deadline=None)  # what takes 5 ms takes 500 beside others
if settings.get_current_profile_name() == "default":
    settings.load_profile("shared machine")

TESTS = Path(__file__).parent
WHOLE = ("integration/run", "integration/stack", "chaos/run", "chaos/stack", "bench")
"""Folders whose tests start a stack; they are begun first, because they take longest."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test's group, and put the long ones in front."""

    def whole(item: pytest.Item) -> bool:
        return item.path.relative_to(TESTS).as_posix().startswith(WHOLE)

    for item in items:
        item.add_marker(pytest.mark.xdist_group("whole" if whole(item) else item.path.relative_to(TESTS).as_posix()))
    items.sort(key=lambda item: not whole(item))
