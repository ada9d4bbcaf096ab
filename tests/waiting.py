"""Waiting in tests: always for a condition, with a patience that a busy machine does not exhaust.

That something is quick is measured by `esper bench`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from esper.clock import SystemClock

PATIENCE_S: Final = 300.0
"""How long a test waits for what has to come.

Only a fault makes it wait so long; the limit on a test (`timeout` in pyproject.toml) is a multiple.
"""
A_WHILE_S: Final = 1.5
"""How long a test looks on where nothing may happen."""
_POLL_S: Final = 0.02
_CLOCK: Final = SystemClock()


def eventually(condition: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    """Whether `condition` comes true."""
    ends = _CLOCK.monotonic() + seconds
    while not condition():
        if _CLOCK.monotonic() > ends:
            return False
        _CLOCK.sleep(_POLL_S)
    return True


def until(condition: Callable[[], object], what: str | Callable[[], object] = "") -> None:
    """Wait until `condition` comes true.

    Where it does not, the test fails with `what` was waited for, or with what `what` gives then.
    """
    if not eventually(condition):
        pytest.fail(f"not within {PATIENCE_S:.0f} s: {what() if callable(what) else what}")


def never(condition: Callable[[], object]) -> bool:
    """Whether `condition` stays false for a while.

    Proves little, and can only be wrong in favour of what is tested.
    """
    return not eventually(condition, A_WHILE_S)
