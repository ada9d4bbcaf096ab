"""Names that come out of events and files and become names of folders and objects."""

from __future__ import annotations

import re
from typing import Final

RUN_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""What a run id, and so the name of a family, looks like: it names a folder."""

KERNEL_ID: Final = r"[A-Za-z0-9_-]{1,128}"
"""What a kernel id looks like; a real one is a SHA-256 in hexadecimal."""

SHA256: Final = r"[0-9a-f]{64}"

MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Python raises on values that are not what they should be."""

_RUN_ID: Final = re.compile(RUN_ID, re.ASCII)


def is_run_id(text: str) -> bool:
    """Whether a text can be the id of a run."""
    return _RUN_ID.fullmatch(text) is not None
