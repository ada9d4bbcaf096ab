"""A plugin of pytest for `make mutate`: mutmut 3.7 looks for a test's id where pytest had it before
9.1, and each mutant meets the same examples.

A failing example is not made smaller, which would take many times as long as finding it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutation",
    derandomize=True,
    # a mutant that is slower is no other result
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # an example kept from one mutant would be tried on the next
    database=None,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
)
settings.load_profile("mutation")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give the id its earlier name, too."""
    item._nodeid = item.nodeid  # type: ignore[attr-defined]  # noqa: SLF001  # mutmut reads it
