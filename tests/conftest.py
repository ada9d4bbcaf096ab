"""Fixtures that every test may use, and which tests share a worker.

A file's tests run one after another in one worker. Those that start whole stacks are one group: two of them at a time would only wait for each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

pytest_plugins = ("tests.stackfixtures",)

settings.register_profile("shared machine", deadline=None)  # what takes 5 ms takes 500 beside others
if settings.get_current_profile_name() == "default":
    settings.load_profile("shared machine")

TESTS = Path(__file__).parent
WHOLE = ("integration/run", "integration/stack", "chaos/run", "chaos/stack", "bench")
"""Folders whose tests start a stack; they are begun first, because they take longest."""


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # the same
    """Which tests go to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "whole" if path.removeprefix("tests/").startswith(WHOLE) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Give each group to a worker, in the order of the tests."""
    return Groups(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long ones in front."""
    items.sort(key=lambda item: not item.path.relative_to(TESTS).as_posix().startswith(WHOLE))
