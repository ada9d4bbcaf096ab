"""JSON for scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """A value as JSON; a number that is not finite, which JSON has no text for, is null."""
    return json.dumps(_finite(value), sort_keys=sort_keys, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, tuple | list) else value
