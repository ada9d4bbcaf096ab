"""Where commands say what they do: standard error, a sentence a line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def standard_error() -> Console:
    """Lines are wrapped on a terminal alone: in a file or a pipe a sentence stays one line, which
    can be searched, and a path in it stays whole.
    """
    from rich.console import Console  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    return Console(stderr=True, soft_wrap=not sys.stderr.isatty())
